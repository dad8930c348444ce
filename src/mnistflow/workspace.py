"""Where things are, and how files appear there: whole or not at all."""

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
    finally:
        temporary.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as somebody else
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


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
    lock = Path("dvc.lock")
    if not lock.is_file() or f" {md5(path)}\n" not in lock.read_text(encoding="utf-8"):
        raise WorkflowError(
            f"{path} is not the file that dvc.lock describes and will not be loaded; "
            "run `dvc repro`, or `dvc checkout --force` to have that file back."
        )


def md5(path: Path) -> str:
    """The file's MD5 in hex: the same hash that DVC writes into dvc.lock, so that the two can be compared."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
