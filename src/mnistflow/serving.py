"""The model as MLflow loads and serves it: raw 0-255 pixels in, classes and probabilities out.

MLflow stores this file with each logged model and runs it to load one, so it imports nothing of this project.
"""

from typing import Any

import keras
import mlflow
import numpy as np
from mlflow.exceptions import MlflowException


class Classifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A Keras archive behind MLflow's generic interface."""

    def load_context(self, context: Any) -> None:
        """Load the archive that was logged with the model."""
        self._model = keras.models.load_model(context.artifacts["model"], compile=False)

    # A bare np.ndarray tells MLflow to take the schema from the signature; any other annotation it reads as a schema.
    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> dict[str, Any]:
        """Classify images.

        Args:
            model_input: (n, 28, 28) uint8, 0 is background and 255 is ink.

        Returns:
            `class`, (n,) int64, and `probabilities`, (n, 10) float32.

        Raises:
            MlflowException: the images are blank. The server has made whole numbers of what it was sent: this is what
                images scaled to 0-1 look like by then, and no class would be right.
        """
        if model_input.max() <= 1:
            raise MlflowException.invalid_parameter_value(
                "the images are blank: no pixel is above 1. Pixels are expected raw, 0 to 255, not scaled to 0-1."
            )
        probabilities = self._model.predict(model_input, verbose=0)
        return {"class": probabilities.argmax(axis=1), "probabilities": probabilities}


mlflow.models.set_model(Classifier())
