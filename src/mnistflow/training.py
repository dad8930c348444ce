"""One training: the schedule, the augmentation, the loop over epochs, the best checkpoint, and going on after a crash.

Shuffling and augmentation are drawn from (seed, epoch, batch) and everything else that changes is saved after each
epoch, so a training that was killed and started again ends in the bytes of one that nobody touched.
"""

import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnistflow import backend, models, splits
from mnistflow.backend import Batch, compile_options, fed, identity, keras, make_reproducible
from mnistflow.datasets import SIZE, Images
from mnistflow.history import Epoch, best
from mnistflow.params import ModelParams
from mnistflow.splits import Split
from mnistflow.workspace import WorkflowError, replacing

DIGEST = hashlib.sha256().digest_size  # bytes, at the end of a state


@dataclass
class Progress:
    """What a training has come to: enough, with the model's and optimizer's variables, to go on from."""

    history: list[Epoch]
    best_weights: list[npt.NDArray[Any]]
    seconds: float  # spent in epochs so far


def batches(split: Split, settings: ModelParams, epoch: int) -> Iterator[Batch]:
    """The batches of one epoch, in an order and with shifts that depend on (seed, epoch) alone.

    Each is read when it is asked for: the images need not fit into memory.
    """
    order = np.random.default_rng((settings.seed, epoch)).permutation(len(split.labels))
    for index, start in enumerate(range(0, len(order), settings.batch_size)):
        chosen = order[start : start + settings.batch_size]
        images = splits.take(split.images, chosen)
        random = np.random.default_rng((settings.seed, epoch, index))
        if settings.shift:
            images = shifted(images, settings.shift, random)
        if settings.rotate or settings.zoom:
            images = turned(images, settings.rotate, settings.zoom, random)
        yield images, split.labels[chosen]


def shifted(images: Images, pixels: int, random: np.random.Generator) -> Images:
    """Each image (28, 28) moved by up to `pixels` right or left and up or down, at random, zeros moving in."""
    margin = ((0, 0), (pixels, pixels), (pixels, pixels))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(images, margin), (SIZE, SIZE), axis=(1, 2))
    down, right = random.integers(0, 2 * pixels + 1, (2, len(images)))
    moved: Images = windows[np.arange(len(images)), down, right]
    return moved


def turned(images: Images, degrees: float, zoom: float, random: np.random.Generator) -> Images:
    """Each image (28, 28) turned about its centre by up to `degrees` either way, and enlarged or shrunk, at random.

    Its size changes by up to the share `zoom`, each way by as much. Bilinear, zeros from outside.
    """
    angle = np.deg2rad(random.uniform(-degrees, degrees, len(images)), dtype=np.float32)
    scale = 1 / (1 + random.uniform(-zoom, zoom, len(images)).astype(np.float32))
    cosine, sine = (scale * function(angle) for function in (np.cos, np.sin))
    down, right = np.indices((SIZE, SIZE), np.float32).reshape(2, 1, -1) - (SIZE - 1) / 2
    # Where each pixel comes from; a frame of zeros, one pixel wide, stands for all that is outside.
    y = np.clip(cosine[:, None] * down - sine[:, None] * right + (SIZE + 1) / 2, 0, SIZE)
    x = np.clip(sine[:, None] * down + cosine[:, None] * right + (SIZE + 1) / 2, 0, SIZE)
    top, left = y.astype(np.int32), x.astype(np.int32)
    y, x = y - top, x - left
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1))).reshape(len(images), -1)
    place = top * (SIZE + 2) + left
    pixels = [np.take_along_axis(framed, place + step, 1) for step in (0, 1, SIZE + 2, SIZE + 3)]
    upper, lower = (pair[0] + x * (pair[1].astype(np.float32) - pair[0]) for pair in (pixels[:2], pixels[2:]))
    moved: Images = np.rint(upper + y * (lower - upper)).astype(np.uint8).reshape(images.shape)
    return moved


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A learning rate that climbs in a straight line to its peak and falls in another.

    After Smith and Topin (2019), "Super-Convergence", arXiv:1708.07120, without their momentum cycle.
    """

    def __init__(self, peak: float, steps: int, warmup: float, final: float) -> None:
        self._peak, self._steps, self._warmup, self._final = peak, steps, warmup, final

    def __call__(self, step: Any) -> Any:
        """The learning rate at `step`, counted from 0."""
        done = (keras.ops.cast(step, "float32") + 1) / self._steps
        climb = done / max(self._warmup, 1 / self._steps)
        fall = 1 - (1 - self._final) * (done - self._warmup) / max(1 - self._warmup, 1 / self._steps)
        return self._peak * keras.ops.minimum(climb, fall)

    def get_config(self) -> dict[str, float]:
        """What makes it: Keras asks for this to describe an optimizer."""
        return {"peak": self._peak, "steps": self._steps, "warmup": self._warmup, "final": self._final}


def learning_rate(settings: ModelParams, steps_per_epoch: int) -> "float | OneCycle":
    """The learning rate, as Keras' optimizers take it: a number, or a function of the step, laid over all epochs."""
    if settings.schedule == "constant":
        return settings.learning_rate
    assert settings.warmup is not None  # params.py has seen to it
    assert settings.final is not None
    steps = settings.epochs * steps_per_epoch
    return OneCycle(settings.learning_rate, steps, settings.warmup, settings.final)


OPTIMIZERS = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "nadam": keras.optimizers.Nadam}


