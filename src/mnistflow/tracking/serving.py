"""The model that MLflow loads and serves: raw 0-255 pixels or picture files -> classes and probabilities.

MLflow stores this file with each logged model, so it imports nothing of this project but the files stored beside it. A
logged model's signature has no inputs: there are two forms of input, and with a signature, MLflow would convert them
before they are checked here.
"""

import base64
import binascii
import json
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

if __name__ == "serving":  # as MLflow stored it
    import preparation  # type: ignore[import-not-found]
else:
    from mnistflow.data import preparation


class Refusal(MlflowException):  # type: ignore[misc]
    """An invalid input; the server answers with HTTP status 400."""

    def __init__(self, sentence: str) -> None:
        super().__init__(f"{sentence}.", error_code=INVALID_PARAMETER_VALUE)

    def serialize_as_json(self) -> str:
        """The body of the server's answer, without the whole input, which MLflow puts before the message."""
        return json.dumps({"error_code": self.error_code, "message": str(self)})


class Classifier:
    """A Keras model behind MLflow's generic interface; it checks and prepares its input."""

    def __init__(self, model: Any, dataset: dict[str, Any]) -> None:
        """`dataset` describes what the model was trained on, as data/dataset.json does."""
        self._model = model
        self._shape = tuple(dataset["shape"])
        self._prepare = dataset["prepare"]

    def predict(self, model_input: Any, params: Any = None) -> dict[str, Any]:
        """Classify images.

        Args:
            model_input: (n, height, width) or (n, height, width, 3), integers from 0 to 255. In digits, 0 is
                background and 255 is ink. Or n strings: picture files of any size in base64, which are preprocessed as
                by `make predict`.

        Returns:
            `class`, (n,) int64, and `probabilities`, (n, classes) float32.

        Raises:
            Refusal: an image has another form, looks scaled or inverted, or has no ink.
        """
        images = self._images(model_input)
        probabilities = self._model.predict(images, verbose=0)
        return {"class": probabilities.argmax(axis=1), "probabilities": probabilities}

    def _images(self, model_input: Any) -> "np.typing.NDArray[np.uint8]":
        """The network's input images; raises Refusal as `predict` does."""
        expected = (
            f"whole numbers from 0 to 255 of the shape (n, {', '.join(map(str, self._shape))}), or pictures as strings "
            "in base64, are expected"
        )
        try:
            values = np.asarray(model_input)
        except ValueError:  # rows of different lengths
            raise Refusal(f"the images are not all of one size; {expected}") from None
        if values.ndim == 1 and len(values) and all(isinstance(value, str) for value in values.tolist()):
            return np.stack([self._picture(index, text) for index, text in enumerate(values.tolist())])
        return self._pixels(values, expected)

    def _picture(self, index: int, text: str) -> "np.typing.NDArray[np.uint8]":
        """The input image for a picture file in base64, with or without the prefix of a data URL."""
        try:
            content = base64.b64decode("".join(text.rpartition(",")[2].split()), validate=True)
        except (binascii.Error, ValueError):
            raise Refusal(f"picture {index} is no base64; send the bytes of a PNG or JPEG file in base64") from None
        try:
            image: np.typing.NDArray[np.uint8] = preparation.load(content, self._shape, self._prepare)[0]
        except ValueError as error:
            raise Refusal(f"picture {index} can't be classified: {error}") from error
        return image

    def _pixels(self, values: "np.typing.NDArray[Any]", expected: str) -> "np.typing.NDArray[np.uint8]":
        """The images as uint8; each is checked before the conversion."""
        if values.dtype.kind not in "uif":
            raise Refusal(f"the input is no array of numbers; {expected}")
        if values.shape[1:] != self._shape or not len(values):
            raise Refusal(f"the input has the shape {values.shape}; {expected}")
        flat = values.reshape(len(values), -1)
        with np.errstate(invalid="ignore"):
            is_raw = ((flat == np.floor(flat)) & (flat >= 0) & (flat <= 255)).all(axis=1)
        # Scaled to 0-1 or 0-16, or standardized. The faintest digit of MNIST has values above 127.
        blank = flat.max(axis=1) <= (63 if self._prepare == "digit" else 1)
        if not is_raw.all() or blank.any():
            index = int(np.flatnonzero(~is_raw | blank)[0])
            low, high = flat[index].min(), flat[index].max()
            raise Refusal(f"image {index} has values from {low:g} to {high:g}, which are no raw pixels; {expected}")
        if self._prepare == "digit":
            border = np.concatenate([values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1]], axis=1)
            # Ink is on the side of the values that is farther from the border's, as for a picture.
            light = np.flatnonzero(2 * np.median(border, axis=1) >= flat.min(axis=1) + flat.max(axis=1))
            if len(light):
                raise Refusal(
                    f"image {light[0]} has a light border, as ink on white paper has; send 255 minus its values, "
                    "because 0 is background and 255 is ink"
                )
        return values.astype(np.uint8)


def _load_pyfunc(path: str) -> Classifier:
    """The classifier for the model in the folder `path`. MLflow calls this function by its name."""
    import keras

    dataset = json.loads(Path(path, "dataset.json").read_text(encoding="utf-8"))
    return Classifier(keras.models.load_model(Path(path, "model.keras"), compile=False), dataset)
