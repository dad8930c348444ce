"""What the MLflow record is to hold of a training, in files of this project for as long as the record may lack it.

A journal goes along with each training. When the tracking store does not answer at the end, journal and outputs are
kept under .cache/unrecorded, in a folder per training, until they can be handed over:

    journal.json    the training: its settings, where it ran, its epochs and their times
    trained/        the train stage's outputs
    example/        two images for the logged model's input example
    evaluated/      the evaluate stage's outputs, and metrics.json beside it
    seal.json       the hash of each of these files
"""

import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from mnistflow import splits
from mnistflow.history import Epoch
from mnistflow.splits import Split
from mnistflow.workspace import WorkflowError, cache, md5, read_json, replacing, write_json

JOURNAL, METRICS, SEAL = "journal.json", "metrics.json", "seal.json"


def now() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000


@dataclass
class Journal:
    """One training, from its first start to its end, across interruptions."""

    details: dict[str, Any]  # as in training.json
    tags: dict[str, str]  # what was run, where, and from which state of the code
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex)  # by which its run is found while it has no model
    begun: int = field(default_factory=now)
    epochs: list[dict[str, Any]] = field(default_factory=list)  # an Epoch each, when it ended, its seconds
    seconds: float | None = None  # of the whole training
    status: str = "RUNNING"
    failure: str | None = None  # what the training failed of, in a sentence
    ended: int | None = None

    def note(self, rows: Sequence[Epoch], seconds: float | None = None) -> None:
        """Add those epochs of a history that are not here yet; `seconds` is the last one's time, if it is known."""
        for row in rows[len(self.epochs) :]:
            self.epochs.append({**asdict(row), "time": now(), "seconds": seconds if row is rows[-1] else None})

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_json(path, asdict(self))


def read(path: Path) -> Journal:
    """The journal in a file.

    Raises:
        WorkflowError: missing or damaged.
    """
    try:
        return Journal(**read_json(path))
    except TypeError as error:
        raise WorkflowError(f"{path} is no journal of a training ({error}).") from error


@contextmanager
def unrecorded() -> Iterator[Path]:
    """The folder of what the record lacks, this process's alone meanwhile."""
    folder = cache() / "unrecorded"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield folder


def keep_training(journal: Journal, outputs: tuple[Path, Split] | None) -> None:
    """Keep a training that is over, with the folder of its outputs and images for an example if it came to any."""
    with unrecorded() as folder:
        kept = folder / (md5(outputs[0] / "model.keras") if outputs else journal.attempt)
        if outputs:
            _keep_outputs(kept, *outputs)
        journal.write(kept / JOURNAL)
        _seal(kept)


def keep_evaluation(
    trained: Path, evaluated: Path, metrics: Path, example: Split, extra: Mapping[str, float] | None
) -> None:
    """Keep a model's evaluation, with the model if its training is not waiting already."""
    with unrecorded() as folder:
        kept = folder / md5(trained / "model.keras")
        if not (kept / JOURNAL).is_file():
            _keep_outputs(kept, trained, example)
        _copy(evaluated, kept / "evaluated")
        write_json(kept / METRICS, {**read_json(metrics), **(extra or {})})
        _seal(kept)


def _keep_outputs(kept: Path, trained: Path, example: Split) -> None:
    _copy(trained, kept / "trained")
    splits.save(kept / "example", Split(example.images[:2], example.labels[:2]))


def _copy(source: Path, target: Path) -> None:
    for file in source.iterdir():
        with replacing(target / file.name) as temporary:
            shutil.copyfile(file, temporary)


def _seal(kept: Path) -> None:
    """Note the hashes of all that a folder holds, last: one that a crash left half-filled has none."""
    write_json(kept / SEAL, {name: md5(kept / name) for name in _names(kept)})


def _names(kept: Path) -> list[str]:
    files = [path for path in kept.rglob("*") if path.is_file() and path.name != SEAL]
    return sorted(path.relative_to(kept).as_posix() for path in files)


def waiting(folder: Path, name: str = "*") -> list[Path]:
    """The trainings in the folder of `unrecorded` that are to be handed over, or the one of that name."""
    return sorted(path.parent for path in folder.glob(f"{name}/{SEAL}"))


def check(kept: Path) -> None:
    """Make sure that a folder holds what was put there.

    Raises:
        WorkflowError: it does not.
    """
    try:
        is_whole = read_json(kept / SEAL) == {name: md5(kept / name) for name in _names(kept)}
    except WorkflowError:
        is_whole = False
    if not is_whole:
        raise WorkflowError(
            f"{kept} is damaged and can't be handed over; delete it. `make record` writes the runs of the models in "
            "this folder from their outputs."
        )


def forget(kept: Path) -> None:
    """Delete one of those that `waiting` gave."""
    (kept / SEAL).unlink()  # first: without it, a folder that a crash leaves half-deleted is no longer one of them
    shutil.rmtree(kept)