class Diverged(WorkflowError):
    """A training whose loss is no longer a number."""

    def __init__(self, name: str, loss: str, place: str, rate: float) -> None:
        super().__init__(
            f"training of {name} diverged: its {loss} {place}, at a learning rate of {rate:.3g}; "
            f"lower models.{name}.learning_rate in params.yaml."
        )


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells how far an epoch is, and stops it when its loss is no longer a number."""

    def __init__(self, epoch: int, steps: int, on_step: Callable[[int], None]) -> None:
        super().__init__()
        self._epoch = epoch
        self._steps = steps
        self._on_step = on_step

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        done = min(batch + 1, self._steps)  # Keras counts in executions of several steps, the last as if it were whole
        if not math.isfinite(loss):
            rate = float(self.model.optimizer.learning_rate)
            raise Diverged(self.model.name, f"loss is {loss}", f"in epoch {self._epoch}, step {done}", rate)
        self._on_step(done)


def train(
    name: str,
    settings: ModelParams,
    training: Split,
    validation: Split,
    state: Path,
    on_step: Callable[[int], None],
    on_epoch: Callable[[Sequence[Epoch], float], None],
) -> tuple[Any, Progress]:
    """Train the network `name` and return it with the weights of its best epoch, and the progress that led there.

    Best is the lowest validation loss; training ends after `settings.epochs`, or `settings.patience` epochs after the
    best. `state` is a file that is written after each epoch; where it exists, training goes on from it. `on_step` is
    told the steps done in the current epoch, `on_epoch` the history so far and the last epoch's seconds.

    Raises:
        Diverged: the loss became infinite or not a number.
    """
    make_reproducible(settings.seed)
    model = models.MODELS[name]()
    steps = math.ceil(len(training.labels) / settings.batch_size)
    rate = learning_rate(settings, steps)
    model.compile(
        optimizer=OPTIMIZERS[settings.optimizer](rate, beta_2=settings.beta_2),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        **compile_options(),
    )
    model.optimizer.build(model.trainable_variables)
    progress = load_state(state, model) or Progress([], [], 0.0)
    while not _finished(progress, settings):
        epoch = len(progress.history) + 1
        started = time.perf_counter()
        watch = _Watch(epoch, steps, on_step)
        with fed(batches(training, settings, epoch), steps) as data:
            logs = model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[watch]).history
        val_loss, val_accuracy = model.evaluate(*validation, batch_size=1000, verbose=0)
        progress.history.append(
            Epoch(
                epoch=epoch,
                loss=logs["loss"][0],
                accuracy=logs["accuracy"][0],
                val_loss=val_loss,
                val_accuracy=val_accuracy,
                learning_rate=float(rate(epoch * steps - 1) if callable(rate) else rate),
            )
        )
        if not math.isfinite(val_loss):
            at = progress.history[-1].learning_rate
            raise Diverged(name, f"validation loss is {val_loss}", f"after epoch {epoch}", at)
        if best(progress.history).epoch == epoch:
            progress.best_weights = model.get_weights()
        seconds = time.perf_counter() - started
        progress.seconds += seconds
        save_state(state, model, progress)
        on_epoch(progress.history, seconds)
    # A model of its own: one that was compiled would save its optimizer's state, which is not the best epoch's.
    checkpoint = models.MODELS[name]()
    checkpoint.set_weights(progress.best_weights)
    return checkpoint, progress


def _finished(progress: Progress, settings: ModelParams) -> bool:
    done = len(progress.history)
    return done > 0 and (done >= settings.epochs or done - best(progress.history).epoch >= settings.patience)


def fingerprint(name: str, settings: ModelParams, *data: str) -> str:
    """A hash of all that a training depends on: two trainings may share a state only if they share this.

    `data` are hashes of the training and validation sets.
    """
    digest = hashlib.sha256()
    versions = (keras.__version__, identity(), np.__version__)
    for text in (name, settings.model_dump_json(), *versions, *data):
        digest.update(text.encode() + b"\0")
    for source in map(Path, (__file__, models.__file__, backend.__file__)):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def save_state(path: Path, model: Any, progress: Progress) -> None:
    """Write everything that the rest of the training depends on, whole or not at all."""
    groups = {"model": _values(model), "optimizer": _values(model.optimizer), "best": progress.best_weights}
    arrays = {f"{group}_{index}": value for group, values in groups.items() for index, value in enumerate(values)}
    history = np.array([astuple(epoch) for epoch in progress.history], np.float64)
    with replacing(path) as temporary:
        np.savez(temporary, allow_pickle=False, history=history, seconds=progress.seconds, **arrays)
        with temporary.open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.write(digest)  # the archive's own checksums do not cover all of it


def load_state(path: Path, model: Any) -> Progress | None:
    """Set the model's and its optimizer's variables as they were saved; None where nothing was, or it is damaged."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    archive, digest = content[:-DIGEST], content[-DIGEST:]
    if hashlib.sha256(archive).digest() != digest:
        print(f"{path} is damaged; training starts again from its first epoch.")
        return None
    with np.load(io.BytesIO(archive), allow_pickle=False) as saved:
        arrays = dict(saved)
    history = [Epoch(int(row[0]), *row[1:]) for row in arrays["history"].tolist()]
    for group, owner in (("model", model), ("optimizer", model.optimizer)):
        for index, variable in enumerate(owner.variables):
            variable.assign(arrays[f"{group}_{index}"])
    best_weights = [arrays[f"best_{index}"] for index in range(len(model.weights))]
    return Progress(history, best_weights, float(arrays["seconds"]))


def _values(owner: Any) -> list[npt.NDArray[Any]]:
    return [keras.ops.convert_to_numpy(variable) for variable in owner.variables]
