"""The networks: a function each, from raw 0-255 pixels to ten probabilities."""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any
from zipfile import BadZipFile, ZipFile, ZipInfo

from mnistflow.backend import keras
from mnistflow.datasets import CLASSES, SIZE
from mnistflow.workspace import WorkflowError, replacing

layers = keras.layers


def dense() -> Any:
    """The book's baseline: one hidden layer. 407,050 parameters."""
    return keras.Sequential(
        [
            layers.Input((SIZE, SIZE), dtype="uint8", name="pixels"),
            layers.Rescaling(1 / 255, name="scale"),
            layers.Flatten(name="flatten"),
            layers.Dense(512, activation="relu", name="hidden"),
            layers.Dense(CLASSES, activation="softmax", name="probabilities"),
        ],
        name="dense",
    )


def cnn() -> Any:
    """The book's network: two convolutions, then two dense layers. 1,199,882 parameters.

    The second ReLU comes after the pooling instead of before it: the maximum and ReLU commute, so the function is the
    same, and ReLU has a quarter of the values to look at.
    """
    return keras.Sequential(
        [
            layers.Input((SIZE, SIZE), dtype="uint8", name="pixels"),
            layers.Rescaling(1 / 255, name="scale"),
            layers.Reshape((SIZE, SIZE, 1), name="channel"),
            layers.Conv2D(32, 3, activation="relu", name="conv1"),
            layers.Conv2D(64, 3, name="conv2"),
            layers.MaxPooling2D(2, name="pool"),
            layers.ReLU(name="relu2"),
            layers.Dropout(0.25, name="dropout1"),
            layers.Flatten(name="flatten"),
            layers.Dense(128, activation="relu", name="hidden"),
            layers.Dropout(0.5, name="dropout2"),
            layers.Dense(CLASSES, activation="softmax", name="probabilities"),
        ],
        name="cnn",
    )


def compact() -> Any:
    """Three small convolutions, two with batch normalization. 29,610 parameters, 192 of them running statistics.

    The first convolution goes without: a normalization there takes an eighth of an epoch, and improves nothing on the
    validation images. Running statistics look back some ten steps, not Keras' hundred: a whole training may have only a
    few hundred.
    """
    return keras.Sequential(
        [
            layers.Input((SIZE, SIZE), dtype="uint8", name="pixels"),
            layers.Rescaling(1 / 255, name="scale"),
            layers.Reshape((SIZE, SIZE, 1), name="channel"),
            layers.Conv2D(16, 5, name="conv1"),
            layers.MaxPooling2D(2, name="pool1"),
            layers.ReLU(name="relu1"),
            # Batch normalization has a bias of its own.
            layers.Conv2D(32, 3, use_bias=False, name="conv2"),
            layers.MaxPooling2D(2, name="pool2"),
            layers.BatchNormalization(momentum=0.9, name="norm2"),
            layers.ReLU(name="relu2"),
            layers.Conv2D(64, 3, use_bias=False, name="conv3"),
            layers.BatchNormalization(momentum=0.9, name="norm3"),
            layers.ReLU(name="relu3"),
            layers.Flatten(name="flatten"),
            layers.Dropout(0.2, name="dropout"),
            layers.Dense(CLASSES, activation="softmax", name="probabilities"),
        ],
        name="compact",
    )


MODELS: Mapping[str, Callable[[], Any]] = MappingProxyType({"dense": dense, "cnn": cnn, "compact": compact})


def summary(model: Any) -> str:
    """Keras' table of layers, output shapes and parameter counts, as plain text."""
    lines: list[str] = []
    model.summary(print_fn=lambda line, **_: lines.append(line), line_length=80)
    return "\n".join(lines) + "\n"


def save(path: Path, model: Any) -> None:
    """Write the model as a Keras archive whose bytes depend on the model alone, whole or not at all."""
    with TemporaryDirectory() as folder, replacing(path) as temporary:
        saved = Path(folder, path.name)
        model.save(saved)
        with ZipFile(saved) as source, ZipFile(temporary, "w") as target:
            for name in sorted(source.namelist()):
                # A ZipInfo made by hand holds no time.
                target.writestr(ZipInfo(name), _reproducible(name, source.read(name)))


def _reproducible(name: str, content: bytes) -> bytes:
    """A part of a Keras archive without what differs from one saving to the next."""
    if name == "metadata.json":  # the time and Keras' version
        return b"{}"
    if name == "config.json":  # what layers share goes by its address in memory; here, by the order of its appearance
        ids: dict[int, int] = {}

        def renumber(value: dict[str, Any]) -> dict[str, Any]:
            if "shared_object_id" in value:
                value["shared_object_id"] = ids.setdefault(value["shared_object_id"], len(ids) + 1)
            return value

        return json.dumps(json.loads(content, object_hook=renumber)).encode()
    return content


def load(path: Path) -> Any:
    """The model in the Keras archive `path`, for prediction.

    Raises:
        WorkflowError: missing or damaged.
    """
    if not path.is_file():
        raise WorkflowError(f"{path} is missing; `dvc repro train` makes it.")
    try:
        return keras.models.load_model(path, compile=False)
    except (ValueError, OSError, KeyError, BadZipFile, zlib.error) as error:
        raise WorkflowError(f"{path} is damaged ({error}); run `dvc checkout {path.parent} --force`.") from error
