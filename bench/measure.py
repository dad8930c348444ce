"""Train one case in a process of its own and print its figures as JSON: `python bench/measure.py CASE`.

CASE is book-dense, book-cnn or a model of params.yaml. The caller sets STARTED to the time at which it started this
process, so that imports count.
"""

import argparse
import json
import math
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mnistflow.core import cli, params
from mnistflow.data import arrays
from mnistflow.data.arrays import Split

STARTED = float(os.environ.get("STARTED", time.time()))


def now() -> float:
    """Seconds since this process was started."""
    return time.time() - STARTED


class Times:
    """When the first batch ended, and for each epoch: its training time, when it ended, its validation loss."""

    def __init__(self) -> None:
        self.first_batch: float | None = None
        self.epochs: list[float] = []
        self.ends: list[float] = []
        self.val_losses: list[float] = []
        self._last_step = 0.0
        self._begin = 0.0

    def on_step(self, *_: Any) -> None:
        """Note the end of a step."""
        self._last_step = now()
        if self.first_batch is None:
            self.first_batch = self._last_step

    def begin_epoch(self) -> None:
        """Note the beginning of an epoch."""
        self._begin = now()

    def end_epoch(self, val_loss: float) -> None:
        """Note the end of an epoch, its validation included."""
        self.epochs.append(self._last_step - self._begin)
        self.ends.append(now())
        self.val_losses.append(val_loss)


def train_book(name: str, training: Split, test: Split, times: Times, epochs: int | None, steps: int | None) -> Any:
    """Train the book's network, for so many steps an epoch if given, and return its best epoch."""
    import book
    import keras

    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: times.begin_epoch(),
        on_train_batch_end=lambda batch, logs: times.on_step(),
        on_epoch_end=lambda epoch, logs: times.end_epoch(logs["val_loss"]),
    )
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = f"{folder}/best.keras"
        book.train(name, training, test, checkpoint, watch, epochs or book.EPOCHS, steps)
        return keras.models.load_model(checkpoint)


def train_ours(name: str, training: Split, validation: Split, times: Times, epochs: int | None) -> Any:
    """Train one of our networks and return its best epoch."""
    from mnistflow.training import loop

    def on_epoch(rows: Any, seconds: float) -> None:
        times.end_epoch(rows[-1].val_loss)
        times.begin_epoch()

    settings = params.load().models[name]
    settings = settings.model_copy(update={"epochs": epochs or settings.epochs})
    classes = int(training.labels.max()) + 1
    with tempfile.TemporaryDirectory() as folder:
        times.begin_epoch()
        state = Path(folder, "state.npz")
        model, _ = loop.train(name, settings, training, validation, classes, state, on_epoch, times.on_step)
    return model


def main(case: str, folder: Path, images: int | None, epochs: int | None) -> None:
    """Measure one case and print its figures.

    Args:
        case: as above.
        folder: the output of `dvc repro preprocess`.
        images: in an epoch; None for all.
        epochs: None for as many as the case has.
    """
    training, validation, test = (arrays.load(folder / name) for name in arrays.PARTS)
    name, times = case.removeprefix("book-"), Times()
    if name != case:
        import book

        # The book holds no images out. It has all images in memory even if it trains on some: a step costs more so.
        training = Split(*(np.concatenate(pair) for pair in zip(training, validation, strict=True)))
        steps = images and math.ceil(images / book.BATCH)
        model = train_book(name, training, test, times, epochs, steps)
        pixels, labels = book.arrays(test, name)
        correct = model.predict(pixels, verbose=0).argmax(axis=1) == labels.argmax(axis=1)
    else:
        if images is not None:  # not without need: a part of a memory-mapped array stays in memory once it was read
            training = Split(*(array[:images] for array in training))
        model = train_ours(name, training, validation, times, epochs)
        correct = model.predict(test.images, batch_size=1000, verbose=0).argmax(axis=1) == test.labels
    epoch = statistics.median(times.epochs[1:] or times.epochs)  # the first epoch compiles
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {
        "first_batch_s": times.first_batch,
        "epoch_s": epoch,
        "images_per_s": min(images or math.inf, len(training.labels)) / epoch,
        "epochs": len(times.ends),
        "checkpoint_s": times.ends[int(np.argmin(times.val_losses))],
        "accuracy": float(correct.mean()),
        "peak_rss_mib": rss / (2**20 if sys.platform == "darwin" else 2**10),
        "process_s": now(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case")
    parser.add_argument("--arrays", type=Path, default=arrays.DATA, help="the output of `dvc repro preprocess`")
    parser.add_argument("--images", type=int, help="images in an epoch")
    parser.add_argument("--epochs", type=int, help="the number of epochs")
    options = parser.parse_args()
    cli.run(main, options.case, options.arrays, options.images, options.epochs)
