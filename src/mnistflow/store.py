"""The MLflow store: which one, whether it can be used, and one sentence when it can't.

The only module that imports mlflow, but for tracking.py and seal.py, which know what is in a run, and serving.py, which
MLflow stores with each model.
"""

import logging
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

# MLflow reports its use over the network unless told otherwise before it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Its seven tries at a server that is down take four minutes, before a training that takes one.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # seconds; one that hangs is given up after two minutes

import mlflow
from filelock import FileLock
from google.protobuf.json_format import ParseError
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mnistflow import pages
from mnistflow.workspace import WorkflowError, replacing, root, without_password

EXPERIMENT = "mnistflow"


class TrackingError(WorkflowError):
    """The tracking store can't be used, or no longer answers."""


def connect() -> None:
    """Choose the tracking store and the experiment; makes both if needed.

    Raises:
        TrackingError: the store can't be used.
    """
    for name, level in {"mlflow": "WARNING", "mlflow.store": "CRITICAL", "alembic": "WARNING"}.items():
        logging.getLogger(name).setLevel(level)  # what the store says of its errors, `answering` says in a sentence
    mlflow.set_tracking_uri(address())
    with answering(), alone():
        file = sqlite_file()
        if file and file.is_symlink() and not file.exists():
            raise TrackingError(f"the MLflow tracking store {file} is a link to {file.readlink()}, which is missing.")
        if file and file.is_file():
            _check(file)
        elif file:
            _make(file)
        _choose_experiment()


@contextmanager
def answering() -> Iterator[None]:
    """Make one sentence of what can go wrong between here and the tracking store."""
    try:
        with _uninterrupted():
            yield
    except (MlflowException, SQLAlchemyError, ParseError, ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise TrackingError(
            f"the MLflow tracking store {without_password(address())} can't be used: "
            f"{without_password(reason)[:400]} (mend that, or set MLFLOW_TRACKING_URI to another store; "
            "unset, it is mlflow.db in this folder)"
        ) from error


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends, for in the middle of a transaction it leaves the database locked.

    A second one goes through: the store may be one that hangs. Signals are the main thread's; Ray trains in another.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = False

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal held
        if held:
            raise KeyboardInterrupt
        held = True

    before = signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            signal.raise_signal(signal.SIGINT)


def client() -> mlflow.MlflowClient:
    """MLflow's client for the store that `connect` chose: its runs and its registry of models."""
    return mlflow.MlflowClient()


def address() -> str:
    """The store's address: MLFLOW_TRACKING_URI, else mlflow.db in the project's folder, where `mlflow ui` looks.

    A relative path in it is one from the project's folder: an experiment's copy of the project is soon deleted.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme, colon, path = uri.partition("sqlite:///")
    if colon and not scheme:
        return f"sqlite:///{root() / path}"
    return uri if ":" in uri else str(root() / uri)


def _choose_experiment() -> None:
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        # A server keeps artifacts where it likes; those of a bare database would land in the current folder.
        file = sqlite_file()
        beside = (file.parent if file else root()) / "mlruns"
        artifacts = None if address().startswith("http") else beside.as_uri()
        # The tag opens the experiment in the UI's view for trained models rather than that for language models.
        tags = {"mlflow.experimentKind": "custom_model_development", pages.VIEW: pages.view()}
        with suppress(MlflowException):  # somebody else has just made it
            mlflow.create_experiment(EXPERIMENT, artifacts, tags)
    if pages.VIEW not in mlflow.set_experiment(EXPERIMENT).tags:
        with suppress(MlflowException):  # somebody else has just set it
            mlflow.set_experiment_tag(pages.VIEW, pages.view())


def sqlite_file() -> Path | None:
    """The file of a store in SQLite; None for others."""
    scheme, found, path = address().partition("sqlite:///")
    return Path(path) if found and not scheme else None


def _make(file: Path) -> None:
    """Make an SQLite store with its tables elsewhere first: a crash between two of them would leave none usable."""
    with TemporaryDirectory() as folder, replacing(file) as temporary:
        made = Path(folder, file.name)
        mlflow.MlflowClient(f"sqlite:///{made}").search_experiments()
        shutil.copyfile(made, temporary)


def _check(file: Path) -> None:
    """Look for damage in an SQLite store before anything is written to it: it might show up only much later."""
    with closing(sqlite3.connect(file, timeout=60)) as database:
        try:
            (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.OperationalError as error:
            raise TrackingError(f"the MLflow tracking store {file} can't be read: {error}; try again.") from error
        except sqlite3.DatabaseError as error:
            found = str(error)
    if not file.stat().st_size:
        found = "it is empty"
    if found != "ok":
        raise TrackingError(
            f"the MLflow tracking store {file} is damaged ({' '.join(found.split())}); move it aside and run "
            "`make record`: the runs of the models in this folder are written anew."
        )


def alone() -> AbstractContextManager[Any]:
    """Keep others out of an SQLite store while its tables are made: two that start at once would both make them."""
    path = sqlite_file()
    return FileLock(f"{path}.lock") if path else nullcontext()


def experiment() -> str:
    """The ID of the experiment that `connect` chose."""
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return str(experiment.experiment_id)
