"""Six 3x3 convolutions in three steps of size. 284,202 parameters on MNIST."""

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
            # No normalization here: it would work on the most numbers of all.
            layers.Conv2D(16, 3, activation="relu", name="conv1"),
            *_normalized(32, "2", pool=True),
            *_normalized(64, "3"),
            *_normalized(64, "4"),
            *_normalized(128, "5", pool=True),
            *_normalized(128, "6"),
            layers.Flatten(name="flatten"),
            layers.Dropout(0.3, name="dropout"),
            layers.Dense(classes, activation="softmax", name="probabilities"),
        ],
        name="accurate",
    )


def _normalized(filters: int, number: str, pool: bool = False) -> list[Any]:
    """A convolution with batch normalization and ReLU, after the pooling: a quarter of the numbers is left there."""
    return [
        layers.Conv2D(filters, 3, use_bias=False, name=f"conv{number}"),  # batch normalization adds a bias of its own
        *([layers.MaxPooling2D(2, name=f"pool{number}")] if pool else []),
        layers.BatchNormalization(name=f"norm{number}"),
        layers.ReLU(name=f"relu{number}"),
    ]
