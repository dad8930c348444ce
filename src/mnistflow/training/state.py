"""The state from which an interrupted training goes on, and the folder that holds it.

DVC deletes a stage's outputs before it runs, so the folder lies outside of them, in .cache/training. It stays until
dvc.lock lists the trained model: a crash before that makes DVC run the stage again, and then the folder saves the work.
"""

import hashlib
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from mnistflow.core.files import cache, is_locked, replacing, write_text
from mnistflow.training.history import Epoch

DIGEST = hashlib.sha256().digest_size  # bytes, at the end of a state file
MODEL = "model.md5"  # a file with the hash of the model that a finished training made
UNRECORDED = "unrecorded"  # a file that is there while the record in MLflow lacks something of the training


@dataclass
class Progress:
    """The progress of a training: enough, with the model's and the optimizer's variables, to go on."""

    history: list[Epoch] = field(default_factory=list)
    best_weights: list[npt.NDArray[Any]] = field(default_factory=list)
    seconds: float = 0.0  # spent in epochs


@contextmanager
def folder(name: str) -> Iterator[Path]:
    """The folder of the training `name`, for this process alone until the block ends.

    A second process that is to do the same training waits here, and then finds it done.
    """
    delete_finished()
    path = cache() / "training" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print("another process does the same training; waiting for it", flush=True)
        lock.acquire()
    try:
        path.mkdir(exist_ok=True)
        yield path
    finally:
        if not path.is_dir():
            Path(lock.lock_file).unlink()
        lock.release()


def finish(path: Path, model_md5: str) -> None:
    """Note in a training's folder that it is finished, with the hash of its model."""
    write_text(path / MODEL, model_md5)


def delete_finished() -> None:
    """Delete the folders of finished and recorded trainings whose models dvc.lock lists."""
    for file in (cache() / "training").glob(f"*/{MODEL}"):
        path = file.parent
        with suppress(FileNotFoundError, Timeout), FileLock(f"{path}.lock", blocking=False) as lock:
            if is_locked(file.read_text(encoding="utf-8")) and not (path / UNRECORDED).is_file():
                shutil.rmtree(path)
                Path(lock.lock_file).unlink()


def save(path: Path, model: Any, progress: Progress) -> None:
    """Write everything that the rest of the training depends on, whole or not at all."""
    groups = {"model": _values(model), "optimizer": _values(model.optimizer), "best": progress.best_weights}
    arrays = {f"{group}_{index}": value for group, values in groups.items() for index, value in enumerate(values)}
    history = np.array([astuple(epoch) for epoch in progress.history], np.float64)
    with replacing(path) as temporary:
        np.savez(temporary, allow_pickle=False, history=history, seconds=progress.seconds, **arrays)
        with temporary.open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.write(digest)  # the checksums of a zip archive do not cover all of it


def load(path: Path, model: Any) -> Progress | None:
    """Set the model's and its optimizer's variables as they were saved; None if there is no file or it is damaged."""
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
    from mnistflow.training.backend import keras  # not above: `make record` has no need of it

    return [keras.ops.convert_to_numpy(variable) for variable in owner.variables]
