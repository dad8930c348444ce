"""Train one case in a process of its own and print what it took, as JSON: `bench/measure.py CASE ARRAYS [IMAGES]`.

CASE is book-dense, book-cnn, dense, cnn or compact. With IMAGES, two epochs on so many images instead of a whole
training. The caller sets STARTED to the time at which it started this process, so that imports count.
"""

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnistflow import splits
from mnistflow.splits import Split

STARTED = float(os.environ.get("STARTED", time.time()))


def now() -> float:
    """Seconds since this process was started."""
    return time.time() - STARTED


class Times:
    """When the first batch ended, how long each epoch's training took, and when each epoch ended."""

    def __init__(self) -> None:
        self.first_batch: float | None = None
        self.epochs: list[float] = []
        self.ends: list[float] = []
        self.val_losses: list[float] = []
        self._last_step = 0.0
        self._begin = 0.0

    def on_step(self, step: int) -> None:
        """Note the end of a step."""
        self._last_step = now()
        if self.first_batch is None:
            self.first_batch = self._last_step

    def begin_epoch(self) -> None:
        """Note the begin of an epoch."""
        self._begin = now()

    def end_epoch(self, val_loss: float) -> None:
        """Note the end of an epoch, its validation included."""
        self.epochs.append(self._last_step - self._begin)
        self.ends.append(now())
        self.val_losses.append(val_loss)


def train_book(name: str, training: Split, test: Split, times: Times, epochs: int | None) -> Any:
    """Train the book's network and return its kept checkpoint."""
    import book
    import keras

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            times.begin_epoch()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            times.on_step(batch + 1)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            times.end_epoch(logs["val_loss"])

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = f"{folder}/best.keras"
        book.train(name, training, test, checkpoint, Watch(), epochs or book.EPOCHS)
        return keras.models.load_model(checkpoint)


def train_ours(name: str, training: Split, validation: Split, times: Times, epochs: int | None) -> Any:
    """Train one of ours with the settings of params.yaml and return its kept checkpoint."""
    from mnistflow import params
    from mnistflow import training as ours
    from mnistflow.history import Epoch

    settings = params.load().models[name]
    if epochs:
        settings = settings.model_copy(update={"epochs": epochs})

    def on_epoch(rows: Sequence[Epoch], seconds: float) -> None:
        times.end_epoch(rows[-1].val_loss)
        times.begin_epoch()

    with tempfile.TemporaryDirectory() as folder:
        times.begin_epoch()
        model, _ = ours.train(name, settings, training, validation, Path(folder, "s.npz"), times.on_step, on_epoch)
    return model


def main(case: str, folder: str, images: str | None = None) -> None:
    """Measure one case and print its figures."""
    arrays = {name: splits.load(Path(folder, name)) for name in ("training", "validation", "test")}
    training, validation, test = arrays.values()
    count = int(images) if images else None
    if count:
        training, validation, test = (
            Split(split.images[:most], split.labels[:most])
            for split, most in ((training, count), (validation, 1000), (test, 1000))
        )
    name = case.removeprefix("book-")
    times = Times()
    if case.startswith("book-"):
        import book
        import numpy as np

        if not count:  # the book holds nothing out
            training = Split(*(np.concatenate(pair) for pair in zip(training, validation, strict=True)))
        model = train_book(name, training, test, times, 2 if count else None)
        pixels, labels = book.arrays(test, name)
        correct = model.predict(pixels, verbose=0).argmax(axis=1) == labels.argmax(axis=1)
    else:
        model = train_ours(name, training, validation, times, 2 if count else None)
        correct = model.predict(test.images, batch_size=1000, verbose=0).argmax(axis=1) == test.labels
    # The first epoch compiles.
    epoch = statistics.median(times.epochs[1:] or times.epochs)
    kept = min(range(len(times.ends)), key=lambda index: times.val_losses[index])
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {
        "first_batch_s": times.first_batch,
        "epoch_s": epoch,
        "images_per_s": len(training.labels) / epoch,
        "epochs": len(times.ends),
        "checkpoint_s": times.ends[kept],
        "accuracy": float(correct.mean()),
        "peak_rss_mib": rss / (2**20 if sys.platform == "darwin" else 2**10),
        "process_s": now(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
