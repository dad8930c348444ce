"""An MLflow server with PostgreSQL, for a team: `python cluster/server.py FOLDER PORT DATABASE_PORT`.

Runs both servers on 127.0.0.1 until Ctrl-C. Everything is in FOLDER, which is made if needed:

    postgres/     the database
    artifacts/    the runs' artifacts
    pgpass        the database's password, generated here, in the format of PostgreSQL's clients (PGPASSFILE)
    *.log         the output of the two servers

PostgreSQL comes from the system's packages (Debian: postgresql). Started by root, it runs as the user postgres.
"""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mnistflow.core import cli
from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import replacing

HOST = "127.0.0.1"
NAME = "mnistflow"  # of the database and its owner
DEBIAN = Path("/usr/lib/postgresql")  # Debian's folder of PostgreSQL's programs, by version; they are not in PATH


def main(folder: Path, port: str, database_port: str) -> None:
    """Run both servers until one of them ends, or until Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a script's background jobs ignore SIGINT by default
        signal.signal(number, signal.default_int_handler)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with database(folder, database_port) as stored, mlflow_server(folder, port, database_port) as served:
            print(f"The record of {folder}, until Ctrl-C:   http://{HOST}:{port}")
            print(f"Its database: PGPASSFILE={folder / 'pgpass'}   {address(database_port)}")
            print(f"Next, in each shell that is to use it: export MLFLOW_TRACKING_URI=http://{HOST}:{port}", flush=True)
            while stored.poll() is None and served.poll() is None:
                time.sleep(0.5)
            lost = "PostgreSQL" if stored.poll() is not None else "the MLflow server"
        raise WorkflowError(f"{lost} ended; {folder}/*.log say why.")
    except KeyboardInterrupt:
        print(f"\nstopped; the same command goes on with the record in {folder}")


def address(database_port: str) -> str:
    """The database's address for SQLAlchemy, without the password, which is in PGPASSFILE."""
    return f"postgresql+psycopg://{NAME}@{HOST}:{database_port}/{NAME}"


@contextmanager
def database(folder: Path, port: str) -> Iterator[subprocess.Popen[bytes]]:
    """A running PostgreSQL server with its data in `folder`, which are made at the first start."""
    _check_free(port)
    owner, programs = _owner(), _programs(folder)
    if not (folder / "postgres").is_dir():
        _make(folder, programs, owner)
    # No Unix socket, whose path may have at most 107 characters.
    settings = {"listen_addresses": HOST, "port": port, "unix_socket_directories": ""}
    command = [str(programs / "postgres"), "-D", str(folder / "postgres")]
    command += [f"--{name}={value}" for name, value in settings.items()]
    log = folder / "postgres.log"
    # SIGINT is PostgreSQL's fast shutdown, which does not wait for clients to disconnect.
    with _running(command, log, signal.SIGINT, cwd="/", **owner) as process:
        is_ready = [str(programs / "pg_isready"), "--quiet", "--host", HOST, "--port", port]
        _wait(process, lambda: subprocess.run(is_ready, check=False).returncode == 0, "PostgreSQL", log)
        yield process


def _make(folder: Path, programs: Path, owner: dict[str, Any]) -> None:
    """Make the database in a temporary folder and rename it, so that a crash leaves no incomplete one."""
    print(f"Making a database in {folder} ...", flush=True)
    new, password = folder / "postgres.new", secrets.token_urlsafe(24)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    if owner:
        os.chown(new, owner["user"], owner["group"])
    # The superuser has no password and so can't connect; single-user mode needs none.
    initdb = [str(programs / "initdb"), "--pgdata", str(new), "--encoding=UTF8", "--locale=C"]
    single = [str(programs / "postgres"), "--single", "-D", str(new), "postgres"]
    roles = f"CREATE ROLE {NAME} LOGIN PASSWORD '{password}'\nCREATE DATABASE {NAME} OWNER {NAME}\n"
    for command, text in (([*initdb, "--auth-local=reject", "--auth-host=scram-sha-256"], ""), (single, roles)):
        done = subprocess.run(command, input=text, cwd="/", capture_output=True, text=True, check=False, **owner)
        if done.returncode or "ERROR:" in done.stderr:
            message = " ".join(done.stderr.split())
            whose = "; it runs as the user postgres, who must be able to reach that folder" if owner else ""
            raise WorkflowError(f"{Path(command[0]).name} can't make a database in {folder}: {message}{whose}.")
    with replacing(folder / "pgpass") as temporary:
        temporary.touch(0o600)
        temporary.write_text(f"{HOST}:*:{NAME}:{NAME}:{password}\n", encoding="utf-8")
    new.rename(folder / "postgres")


def _owner() -> dict[str, Any]:
    """Options of Popen for the user that PostgreSQL runs as: this user, or postgres instead of root."""
    if os.getuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError as error:
        raise WorkflowError(
            "PostgreSQL refuses to run as root, and there is no user postgres; start this as somebody else."
        ) from error
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _programs(folder: Path) -> Path:
    """The folder of PostgreSQL's programs, of the version of the data in `folder`, or else of the newest version."""
    file = folder / "postgres/PG_VERSION"
    version = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    if folders := sorted(DEBIAN.glob(f"{version or '*'}/bin"), key=lambda path: float(path.parent.name)):
        return folders[-1]
    if elsewhere := shutil.which("initdb"):
        return Path(elsewhere).resolve().parent
    raise WorkflowError(
        f"PostgreSQL {version}".strip() + " is not installed; on Debian: apt-get install --no-install-recommends "
        "postgresql, of which only the programs are needed (pg_dropcluster --stop VERSION main)."
    )


@contextmanager
def mlflow_server(folder: Path, port: str, database_port: str) -> Iterator[subprocess.Popen[bytes]]:
    """A running MLflow server that uses the database."""
    _check_free(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", port]
    (folder / "artifacts").mkdir(exist_ok=True)  # for cluster/move.py, before there is an artifact
    command += ["--backend-store-uri", address(database_port), "--artifacts-destination", str(folder / "artifacts")]
    # No processes for jobs, which are for language models.
    settings = {"PGPASSFILE": str(folder / "pgpass"), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "mlflow.log"

    def answers() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
            return True
        return False

    with _running(command, log, signal.SIGTERM, env=os.environ | settings) as process:
        _wait(process, answers, "the MLflow server", log)
        yield process


def _check_free(port: str) -> None:
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise WorkflowError(f"{port} is no port; a number from 1 to 65535 is expected.")
    with socket.socket() as probe:
        if probe.connect_ex((HOST, int(port))) == 0:
            raise WorkflowError(f"port {port} is taken; stop what listens there, or choose another one.")


@contextmanager
def _running(
    command: Sequence[str], log: Path, stop: signal.Signals, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, which Ctrl-C does not reach; the signal `stop` ends it after the block."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, **options
        )
    try:
        yield process
    finally:
        process.send_signal(stop)
        process.wait()


def _wait(process: subprocess.Popen[bytes], is_ready: Callable[[], bool], name: str, log: Path) -> None:
    until = time.monotonic() + 120
    while not is_ready():
        if process.poll() is not None or time.monotonic() > until:
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            raise WorkflowError(f"{name} does not start: {' '.join(lines[-4:]).strip()} ({log} has the rest).")
        time.sleep(0.1)


if __name__ == "__main__":
    cli.run(main)
