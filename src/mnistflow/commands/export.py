"""The selected model for other programs, as ONNX and as LiteRT: `python -m mnistflow.commands.export [MODEL]`.

Keras writes both (`Model.export`). Each file is run by its own runtime on all test images, and takes its place in
export/ only if its answers are those of Keras. The packages for it are the extra `export`; `make export` installs them.
"""

import os
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mnistflow.core import cli, files, params
from mnistflow.core.errors import WorkflowError
from mnistflow.data import arrays
from mnistflow.data.arrays import Images
from mnistflow.evaluation.metrics import Predict, Probabilities

FOLDER = Path("export")
PACKAGES = ("tf2onnx", "onnxruntime", "ai_edge_litert")
BATCH = 1000
ALONE = 200  # images that are classified one at a time, for the time of one
TOLERANCE = 1e-4  # of a probability


def onnx(path: Path) -> Predict:
    """What classifies images with an ONNX file, in ONNX Runtime on the processor."""
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: Images) -> Probabilities:
        return np.asarray(session.run(None, {name: images})[0])

    return run


def litert(path: Path) -> Predict:
    """What classifies images with a LiteRT file, in LiteRT's interpreter on the processor."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=os.cpu_count())
    input_index = interpreter.get_input_details()[0]["index"]
    output_index = interpreter.get_output_details()[0]["index"]
    size = 0

    def run(images: Images) -> Probabilities:
        nonlocal size
        if len(images) != size:
            size = len(images)
            interpreter.resize_tensor_input(input_index, images.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(input_index, images)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(output_index))  # a copy: the next call writes into it

    return run


FORMATS = {"onnx": (".onnx", onnx), "litert": (".tflite", litert)}  # Keras' name -> the file's suffix, the runtime


def classify(run: Predict, images: Images) -> tuple[Probabilities, float, float]:
    """The probabilities of all images, and the milliseconds an image takes in a batch and alone."""
    run(images[:BATCH])  # sets up
    started = time.perf_counter()
    parts = [run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    together = 1000 * (time.perf_counter() - started) / len(images)
    singles = images[:ALONE]
    run(singles[:1])
    started = time.perf_counter()
    for index in range(len(singles)):
        run(singles[index : index + 1])
    return np.concatenate(parts), together, 1000 * (time.perf_counter() - started) / len(singles)


def check_installed() -> None:
    """Check that the extra is there, and that Keras runs on TensorFlow.

    Raises:
        WorkflowError: not so.
    """
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        raise WorkflowError(f"{', '.join(missing)}: not installed; `make export` installs requirements-export.lock.")
    from mnistflow.training import backend

    if backend.NAME != "tensorflow":
        raise WorkflowError(f"KERAS_BACKEND is {backend.NAME}; only on tensorflow, Keras writes both formats.")


def load(name: str) -> Any:
    """The trained model of a section of params.yaml.

    Raises:
        WorkflowError: there is no such model, or it is not the pipeline's.
    """
    known, path = params.load().models, files.MODELS / name / "model.keras"
    if name not in known:
        raise WorkflowError(f"there is no model {name};{params.nearest(name, known)}.")
    files.check_locked(path)
    from mnistflow.training import archive  # its import of TensorFlow takes seconds, so it comes after the checks

    return archive.load(path)


def main(name: str = "") -> None:
    """Write the model's files, and print how they compare with Keras."""
    name = name or params.load().evaluate.model
    check_installed()
    model, images = load(name), np.asarray(arrays.load(arrays.DATA / "test").images)
    source = files.MODELS / name / "model.keras"
    expected, *times = classify(model.predict_on_batch, images)
    width = len(str(source))
    print(f"{'file':{width}}        size  ms an image  alone   same class as Keras  largest difference")
    print(row(source, source, width, times))
    for kind, (suffix, runtime) in FORMATS.items():
        path = FOLDER / f"{name}{suffix}"
        with files.replacing(path) as temporary:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Keras' own, about NumPy 2
                model.export(temporary, format=kind, verbose=False)
            probabilities, *times = classify(runtime(temporary), images)
            difference = float(np.abs(probabilities - expected).max())
            same = int((probabilities.argmax(axis=1) == expected.argmax(axis=1)).sum())
            agreement = f"{same:,} of {len(images):,}"
            print(f"{row(path, temporary, width, times)}  {agreement:>20}  {difference:18.1e}", flush=True)
            if not difference <= TOLERANCE:
                raise WorkflowError(
                    f"{path} is not written: its probabilities differ from Keras' by up to {difference:.1e}, "
                    f"more than {TOLERANCE:g}."
                )
    print(f"Timed on all {len(images):,} test images in batches of {BATCH:,}, and on {ALONE} of them one at a time.")


def row(path: Path, file: Path, width: int, times: list[float]) -> str:
    """The beginning of a row: the name of a file, its size and times."""
    together, alone = times
    return f"{path!s:{width}}  {file.stat().st_size / 1000:7,.0f} kB  {together:11.3f}  {alone:5.2f}"


if __name__ == "__main__":
    cli.run(main)
