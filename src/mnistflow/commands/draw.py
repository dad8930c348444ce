"""A page to draw on: `python -m mnistflow.commands.draw [MODEL]` writes draw.html.

The page holds a trained network: its weights, and its layers in JavaScript. So it needs no server and no network, and
can be sent as a file. It shows images of the validation part; it never opens the test set. DVC does not track it,
because everything in it is an output already, or code.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnistflow.commands import pages, predict
from mnistflow.core import cli, files, params
from mnistflow.core.errors import WorkflowError
from mnistflow.data import arrays
from mnistflow.data.arrays import Description, Images, Labels, Split
from mnistflow.evaluation.metrics import Probabilities

PAGE = Path("draw.html")
TEMPLATE = "draw.html.jinja"
SCRIPTS = ("draw.network.js", "draw.preparation.js", "draw.words.js", "draw.layers.js", "draw.js")
EXAMPLES = 24  # validation images on the page
BATCH = 1000  # images

# The layers that draw.network.js computes, by Keras' names, and the only values that it knows of some of their options.
KINDS: dict[str, dict[str, Any]] = {
    "Activation": {},
    "AveragePooling2D": {"data_format": "channels_last"},
    "BatchNormalization": {},
    "Conv2D": {"data_format": "channels_last", "dilation_rate": (1, 1), "groups": 1},
    "Dense": {},
    "Dropout": {},
    "Flatten": {},
    "GlobalAveragePooling2D": {"data_format": "channels_last"},
    "MaxPooling2D": {"data_format": "channels_last"},
    "ReLU": {"max_value": None, "negative_slope": 0.0, "threshold": 0.0},
    "Rescaling": {},
    "Reshape": {},
    "Softmax": {"axis": -1},
}
ACTIVATIONS = ("linear", "relu", "softmax")


class Network(NamedTuple):
    """A trained network as the page has it."""

    layers: list[dict[str, Any]]
    weights: npt.NDArray[np.float32]  # of all layers, one after the other


class Examples(NamedTuple):
    """Validation images to start from, and what the network says about each."""

    images: Images
    labels: Labels
    probabilities: Probabilities
    right: int  # of all validation images
    total: int


def export(model: Any) -> Network:
    """The layers of a chain, each with its options and where its arrays are in `weights`.

    Raises:
        WorkflowError: there is a layer that the page can't compute, or it is no chain.
    """
    _check_chain(model)
    layers: list[dict[str, Any]] = []
    weights: list[npt.NDArray[np.float32]] = []
    end = 0
    for layer in _layers(model):
        kind = type(layer).__name__
        ranges = []
        for values in _arrays(layer, kind):
            weights.append(values.ravel())
            ranges.append([end, values.size])
            end += values.size
        exported = {
            "name": layer.name,
            "kind": kind,
            "shape": list(layer.output.shape[1:]),
            "parameters": layer.count_params(),
            "activation": _activation(layer, kind),
            "arrays": ranges,
        }
        window = getattr(layer, "kernel_size" if kind == "Conv2D" else "pool_size", None)
        if window:
            exported |= {"window": list(window), "strides": list(layer.strides), "padding": layer.padding}
        layers.append(exported)
    return Network(layers, np.concatenate([*weights, np.zeros(0, np.float32)]))


def _layers(model: Any) -> list[Any]:
    return [layer for layer in model.layers if type(layer).__name__ != "InputLayer"]


def _check_chain(model: Any) -> None:
    """Check each layer, and that nothing happens to the numbers between one layer and the next."""
    from mnistflow.training.backend import keras  # TensorFlow takes seconds to import

    is_sequential = isinstance(model, keras.Sequential)  # a chain always; its layers keep inputs of earlier builds too
    numbers = model.inputs[0]
    for layer in _layers(model):
        _check(layer, type(layer).__name__)
        if not is_sequential and layer.input is not numbers:
            raise WorkflowError(
                f"the page can't compute the layer {layer.name}: it does not take what the layer before it gives; "
                f"a chain of layers is expected, without branches and without operations between them."
            )
        numbers = layer.output
    if not is_sequential and model.outputs[0] is not numbers:
        raise WorkflowError("the page can't compute what follows the last layer; a chain of layers is expected.")


def _check(layer: Any, kind: str) -> None:
    if kind not in KINDS:
        raise WorkflowError(
            f"the page can't compute the layer {layer.name}, of the kind {kind}; only {', '.join(KINDS)} are known, "
            f"so add it to LAYERS in src/mnistflow/commands/draw.network.js and to KINDS in draw.py."
        )
    for option, known in KINDS[kind].items():
        if (value := getattr(layer, option)) != known:
            raise WorkflowError(
                f"the page can't compute the layer {layer.name}: its {option} is {value}; {known} is expected."
            )
    if kind == "BatchNormalization" and layer.axis not in (-1, len(layer.output.shape) - 1):
        raise WorkflowError(f"the page can't compute the layer {layer.name}: its axis is {layer.axis}, not the last.")
    if (activation := _activation(layer, kind)) not in ACTIVATIONS:
        raise WorkflowError(
            f"the page can't compute the layer {layer.name}: its activation is {activation}; "
            f"one of {', '.join(ACTIVATIONS)} is expected."
        )


def _activation(layer: Any, kind: str) -> str:
    if kind in ("ReLU", "Softmax"):
        return kind.lower()
    name: str = layer.activation.__name__ if hasattr(layer, "activation") else "linear"
    return name


def _arrays(layer: Any, kind: str) -> list[npt.NDArray[np.float32]]:
    """The kernel and the bias, or a factor and a shift for each channel."""
    if kind == "Rescaling":
        return [np.atleast_1d(np.asarray(value, np.float32)) for value in (layer.scale, layer.offset)]
    arrays = [np.asarray(values, np.float32) for values in layer.get_weights()]
    if kind != "BatchNormalization":
        return arrays
    mean, variance = arrays[-2:]
    factor = 1 / np.sqrt(variance + np.float32(layer.epsilon))
    factor *= arrays[0] if layer.scale else 1
    return [factor, (arrays[-3] if layer.center else 0) - mean * factor]


def examples(model: Any, dataset: Description) -> Examples | None:
    """Validation images that the network classifies wrongly, the most confident first, and one right one per class.

    None where the validation images are the test set's, as in the book's way, or another data set's than the model's.
    """
    if dataset.validation == "test" or dataset != arrays.describe():
        return None
    validation = arrays.load(arrays.DATA / "validation")
    probabilities = np.asarray(model.predict(validation.images, batch_size=BATCH, verbose=0))
    chosen = choose(probabilities, validation)
    right = int((probabilities.argmax(axis=1) == validation.labels).sum())
    images, labels = arrays.take(validation.images, chosen), validation.labels[chosen]
    return Examples(images, labels, probabilities[chosen], right, len(validation.labels))


def choose(probabilities: Probabilities, validation: Split) -> npt.NDArray[np.intp]:
    """The indices of at most EXAMPLES images: first the right ones, in the order of their classes, then the wrong."""
    predictions, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    is_wrong = predictions != validation.labels
    classes = [np.flatnonzero(~is_wrong & (validation.labels == label)) for label in range(probabilities.shape[1])]
    right = np.array([indices[0] for indices in classes if indices.size], np.intp)[: EXAMPLES // 2]
    wrong = np.flatnonzero(is_wrong)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    return np.concatenate([right, wrong[: EXAMPLES - len(right)]])


def render(name: str, model: Any, dataset: Description, shown: Examples | None) -> str:
    """The page as HTML; the same model and images give the same text.

    Raises:
        WorkflowError: there is a layer that the page can't compute.
    """
    network = export(model)
    facts = {
        "name": name,
        "dataset": dataset.dataset,
        "shape": dataset.shape,
        "classes": dataset.classes,
        "digit": dataset.prepare == "digit",
        "sure": predict.SURE,
        "parameters": model.count_params(),
        "layers": network.layers,
        "right": shown and shown.right,
        "total": shown and shown.total,
        "labels": shown.labels.tolist() if shown else [],
        "expected": shown.probabilities.tolist() if shown else [],
    }
    return pages.render(
        TEMPLATE,
        facts=facts,
        weights=pages.encode(network.weights.astype("<f4").tobytes()),
        images=pages.encode(shown.images.tobytes()) if shown else "",
        scripts=pages.scripts(SCRIPTS),
    )


def main(name: str = "") -> None:
    """Write the page for a model: of params.yaml, a .keras file, or an address in MLflow."""
    name = name or params.load().evaluate.model
    model, dataset = predict.load(name)
    files.write_text(PAGE, render(name, model, dataset, examples(model, dataset)))
    print(f"{PAGE}: {name}, {PAGE.stat().st_size / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    cli.run(main)
