"""The chapter as a lesson, one idea a screen: `python -m mnistflow.commands.lesson` writes lesson.html.

For a projector and for reading alone, in English and Korean. The page is made from DVC's outputs and params.yaml. It
needs no server and no network; the network that `explain.model` names is in it and runs there. DVC does not track it,
because everything in it is an output already, or code.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnistflow.commands import draw, pages, report
from mnistflow.core import cli, files, params
from mnistflow.core.errors import WorkflowError
from mnistflow.data import arrays
from mnistflow.data.arrays import Description, Images, Split
from mnistflow.evaluation import audit, predictions
from mnistflow.evaluation.predictions import Predictions
from mnistflow.figures import results
from mnistflow.figures.lesson import KERNEL, PICTURE
from mnistflow.training import history
from mnistflow.training.history import Epoch

PAGE = Path("lesson.html")
TEMPLATE = "lesson.html.jinja"
SCRIPTS = ("draw.network.js", "draw.preparation.js", "lesson.figures.js", "lesson.js")
CLASSES = 12  # of many, those whose images are shown
SAMPLES = 12  # images of each of them
ERRORS = 24
DISPUTED = 18
RISE = 1.05  # the validation loss at the end, over its lowest: from here on, the lesson calls it overfitting
BOOK = 0.9928  # test accuracy that the chapter reports for its CNN on MNIST


class Networks(NamedTuple):
    """What the page needs of the trained networks."""

    explained: draw.Network
    rates: dict[str, float]  # of its dropout layers, by name
    # The first model that has dense layers alone: its `name`, and its `units` from the input to the output.
    dense: dict[str, Any] | None


def samples(training: Split, classes: int) -> list[Images]:
    """The first SAMPLES training images of each of the first CLASSES classes."""
    rows = []
    for label in range(min(classes, CLASSES)):
        chosen = np.flatnonzero(training.labels == label)[:SAMPLES]
        rows.append(np.asarray(arrays.take(training.images, chosen)))
    return rows


def overfitting(histories: Mapping[str, Sequence[Epoch]]) -> str | None:
    """The model whose validation loss rises most after its best epoch while its training loss falls, if one does so."""
    rises = {
        name: rows[-1].val_loss / history.best(rows).val_loss
        for name, rows in histories.items()
        if rows[-1].loss < history.best(rows).loss
    }
    worst = max(rises, key=rises.__getitem__, default=None)
    return worst if worst and rises[worst] >= RISE else None


def pools_before_relu(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of max pooling layers right before a ReLU. The book has ReLU first, which gives the same numbers."""
    pairs = pairwise(layers)
    return [
        one["name"]
        for one, other in pairs
        if one["kind"] == "MaxPooling2D" and other["activation"] == "relu" and other["kind"] in ("ReLU", "Activation")
    ]


def errors(evaluation: Predictions) -> list[dict[str, Any]]:
    """The first ERRORS of a model, the most confident first."""
    classes, positions = evaluation.classes, evaluation.most_confident_errors(ERRORS)
    return [
        {
            "picture": report.picture(evaluation.error_images[position]),
            "label": classes[evaluation.labels[index]],
            "answer": classes[evaluation.predictions[index]],
            "confidence": float(evaluation.confidence[index]),
        }
        for position, index in zip(positions, evaluation.errors[positions], strict=True)
    ]


def disputed(
    audited: Mapping[str, Any], evaluations: dict[str, Predictions], classes: list[str]
) -> list[dict[str, Any]]:
    """The disputed images that any model got wrong (of others, no pixels are kept), each with people's votes."""
    pixels = audit.pixels(evaluations)
    rows = [row for row in audited["disputed"] if row["index"] in pixels]
    return [
        {
            "picture": report.picture(pixels[row["index"]]),
            "label": classes[row["label"]],
            "votes": [
                (name, row[votes])
                for name, votes in (
                    (classes[row["label"]], "for_label"),
                    (classes[row["other"]], "for_other"),
                    ("?", "for_neither"),
                )
                if row[votes]
            ],
        }
        for row in rows[:DISPUTED]
    ]


