"""Where the MLflow record is, and whether it is up to date.

Without MLflow, whose import takes seconds: `make repro` with nothing to do needs no more than this.
"""

import json
import os
from typing import Any

from mnistflow.core.files import LOCK, cache, md5, root, write_text

DEFAULT = "sqlite:///mlflow.db"
FILE = "recorded.json"


def address() -> str:
    """The address of the MLflow store: MLFLOW_TRACKING_URI, or mlflow.db, relative to the project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT


def is_up_to_date() -> bool:
    """Whether the record holds all outputs: nothing that it depends on has changed since `write`."""
    try:
        return bool(json.loads((cache() / FILE).read_text(encoding="utf-8")) == _state())
    except (FileNotFoundError, ValueError):  # ValueError: it is damaged, and written anew with the record
        return False


def write() -> None:
    """Note in a file that the record is up to date with the present outputs."""
    write_text(cache() / FILE, json.dumps(_state()))


def _state() -> dict[str, Any]:
    """What `make record` depends on: the pipeline's outputs, the store, interrupted trainings."""
    interrupted = {path.parent.name: path.stat().st_mtime for path in (cache() / "training").glob("*/run.json")}
    return {
        "outputs": md5(LOCK) if LOCK.is_file() else None,
        "store": address(),
        "exists": address() != DEFAULT or (root() / "mlflow.db").is_file(),
        "interrupted": interrupted,
    }
