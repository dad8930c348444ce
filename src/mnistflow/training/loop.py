"""One training: the loop over epochs, the best epoch, early stopping, going on after a crash.

Order and augmentation are drawn from (seed, epoch, batch), and everything else that changes is saved after each epoch.
So a training that was killed and started again ends in the bytes of one that ran through.
"""

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mnistflow.core.errors import WorkflowError
from mnistflow.core.params import ModelSettings
from mnistflow.data.arrays import Description, Split, piece_size, pieces
from mnistflow.training import archive, history, state
from mnistflow.training.augmentation import batches
from mnistflow.training.backend import build, compile_options, identity, keras, make_reproducible, network, pipeline
from mnistflow.training.history import Epoch
from mnistflow.training.schedule import OneCycle, learning_rate
from mnistflow.training.state import Progress

OPTIMIZERS = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "nadam": keras.optimizers.Nadam}


class Diverged(WorkflowError):
    """A training whose loss is no longer a number."""

    def __init__(self, name: str, loss: str, where: str, rate: float) -> None:
        super().__init__(
            f"training of {name} diverged: its {loss} {where}, at a learning rate of {rate:.3g}; "
            f"lower models.{name}.learning_rate in params.yaml."
        )


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports the steps of an epoch, stops it when the loss is no longer a number, and keeps the weights at its end."""

    def __init__(self, name: str, epoch: int, steps: int, on_step: Callable[[int], None]) -> None:
        super().__init__()
        self._name, self._epoch, self._steps, self._on_step = name, epoch, steps, on_step

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        done = min(batch + 1, self._steps)  # Keras counts executions of several steps, also where the last is shorter
        if not math.isfinite(loss):
            rate = float(self.model.optimizer.learning_rate)
            raise Diverged(self._name, f"loss is {loss}", f"in epoch {self._epoch}, step {done}", rate)
        self._on_step(done)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.latest_weights = self.model.get_weights()


def train(
    name: str,
    settings: ModelSettings,
    training: Split,
    validation: Split,
    classes: int,
    state_file: Path,
    on_epoch: Callable[[Sequence[Epoch], float], None],
    on_step: Callable[[int], None] = lambda done: None,
) -> tuple[Any, Progress]:
    """Train a network; returns it with the weights of its best epoch, and the progress that led there.

    Best is the lowest validation loss. Training ends after `settings.epochs`, or `settings.patience` epochs after the
    best one.

    Args:
        name: the model's, for messages.
        settings: the network and how it is trained.
        training: images to train on.
        validation: images that decide which epoch is best.
        classes: how many there are.
        state_file: written after each epoch; where it exists, training goes on from it.
        on_epoch: called after each epoch with the history so far and the epoch's seconds.
        on_step: called with the number of steps done in the current epoch.

    Raises:
        Diverged: the loss became infinite or not a number.
    """
    if settings.batch_size > len(training.labels):
        raise WorkflowError(
            f"models.{name}.batch_size is {settings.batch_size}, but there are {len(training.labels)} training images; "
            "lower it in params.yaml."
        )
    make_reproducible(settings.seed)
    shape = training.images.shape[1:]
    model = build(settings.network, shape, classes)
    steps = math.ceil(len(training.labels) / settings.batch_size)
    pieces_of_validation = math.ceil(len(validation.labels) / piece_size(validation.images))
    rate = learning_rate(settings, steps)
    model.compile(
        optimizer=_optimizer(settings, rate), loss=_loss(settings, classes), metrics=["accuracy"], **compile_options()
    )
    model.optimizer.build(model.trainable_variables)
    progress = state.load(state_file, model) or Progress()
    while not _is_finished(progress, settings):
        epoch = len(progress.history) + 1
        started = time.perf_counter()
        watch = _Watch(name, epoch, steps, on_step)
        with pipeline(batches(training, settings, epoch), steps, shape) as data:
            logs = model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[watch]).history
        # With `average`, `fit` leaves the averaged weights in the model. These are validated and may be the best ones;
        # the next epoch goes on from the latest weights.
        with pipeline(pieces(validation), pieces_of_validation, shape) as data:
            val_loss, val_accuracy = model.evaluate(data, verbose=0)
        last_rate = float(rate(epoch * steps - 1) if callable(rate) else rate)
        if not math.isfinite(val_loss):
            raise Diverged(name, f"validation loss is {val_loss}", f"after epoch {epoch}", last_rate)
        progress.history.append(
            Epoch(epoch, logs["loss"][0], logs["accuracy"][0], val_loss, val_accuracy, learning_rate=last_rate)
        )
        if history.best(progress.history).epoch == epoch:
            progress.best_weights = model.get_weights()
        model.set_weights(watch.latest_weights)
        seconds = time.perf_counter() - started
        progress.seconds += seconds
        state.save(state_file, model, progress)
        on_epoch(progress.history, seconds)
    # A fresh model: a compiled one would save its optimizer's state, which is not that of the best epoch.
    best = build(settings.network, shape, classes)
    best.set_weights(progress.best_weights)
    return best, progress


def _loss(settings: ModelSettings, classes: int) -> Any:
    """The cross-entropy, as Keras takes it.

    With `smoothing`, a share of each label is spread evenly over all classes, so that the network does not become too
    sure (Szegedy et al., 2016, arXiv:1512.00567). The loss is higher then, because it has the entropy of the labels.
    """
    if not settings.smoothing:
        return "sparse_categorical_crossentropy"

    def smoothed(labels: Any, probabilities: Any) -> Any:
        targets = keras.ops.one_hot(labels, classes)
        return keras.losses.categorical_crossentropy(targets, probabilities, label_smoothing=settings.smoothing)

    return smoothed


def _optimizer(settings: ModelSettings, rate: float | OneCycle) -> Any:
    """The optimizer. With `average`, it also keeps a moving average of the weights over the steps."""
    average: dict[str, Any] = {} if settings.average is None else {"use_ema": True, "ema_momentum": settings.average}
    return OPTIMIZERS[settings.optimizer](rate, beta_2=settings.beta_2, **average)


def _is_finished(progress: Progress, settings: ModelSettings) -> bool:
    done = len(progress.history)
    return done > 0 and (done >= settings.epochs or done - history.best(progress.history).epoch >= settings.patience)


def train_with_progress(
    name: str,
    settings: ModelSettings,
    training: Split,
    validation: Split,
    classes: int,
    state_file: Path,
    on_epoch: Callable[[Sequence[Epoch], float], None],
) -> tuple[Any, Progress]:
    """As `train`, with a line per epoch on the screen and, in a terminal, a bar of its steps."""
    steps = math.ceil(len(training.labels) / settings.batch_size)
    print(
        f"{name}: {len(training.labels):,} images, {settings.epochs} epochs at most, {steps} steps each; "
        "loss (accuracy):",
        flush=True,
    )
    with tqdm(total=steps, unit="step", leave=False, disable=not sys.stderr.isatty()) as bar:

        def on_step(done: int) -> None:
            bar.update(done - bar.n)

        def show(rows: Sequence[Epoch], seconds: float) -> None:
            bar.clear()
            print(epoch_line(rows, seconds), flush=True)
            bar.reset()
            on_epoch(rows, seconds)

        return train(name, settings, training, validation, classes, state_file, show, on_step)


def epoch_line(rows: Sequence[Epoch], seconds: float) -> str:
    """The last epoch in a line of at most 80 characters."""
    row = rows[-1]
    mark = "  best" if history.best(rows) is row else ""
    return (
        f"epoch {row.epoch:2}  loss {row.loss:.4f} ({row.accuracy:.2%})  "
        f"validation loss {row.val_loss:.4f} ({row.val_accuracy:.2%})  {seconds:5.1f} s{mark}"
    )


def fingerprint(name: str, settings: ModelSettings, *data: str) -> str:
    """A name for a training, with a hash of all that it depends on: trainings share a state only if they share this.

    `data` are hashes of the training and the validation images.
    """
    digest = hashlib.sha256()
    versions = (keras.__version__, identity(), np.__version__)
    for text in (name, settings.model_dump_json(), *versions, *data):
        digest.update(text.encode() + b"\0")
    code = [*Path(__file__).parent.glob("*.py"), Path(str(network(settings.network).__file__))]
    for source in sorted(code):
        digest.update(source.read_bytes())
    return f"{name}-{digest.hexdigest()[:16]}"


def describe(settings: ModelSettings, dataset: Description, training: Split, sha256: str) -> dict[str, Any]:
    """What training.json says of a training before it begins, but for the model's name; `sha256` is of the images."""
    return {
        "settings": settings.model_dump(exclude_none=True),
        "dataset": dataset.dataset,
        "validation": dataset.validation,
        "selected_on": "test" if dataset.validation == "test" else "validation",
        "training_images": len(training.labels),
        "training_sha256": sha256,
    }


def write(folder: Path, details: dict[str, Any], model: Any, progress: Progress) -> None:
    """Write model.keras, history.csv, summary.txt, and training.json, which holds `details` and the results."""
    folder.mkdir(parents=True, exist_ok=True)
    best = history.best(progress.history)
    print(f"{details['model']}: epoch {best.epoch} is best, by its loss on the {details['selected_on']} images")
    archive.save(folder / "model.keras", model)
    history.write(folder / "history.csv", progress.history)
    (folder / "summary.txt").write_text(archive.summary(model), encoding="utf-8")
    results = {"epochs": len(progress.history), "best_epoch": best.epoch, "parameters": model.count_params()}
    (folder / "training.json").write_text(json.dumps({**details, **results}, indent=2) + "\n", encoding="utf-8")
