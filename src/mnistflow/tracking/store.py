"""Connect to the MLflow store, check it, and turn its errors into sentences."""

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
# By default, MLflow asks a server that is down seven times, which takes four minutes.
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
from mnistflow.tracking.status import address

EXPERIMENT = "mnistflow"
# Beside mlflow.db. A relative address, so that the record survives when the folder moves.
ARTIFACTS = "mlruns"


class TrackingError(WorkflowError):
    """The tracking store can't be used, or no longer answers."""


@contextmanager
def session() -> Iterator[None]:
    """Change to the project's folder; inside, errors of the store become one sentence.

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


def name_user() -> None:
    """Give the user a name where the system has none, as in a container: MLflow asks for it."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"user {os.getuid()}"


def connect() -> None:
    """Set MLflow's tracking store and experiment; both are made if needed.

    Raises:
        TrackingError: the store can't be used.
    """
    for name, level in {"mlflow": "ERROR", "mlflow.store": "CRITICAL", "alembic": "WARNING"}.items():
        logging.getLogger(name).setLevel(level)  # `session` puts the store's errors into a sentence
    name_user()
    file = sqlite_file()  # first, because it may refuse the address
    mlflow.set_tracking_uri(address())
    with session():
        if address().startswith("http"):
            _check_server()
        if file and file.is_file():
            _check_file(file)
        # No lock where nothing is made, because the store may be read-only.
        if (file and not file.is_file()) or mlflow.get_experiment_by_name(EXPERIMENT) is None:
            with alone():
                if file and not file.is_file():
                    _make_file(file)
                _make_experiment(file)
        mlflow.set_experiment(EXPERIMENT)


def _check_server() -> None:
    """Check that the server has the same major version of MLflow.

    Raises:
        TrackingError: it has another one.
    """
    ours = version("mlflow")
    with suppress(requests.RequestException):  # MLflow's first request reports a server that does not answer
        answer = requests.get(f"{address().rstrip('/')}/version", timeout=30)
        if answer.ok and answer.text.partition(".")[0].isdigit() and answer.text.split(".")[0] != ours.split(".")[0]:
            raise TrackingError(
                f"the MLflow server {without_password(address())} has version {answer.text.strip()}, and {ours} here "
                "needs one of the same generation; upgrade it, or choose another store by MLFLOW_TRACKING_URI."
            )


def sqlite_file() -> Path | None:
    """The file of a store in SQLite, relative to the project's folder; None for other stores.

    Raises:
        TrackingError: the address names no file, or has a port that is no number.
    """
    try:
        url = make_url(address())
        if url.get_backend_name() == "sqlite":
            if not url.database or url.database.startswith((":memory:", "file:")):
                raise TrackingError(f"MLFLOW_TRACKING_URI is {address()}, which names no file; sqlite:///FILE does.")
            return Path(url.database)
    except ValueError as error:  # its message may contain a part of the password
        raise TrackingError(
            f"the MLflow tracking store {without_password(address())} has a port that is no number; correct "
            "MLFLOW_TRACKING_URI (in a password, %40 stands for @, %3A for : and %2F for /)."
        ) from error
    except SQLAlchemyError:  # not an address of a database
        pass
    return None


def alone() -> AbstractContextManager[Any]:
    """A lock on an SQLite store, in which two processes that start at once would both make the tables."""
    file = sqlite_file()
    return FileLock(root() / f"{file}.lock") if file else nullcontext()


def _make_file(file: Path) -> None:
    """Make an SQLite store in a temporary folder and move it here, so that a crash leaves no incomplete one."""
    if file.is_symlink():
        raise TrackingError(f"the MLflow tracking store {file} is a link to {file.readlink()}, which is missing.")
    if file.exists():  # a folder, a device, a pipe: it would be replaced
        raise TrackingError(f"the MLflow tracking store {file} is no file; choose another path in MLFLOW_TRACKING_URI.")
    with TemporaryDirectory() as folder, replacing(file) as temporary:
        new = Path(folder, file.name)
        mlflow.MlflowClient(f"sqlite:///{new}").search_experiments()  # makes the tables
        shutil.copyfile(new, temporary)


def _check_file(file: Path) -> None:
    """Check the integrity of an SQLite store before anything is written to it."""
    # Opened for writing, if possible, to roll back the last change of a process that was killed.
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
    """Make the experiment, unless another process has just made it. `file` is the store's, if it is in SQLite."""
    if mlflow.get_experiment_by_name(EXPERIMENT) is not None:
        return
    artifacts = ARTIFACTS if file else None  # None: the server's default
    try:
        experiment = mlflow.create_experiment(EXPERIMENT, artifacts, descriptions.EXPERIMENT_TAGS)
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":  # made by another client of the server
            return
        raise
    if file:
        # MLflow makes the address absolute (mlflow#3144), and only its table can be changed to a relative one.
        with closing(sqlite3.connect(file, timeout=60)) as database, database:
            change = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"
            database.execute(change, (ARTIFACTS, experiment))


def client() -> mlflow.MlflowClient:
    """A client of the store."""
    return mlflow.MlflowClient()


def experiment_id() -> str:
    """The ID of the experiment."""
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return str(experiment.experiment_id)