def heaviest(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The dense layer that has more than half of all parameters, if there is one."""
    total = sum(layer["parameters"] for layer in layers)
    for layer in layers:
        if layer["kind"] == "Dense" and 2 * layer["parameters"] > total:
            return {"name": layer["name"], "units": layer["shape"][-1], "share": 100 * layer["parameters"] / total}
    return None


def load(names: Sequence[str], explained: str) -> Networks:
    """What the page needs of the trained networks.

    Raises:
        WorkflowError: one is missing, or the explained one has a layer that the page can't compute.
    """
    # Here, because TensorFlow takes seconds to import, in which Ctrl-C should end in one sentence too.
    from mnistflow.training import archive

    dense = None
    for name in names:
        path = files.MODELS / name / "model.keras"
        files.check_locked(path)
        model = archive.load(path)
        if name == explained:
            network = export(model)
            rates = {layer.name: layer.rate for layer in model.layers if type(layer).__name__ == "Dropout"}
        if dense is None and (units := dense_units(model)):
            dense = {"name": name, "units": units}
    return Networks(network, rates, dense)


def export(model: Any) -> draw.Network:
    """The layers of the model that `explain.model` names, for the page.

    Raises:
        WorkflowError: there is a layer that the page can't compute.
    """
    try:
        return draw.export(model)
    except WorkflowError as error:
        raise WorkflowError(f"{error} Or let explain.model in params.yaml name another model.") from error


def dense_units(model: Any) -> list[int]:
    """The numbers from the input to the output of a network of dense layers alone; empty for another network."""
    kinds = [type(layer).__name__ for layer in model.layers]
    if not {"Dense"} <= set(kinds) <= {"InputLayer", "Rescaling", "Flatten", "Dense", "Dropout"}:
        return []
    layers = [layer for layer in model.layers if type(layer).__name__ == "Dense"]
    return [layers[0].kernel.shape[0], *(layer.units for layer in layers)]


def render(dataset: Description, networks: Networks) -> str:
    """The page as HTML; the same outputs and settings give the same text.

    Raises:
        WorkflowError: an output is missing or damaged.
    """
    settings = params.load()
    names, selected = settings.model_names(), settings.evaluate.model
    evaluations = predictions.read_all(names)
    histories = {name: history.read(files.MODELS / name / "history.csv") for name in names}
    audited = files.read_json(files.METRICS / "audit.json")
    training = arrays.load(arrays.DATA / "training")
    images = samples(training, len(dataset.classes))
    firsts = [(label, row[0]) for label, row in enumerate(images) if len(row)]
    layers = networks.explained.layers
    convolution = next((layer for layer in layers if layer["kind"] == "Conv2D"), None)
    channels = (
        convolution["arrays"][0][1] // (convolution["shape"][-1] * math.prod(convolution["window"]))
        if convolution
        else 0
    )
    rows = {layer["shape"][-1] for layer in layers if len(layer["shape"]) == 1}
    book = BOOK if dataset.dataset == "mnist" else None
    facts = {
        "shape": dataset.shape,
        "classes": dataset.classes,
        "digit": dataset.prepare == "digit",
        "layers": layers,
        "labels": [label for label, _ in firsts],
        "label": settings.explain.label,
        "picture": PICTURE.tolist(),
        "kernel": KERNEL.tolist(),
        "rates": networks.rates,
        "dense": networks.dense and networks.dense["units"],
        "histories": [
            {"name": name, "rows": [asdict(row) for row in rows], "best": history.best(rows).epoch}
            for name, rows in histories.items()
        ],
        "models": [
            {
                "name": name,
                "accuracy": each.metrics["accuracy"],
                "low": each.metrics["accuracy_low"],
                "high": each.metrics["accuracy_high"],
            }
            for name, each in evaluations.items()
        ],
        "book": book,
        "overfitting": overfitting(histories),
        "top": results.loss_limit(histories.values()),
    }
    return pages.render(
        TEMPLATE,
        facts=facts,
        name=settings.explain.model,
        selected=selected,
        dataset=dataset,
        book=book,
        on_test=dataset.validation == "test",
        parts={
            "training": len(training.labels),
            "validation": len(arrays.load(arrays.DATA / "validation").labels),
            "test": len(evaluations[selected].labels),
        },
        counts=np.bincount(training.labels, minlength=len(dataset.classes)).tolist()[: len(images)],
        samples=[[report.picture(image) for image in row] for row in images],
        metrics={name: each.metrics for name, each in evaluations.items()},
        dense=networks.dense,
        rates=networks.rates,
        convolution=convolution,
        channels=channels,
        swapped=pools_before_relu(layers),
        total=sum(layer["parameters"] for layer in layers),
        heaviest=heaviest(layers),
        lengths={count: math.log(count + 1) / math.log(max(rows) + 1) for count in rows},
        errors=errors(evaluations[selected]),
        answer=audit.answer(audited),
        disputed=disputed(audited, evaluations, dataset.classes),
        weights=pages.encode(networks.explained.weights.astype("<f4").tobytes()),
        images=pages.encode(b"".join(image.tobytes() for _, image in firsts)),
        scripts=pages.scripts(SCRIPTS),
    )


def main() -> None:
    """Write the page."""
    settings = params.load()
    files.write_text(PAGE, render(arrays.describe(), load(settings.model_names(), settings.explain.model)))
    print(f"{PAGE}: with {settings.explain.model}, {PAGE.stat().st_size / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    cli.run(main)
