"""The book's two scripts, in Keras 3 and otherwise as printed: the reference of all ratios in this folder.

Pixels become float32 and labels one-hot vectors before training; Adam at its defaults, batches of 200, at most 30
epochs, stopped after 10 without a lower loss on the test set, which also chooses the checkpoint.
"""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from mnistflow.data.arrays import Split

BATCH = 200
EPOCHS = 30
PATIENCE = 10


def dense() -> Any:
    """One hidden layer on flat pixels."""
    return keras.Sequential(
        [layers.Input((784,)), layers.Dense(512, activation="relu"), layers.Dense(10, activation="softmax")]
    )


def cnn() -> Any:
    """Two convolutions, two dense layers."""
    return keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.Conv2D(64, (3, 3), activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )


def arrays(split: Split, name: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Pixels from 0 to 1 in the shape that the network takes, and one-hot labels."""
    shape = (-1, 784) if name == "dense" else (-1, 28, 28, 1)
    return split.images.reshape(shape).astype("float32") / 255, keras.utils.to_categorical(split.labels)


def train(
    name: str, training: Split, test: Split, checkpoint: str, watch: Any, epochs: int = EPOCHS, steps: int | None = None
) -> None:
    """Train as printed, or for so many steps an epoch; `watch` is a Keras callback."""
    model = {"dense": dense, "cnn": cnn}[name]()
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    model.fit(
        *arrays(training, name),
        validation_data=arrays(test, name),
        epochs=epochs,
        batch_size=BATCH,
        steps_per_epoch=steps,
        verbose=0,
        callbacks=[
            keras.callbacks.ModelCheckpoint(checkpoint, monitor="val_loss", save_best_only=True),
            keras.callbacks.EarlyStopping(monitor="val_loss", patience=PATIENCE),
            watch,
        ],
    )
