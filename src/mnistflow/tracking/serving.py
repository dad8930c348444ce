"""The model as MLflow loads and serves it: raw 0-255 pixels in, classes and probabilities out.

MLflow stores this file with each logged model and imports it to load one, so it imports nothing of this project. The
signature of a logged model has no inputs, because MLflow would convert what it is sent before it can be checked here.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE


class Classifier:
    """A Keras model behind MLflow's generic interface."""

    def __init__(self, model: Any, dataset: dict[str, Any]) -> None:
        """Classify with a Keras model that was trained on `dataset`, a description as in data/dataset.json."""
        self._model = model
        self._shape = tuple(dataset["shape"])
        self._is_ink_on_dark = dataset["prepare"] == "digit"

    def predict(self, model_input: Any, params: Any = None) -> dict[str, Any]:
        """Classify images.

        Args:
            model_input: (n, height, width) or (n, height, width, 3), whole numbers from 0 to 255. In digits, 0 is
                background and 255 is ink.

        Returns:
            `class`, (n,) int64, and `probabilities`, (n, classes) float32.

        Raises:
            Refusal: an image is not of that form, or looks scaled or inverted, so that no answer would be right.
        """
        images = self._check(model_input)
        probabilities = self._model.predict(images, verbose=0)
        return {"class": probabilities.argmax(axis=1), "probabilities": probabilities}

    def _check(self, model_input: Any) -> "np.typing.NDArray[np.uint8]":
        """The images as uint8, checked one by one before the conversion."""
        expected = f"whole numbers from 0 to 255 of the shape (n, {', '.join(map(str, self._shape))}) are expected"
        try:
            values = np.asarray(model_input)
        except ValueError:  # rows of different lengths
            raise Refusal(f"the images are not all of one size; {expected}") from None
        if values.dtype.kind not in "uif":
            raise Refusal(f"the input is no array of numbers; {expected}")
        if values.shape[1:] != self._shape or not len(values):
            raise Refusal(f"the input has the shape {values.shape}; {expected}")
        flat = values.reshape(len(values), -1)
        with np.errstate(invalid="ignore"):
            is_raw = ((flat == np.floor(flat)) & (flat >= 0) & (flat <= 255)).all(axis=1)
        blank = flat.max(axis=1) <= 1
        if not is_raw.all() or blank.any():
            index = int(np.flatnonzero(~is_raw | blank)[0])
            low, high = flat[index].min(), flat[index].max()
            raise Refusal(f"image {index} has values from {low:g} to {high:g}; raw pixels, {expected}, not scaled ones")
        if self._is_ink_on_dark:
            border = np.concatenate([values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1]], axis=1)
            light = np.flatnonzero(np.median(border, axis=1) > 127)
            if len(light):
                raise Refusal(
                    f"image {light[0]} has a light border, as ink on white paper has; send 255 minus its values, "
                    "because 0 is background and 255 is ink"
                )
        return values.astype(np.uint8)


class Refusal(MlflowException):  # type: ignore[misc]
    """The input can't be classified. The server answers with HTTP status 400 and this sentence."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence + ".", INVALID_PARAMETER_VALUE)

    def serialize_as_json(self) -> str:
        """The server's answer. MLflow has put all of the input before the message, which may be megabytes."""
        self.message = self.args[0]
        return str(super().serialize_as_json())


def _load_pyfunc(path: str) -> Classifier:
    """The classifier for the model that MLflow stored in the folder `path`; MLflow calls this by its name."""
    import keras

    dataset = json.loads(Path(path, "dataset.json").read_text(encoding="utf-8"))
    return Classifier(keras.models.load_model(Path(path, "model.keras"), compile=False), dataset)
