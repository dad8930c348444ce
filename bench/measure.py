"""Train one case in a process of its own and print what it took, as JSON: `python bench/measure.py CASE`.

CASE is book-dense, book-cnn, dense, cnn or compact. The caller sets STARTED to the time at which it started this
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from mnistflow.core import params
from mnistflow.core.params import ModelSettings
from mnistflow.data import arrays
from mnistflow.data.arrays import Split

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


def train_book(name: str, training: Split, test: Split, times: Times, epochs: int, steps: int | None) -> Any:
    """Train the book's network, for so many steps an epoch if told, and return its best epoch."""
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
        book.train(name, training, test, checkpoint, Watch(), epochs, steps)
        return keras.models.load_model(checkpoint)


def train_ours(name: str, settings: ModelSettings, training: Split, validation: Split, times: Times) -> Any:
    """Train one of ours and return its best epoch."""
    from mnistflow.training import loop
    from mnistflow.training.history import Epoch

    def on_epoch(rows: Sequence[Epoch], seconds: float) -> None:
        times.end_epoch(rows[-1].val_loss)
        times.begin_epoch()

    with tempfile.TemporaryDirectory() as folder:
        times.begin_epoch()
        classes, file = int(training.labels.max()) + 1, Path(folder, "state.npz")
        model, _ = loop.train(name, settings, training, validation, classes, file, on_epoch, times.on_step)
    return model


def changed(settings: ModelSettings, changes: dict[str, str]) -> ModelSettings:
    """The settings with some values replaced, read as params.yaml would read them."""
    values = {key: YAML(typ="safe").load(text) for key, text in changes.items()}
    return ModelSettings.model_validate({**settings.model_dump(), **values})


def main() -> None:
    """Measure one case and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case")
    parser.add_argument("--arrays", type=Path, default="data", help="what `dvc repro preprocess` made")
    parser.add_argument("--images", type=int, help="an epoch has so many images only")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="instead of what params.yaml says")
    arguments = parser.parse_args()
    training, validation, test = (arrays.load(arguments.arrays / name) for name in ("training", "validation", "test"))
    changes = dict(change.split("=", 1) for change in arguments.set)
    name = arguments.case.removeprefix("book-")
    times = Times()
    is_book = name != arguments.case
    if is_book:  # it holds nothing out
        import book

        training = Split(*(np.concatenate(pair) for pair in zip(training, validation, strict=True)))
        # All images are in its memory, whatever it trains on: a step costs more for it.
        steps = arguments.images and math.ceil(arguments.images / book.BATCH)
        model = train_book(name, training, test, times, int(changes.get("epochs", book.EPOCHS)), steps)
        pixels, labels = book.arrays(test, name)
        correct = model.predict(pixels, verbose=0).argmax(axis=1) == labels.argmax(axis=1)
    else:
        if arguments.images:
            training = Split(*(array[: arguments.images] for array in training))
        settings = changed(params.load().models[name], changes)
        model = train_ours(name, settings, training, validation, times)
        correct = model.predict(test.images, batch_size=1000, verbose=0).argmax(axis=1) == test.labels
    # The first epoch compiles.
    epoch = statistics.median(times.epochs[1:] or times.epochs)
    best = min(range(len(times.ends)), key=lambda index: times.val_losses[index])
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {
        "first_batch_s": times.first_batch,
        "epoch_s": epoch,
        "images_per_s": min(arguments.images or math.inf, len(training.labels)) / epoch,
        "epochs": len(times.ends),
        "checkpoint_s": times.ends[best],
        "accuracy": float(correct.mean()),
        "peak_rss_mib": rss / (2**20 if sys.platform == "darwin" else 2**10),
        "process_s": now(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
