"""A mark that the record is up to date, so that a `make repro` with nothing to do need not load MLflow."""

import json
import os
from pathlib import Path
from typing import Any

from mnistflow.core.files import LOCK, cache, md5, root, write_text

DEFAULT = "sqlite:///mlflow.db"


def address() -> str:
    """The store's address: MLFLOW_TRACKING_URI, else mlflow.db in the project's folder, where `mlflow ui` looks.

    Relative addresses start at the project's folder.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT


def is_up_to_date() -> bool:
    """Whether nothing has changed since the record was last brought up to date, as far as files tell."""
    return _path().is_file() and bool(json.loads(_path().read_text(encoding="utf-8")) == _state())


def write() -> None:
    """Note that the record is up to date."""
    write_text(_path(), json.dumps(_state()))


def _path() -> Path:
    return cache() / "recorded.json"


def _state() -> dict[str, Any]:
    """All that `make record` depends on: the pipeline's outputs, the store, interrupted trainings."""
    interrupted = {path.parent.name: path.stat().st_mtime for path in (cache() / "training").glob("*/run.json")}
    return {
        "outputs": md5(LOCK) if LOCK.is_file() else None,
        "store": address(),
        "exists": address() != DEFAULT or (root() / "mlflow.db").is_file(),
        "interrupted": interrupted,
    }
