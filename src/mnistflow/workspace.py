"""Where things are, and how files appear there: whole or not at all."""

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
from filelock import FileLock, Timeout

FINISHED = "finished"  # in a training's folder: the MD5 of the model that it came to


class WorkflowError(Exception):
    """What the person at the keyboard can mend; its message is what they read, without a traceback."""


def without_password(text: str) -> str:
    """The text with the password of any address in it blotted out."""
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1:***@", text)


def root() -> Path:
    """The project's folder, also for a stage that `dvc exp run --temp` runs in a copy of it.

    DVC names the real project in DVC_ROOT. The tracking store, downloads and the state of an interrupted training
    belong there: a copy is deleted when its experiment ends.
    """
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def cache() -> Path:
    """The folder for what is not an output of any stage but saves work: downloads, interrupted trainings."""
    return root() / ".cache"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends, delete it when the block raises.

    The folder is made if needed. What a process of this machine left half-written there, because it was killed, is
    deleted. The temporary name keeps the suffix, because NumPy and Keras choose a format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    host = platform.node()
    for left in path.parent.glob(f".*@{host}-{path.name}"):
        if not _is_running(int(left.name[1:].partition("@")[0])):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f".{os.getpid()}@{host}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a write that fails for want of room does not say where
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        # One that was killed stays listed until its parent asks, which in a container may be never.
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


@contextmanager
def unfinished(name: str) -> Iterator[Path]:
    """A folder for what the training `name` can go on from after an interruption, this process's alone meanwhile.

    DVC deletes a stage's outputs before it runs, so it lies outside them. `finish` says that the training is over; but
    until DVC has noted its outputs in dvc.lock, a crash makes DVC run the stage again, and then the folder saves it.
    """
    settle()
    folder = cache() / "training" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print("another process is at the same training; waiting for it", flush=True)
        lock.acquire()
    try:
        folder.mkdir(exist_ok=True)
        yield folder
    finally:
        if not folder.is_dir():
            Path(lock.lock_file).unlink()
        lock.release()


def finish(folder: Path, model: Path) -> None:
    """Note in the folder of `unfinished` that its training came to this model."""
    write_text(folder / FINISHED, md5(model))


def settle() -> None:
    """Delete what finished trainings could go on from, once dvc.lock has their models."""
    for mark in (cache() / "training").glob(f"*/{FINISHED}"):
        with suppress(FileNotFoundError, Timeout), FileLock(f"{mark.parent}.lock", blocking=False) as lock:
            if is_vouched(mark.read_text(encoding="utf-8", errors="replace")):
                shutil.rmtree(mark.parent)
                Path(lock.lock_file).unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write `array` as .npy, whole or not at all.

    `np.save` would do, but hands a full disk on as an error that does not say so.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(np.ascontiguousarray(array).data)


def read_json(path: Path) -> Any:
    """The value in the JSON file `path`.

    Raises:
        WorkflowError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WorkflowError(f"{path} is missing; `dvc repro` makes it.") from error
    except ValueError as error:
        raise WorkflowError(f"{path} is not JSON ({error}); delete it and run `dvc repro`.") from error


def check_vouched(path: Path) -> None:
    """Make sure that dvc.lock knows the file by its hash: that it came out of this pipeline, and whole.

    A Keras archive can hold code; one that somebody else put there is not to be loaded.

    Raises:
        WorkflowError: the file is missing, or its hash is not in dvc.lock.
    """
    if not path.is_file():
        raise WorkflowError(f"{path} is missing; `dvc repro` makes it.")
    if not is_vouched(md5(path)):
        raise WorkflowError(
            f"{path} is not the file that dvc.lock describes and will not be loaded; "
            "run `dvc repro`, or `dvc checkout --force` to have that file back."
        )


def is_vouched(file_md5: str) -> bool:
    """Whether dvc.lock has a file with this hash."""
    lock = Path("dvc.lock")
    return lock.is_file() and f" {file_md5}\n".encode() in lock.read_bytes()


def md5(path: Path) -> str:
    """The file's MD5 in hex: the same hash that DVC writes into dvc.lock, so that the two can be compared."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
