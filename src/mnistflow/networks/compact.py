"""Two convolutions and a hidden layer, small throughout. 64,618 parameters on MNIST, of which 352 are statistics."""

from typing import Any

import keras
from keras import layers

# Of Keras' running statistics. Keras' own 0.99 looks back a hundred steps; a whole training here may have only a few
# hundred, so these look back ten.
MOMENTUM = 0.9


def build(shape: tuple[int, ...], classes: int) -> Any:
    """The untrained network."""
    # Convolutions need a channel dimension, which grey images lack.
    channel = [layers.Reshape((*shape, 1), name="channel")] if len(shape) == 2 else []
    return keras.Sequential(
        [
            layers.Input(shape, dtype="uint8", name="pixels"),
            layers.Rescaling(1 / 255, name="scale"),
            *channel,
            # No normalization here: it takes time and improves nothing on validation images.
            layers.Conv2D(16, 5, name="conv1"),
            # By 3, not 2: on 8x8 instead of 12x12 numbers, the second convolution takes a third of the time, and the
            # network is about as accurate.
            layers.MaxPooling2D(3, name="pool1"),
            layers.ReLU(name="relu1"),
            layers.Conv2D(48, 3, use_bias=False, name="conv2"),  # batch normalization adds a bias of its own
            layers.MaxPooling2D(2, name="pool2"),
            layers.BatchNormalization(momentum=MOMENTUM, name="norm2"),
            layers.ReLU(name="relu2"),
            layers.Flatten(name="flatten"),
            layers.Dense(128, use_bias=False, name="hidden"),
            layers.BatchNormalization(momentum=MOMENTUM, name="norm3"),
            layers.ReLU(name="relu3"),
            layers.Dropout(0.1, name="dropout"),
            layers.Dense(classes, activation="softmax", name="probabilities"),
        ],
        name="compact",
    )
