"""The MLflow store: which one, whether it can be used, and one sentence when it can't."""

import getpass
import logging
import os
import shutil
import sqlite3
import textwrap
from collections.abc import Iterator
from contextlib import AbstractContextManager, chdir, closing, contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# MLflow reports its use over the network unless told otherwise before it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Its seven tries at a server that is down take four minutes, before a training that takes one.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # seconds

import mlflow
import requests
from filelock import FileLock
from google.protobuf.json_format import ParseError
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from mnistflow.core.errors import WorkflowError, without_password
from mnistflow.core.files import replacing, root
from mnistflow.tracking import descriptions
from mnistflow.tracking.mark import address

EXPERIMENT = "mnistflow"
# Beside mlflow.db. A relative address, so that the record survives when the folder moves.
ARTIFACTS = "mlruns"


class TrackingError(WorkflowError):
    """The tracking store can't be used, or no longer answers."""


@contextmanager
def session() -> Iterator[None]:
    """Work with the store, in the project's folder; errors on the way become one sentence.

    Raises:
        TrackingError: the store can't be used.
    """
    try:
        with chdir(root()):
            yield
    except (MlflowException, SQLAlchemyError, ParseError, ImportError, OSError, sqlite3.Error) as error:
        reason = str(error)
        if "Can't locate revision" in reason or "out-of-date database schema" in reason:
            reason = (
                f"another version of MLflow than {version('mlflow')} made it; if that one was older, copy the record, "
                f"then run `mlflow db upgrade {address()}`"
            )
        shown = textwrap.shorten(without_password(reason), 400, placeholder=" ...")
        raise TrackingError(
            f"the MLflow tracking store {without_password(address())} can't be used: {shown} "
            "(correct that, or set MLFLOW_TRACKING_URI to another store; unset, it is mlflow.db in this folder)"
        ) from error


def connect() -> None:
    """Choose the tracking store and the experiment; both are made if needed.

    Raises:
        TrackingError: the store can't be used.
    """
    for name, level in {"mlflow": "ERROR", "mlflow.store": "CRITICAL", "alembic": "WARNING"}.items():
        logging.getLogger(name).setLevel(level)  # `session` puts the store's errors into a sentence
    try:
        getpass.getuser()
    except (KeyError, OSError):  # in a container, a user may have no name, and MLflow asks for one
        os.environ["LOGNAME"] = f"user {os.getuid()}"
    file = sqlite_file()  # before MLflow is told of an address that may be refused
    mlflow.set_tracking_uri(address())
    with session():
        if address().startswith("http"):
            _check_server()
        if file and file.is_file():
            _check_file(file)
        # No lock where nothing is made: to look at a record that is read-only needs no writing.
        if (file and not file.is_file()) or mlflow.get_experiment_by_name(EXPERIMENT) is None:
            with alone():
                if file and not file.is_file():
                    _make_file(file)
                _make_experiment(file)
        mlflow.set_experiment(EXPERIMENT)


def _check_server() -> None:
    """Check that the server's version of MLflow can take what this one sends.

    Raises:
        TrackingError: it is of another generation.
    """
    ours = version("mlflow")
    with suppress(requests.RequestException):  # a server that does not answer is reported by the first request
        answer = requests.get(f"{address().rstrip('/')}/version", timeout=30)
        if answer.ok and answer.text.partition(".")[0].isdigit() and answer.text.split(".")[0] != ours.split(".")[0]:
            raise TrackingError(
                f"the MLflow server {without_password(address())} has version {answer.text.strip()}, and {ours} here "
                "needs one of the same generation; upgrade it, or choose another store by MLFLOW_TRACKING_URI."
            )


def sqlite_file() -> Path | None:
    """The file of a store in SQLite, relative to the project's folder; None for other stores.

    Raises:
        TrackingError: it is in memory, where a record would be lost, or its address is an option of SQLite's, or the
            address has a port that is no number.
    """
    try:
        url = make_url(address())
        if url.get_backend_name() == "sqlite":
            if not url.database or url.database.startswith((":memory:", "file:")):
                raise TrackingError(f"MLFLOW_TRACKING_URI is {address()}, which names no file; sqlite:///FILE does.")
            return Path(url.database)
    except ValueError as error:  # its text may hold a part of the password
        raise TrackingError(
            f"the MLflow tracking store {without_password(address())} has a port that is no number; correct "
            "MLFLOW_TRACKING_URI (in a password, %40 stands for @, %3A for : and %2F for /)."
        ) from error
    except SQLAlchemyError:  # not an address of a database
        pass
    return None


def alone() -> AbstractContextManager[Any]:
    """Keep other processes out of an SQLite store: two that start at once would both make its tables."""
    file = sqlite_file()
    return FileLock(root() / f"{file}.lock") if file else nullcontext()


def _make_file(file: Path) -> None:
    """Make an SQLite store with its tables elsewhere, and move it here: a crash half-way would leave it unusable."""
    if file.is_symlink():
        raise TrackingError(f"the MLflow tracking store {file} is a link to {file.readlink()}, which is missing.")
    with TemporaryDirectory() as folder, replacing(file) as temporary:
        made = Path(folder, file.name)
        mlflow.MlflowClient(f"sqlite:///{made}").search_experiments()
        shutil.copyfile(made, temporary)


def _check_file(file: Path) -> None:
    """Look for damage in an SQLite store before anything is written to it: it might show up only much later."""
    # For writing, where it may be: a process that was killed has left its last change to be rolled back.
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", timeout=60, uri=True)) as database:
        try:
            (result,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.OperationalError as error:
            raise TrackingError(f"the MLflow tracking store {file} can't be read: {error}; try again.") from error
        except sqlite3.DatabaseError as error:
            result = str(error)
    if not file.stat().st_size:
        result = "it is empty"
    if result != "ok":
        raise TrackingError(
            f"the MLflow tracking store {file} is damaged ({' '.join(result.split())}); move it aside and run "
            "`make record`: the runs of the models in this folder are written anew."
        )


def _make_experiment(file: Path | None) -> None:
    """Make the experiment, unless another process has just made it; `file` is that of a store in SQLite."""
    if mlflow.get_experiment_by_name(EXPERIMENT) is not None:
        return
    artifacts = ARTIFACTS if file else None  # a server decides by itself
    try:
        made = mlflow.create_experiment(EXPERIMENT, artifacts, descriptions.EXPERIMENT_TAGS)
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":  # a server takes requests of many at once
            return
        raise
    if file:
        # MLflow makes the address absolute (mlflow#3144); nothing but its table lets one make it relative.
        with closing(sqlite3.connect(file, timeout=60)) as database, database:
            change = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"
            database.execute(change, (ARTIFACTS, made))


def client() -> mlflow.MlflowClient:
    """MLflow's client for the store that `connect` chose."""
    return mlflow.MlflowClient()


def experiment_id() -> str:
    """The ID of the experiment that `connect` chose."""
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return str(experiment.experiment_id)
