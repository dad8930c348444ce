"""The book's baseline: one hidden layer. 407,050 parameters on MNIST."""

from typing import Any

import keras
from keras import layers


def build(shape: tuple[int, ...], classes: int) -> Any:
    """The untrained network."""
    return keras.Sequential(
        [
            layers.Input(shape, dtype="uint8", name="pixels"),
            layers.Rescaling(1 / 255, name="scale"),
            layers.Flatten(name="flatten"),
            layers.Dense(512, activation="relu", name="hidden"),
            layers.Dense(classes, activation="softmax", name="probabilities"),
        ],
        name="dense",
    )
