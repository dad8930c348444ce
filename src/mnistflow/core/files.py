"""Where the project's files are, how files are written whole, and which of them can be trusted."""

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from mnistflow.core.errors import WorkflowError

# The pipeline's folders, as dvc.yaml has them; those with arrays are in data/arrays.py.
RAW, OVERVIEW = Path("data/raw"), Path("data/overview")
MODELS = Path("models")  # models/MODEL/: model.keras, history.csv, training.json, summary.txt
EVALUATION = Path("evaluation")  # evaluation/MODEL/: predictions.csv, errors.npy, occlusion.npy, report.json
METRICS, PLOTS, INSIDE = Path("metrics"), Path("plots"), Path("inside")
SELECTED = METRICS / "selected.json"  # the metrics of the selected model
ROBUSTNESS = METRICS / "robustness"  # MODEL.csv
LOCK = Path("dvc.lock")


def root() -> Path:
    """The project's folder, also for a stage that `dvc exp run --temp` runs in a copy of it.

    DVC names the real project in DVC_ROOT. The MLflow store, downloads and the state of interrupted trainings belong
    there, because the copy is deleted when its experiment ends.
    """
    here = Path.cwd()
    outer = os.environ.get("DVC_ROOT")
    # DVC_ROOT is inherited when this project runs inside a stage of another DVC project: only a copy counts.
    is_copy = outer is not None and (Path(outer) / ".dvc/tmp/exps").resolve() in here.resolve().parents
    return Path(outer).resolve() if outer and is_copy else here


def cache() -> Path:
    """The folder for files that save work but are outputs of no stage: downloads, interrupted trainings, locks."""
    return root() / ".cache"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to an error of the block that has none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes its place when the block ends without an error.

    So a reader sees the old file or the new one, never half of one. The folder is made if needed, and temporary files
    of killed processes of this machine are deleted. The temporary name keeps the suffix, because NumPy and Keras choose
    a format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    host = platform.node()
    for leftover in path.parent.glob(f".*@{host}-{path.name}"):
        if not psutil.pid_exists(int(leftover.name[1:].partition("@")[0])):
            leftover.unlink(missing_ok=True)
    temporary = path.with_name(f".{os.getpid()}@{host}-{path.name}")
    try:
        with naming(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


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


def md5(path: Path) -> str:
    """The file's MD5 in hex: the hash that DVC writes into dvc.lock."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def merge_line(text: str) -> int:
    """The number of the line where Git has left both sides of a merge in a file's text; 0 where it has not."""
    lines = text.splitlines()
    return next((number for number, line in enumerate(lines, 1) if line.startswith("<<<<<<< ")), 0)


def is_locked(file_md5: str) -> bool:
    """Whether dvc.lock lists a file with this hash."""
    return LOCK.is_file() and f" {file_md5}\n".encode() in LOCK.read_bytes()


def is_cached(file_md5: str) -> bool:
    """Whether DVC's cache in the project's folder has a file with this hash."""
    return (root() / ".dvc/cache/files/md5" / file_md5[:2] / file_md5[2:]).is_file()


def check_locked(path: Path) -> None:
    """Check that dvc.lock lists the file with its present hash, so that this pipeline made it.

    A Keras archive can hold code: one of unknown origin must not be loaded.

    Raises:
        WorkflowError: the file is missing, or dvc.lock does not list its hash.
    """
    if not path.is_file():
        raise WorkflowError(f"{path} is missing; `dvc repro` makes it.")
    if not is_locked(md5(path)):
        raise WorkflowError(
            f"{path} is not the file that dvc.lock describes and will not be loaded; "
            f"run `rm {path} && dvc checkout` to get that file back, or `dvc repro` to make it anew."
        )
