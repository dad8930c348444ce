"""The book's network: two convolutions, then two dense layers. 1,199,882 parameters on MNIST."""

from typing import Any

import keras
from keras import layers


def build(shape: tuple[int, ...], classes: int) -> Any:
    """The untrained network."""
    # Convolutions need a channel dimension, which grey images lack.
    channel = [layers.Reshape((*shape, 1), name="channel")] if len(shape) == 2 else []
    return keras.Sequential(
        [
            layers.Input(shape, dtype="uint8", name="pixels"),
            layers.Rescaling(1 / 255, name="scale"),
            *channel,
            layers.Conv2D(32, 3, activation="relu", name="conv1"),
            layers.Conv2D(64, 3, name="conv2"),
            layers.MaxPooling2D(2, name="pool"),
            # The book has ReLU before the pooling. The result is the same, because the larger of two numbers stays the
            # larger one after ReLU; here, ReLU has a quarter of the numbers to look at.
            layers.ReLU(name="relu2"),
            layers.Dropout(0.25, name="dropout1"),
            layers.Flatten(name="flatten"),
            layers.Dense(128, activation="relu", name="hidden"),
            layers.Dropout(0.5, name="dropout2"),
            layers.Dense(classes, activation="softmax", name="probabilities"),
        ],
        name="cnn",
    )
