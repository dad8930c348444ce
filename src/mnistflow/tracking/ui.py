"""Serve MLflow's pages to this machine: `python -m mnistflow.tracking.ui PORT`, until Ctrl-C."""

import os
import socket
import sys
import time
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException

from mnistflow.core import cli
from mnistflow.core.errors import WorkflowError, without_password
from mnistflow.core.processes import child
from mnistflow.tracking import store
from mnistflow.tracking.status import address

# The pages for trained models rather than those for language models, with the view of descriptions.py.
PAGE = "/#/experiments/{}/runs?workflowType=machine_learning&viewStateShareKey=results"

# No messages that hide the address, and no processes for jobs.
QUIET = {"PYTHONWARNINGS": "ignore", "MLFLOW_LOGGING_LEVEL": "WARNING", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def main(port: str = "5000") -> None:
    """Print the address of the runs, and serve them there, unless a server does so already."""
    if not (port.isdigit() and 0 < int(port) < 65536):
        raise WorkflowError(f"the port is {port!r}; a number from 1 to 65535 is expected.")
    store.connect()
    with store.session():
        page = PAGE.format(store.experiment_id())
    if address().startswith("http"):
        print(f"These runs have a server:\n{without_password(address().rstrip('/'))}{page}")
        return
    try:
        socket.create_server(("127.0.0.1", int(port))).close()
    except OSError as error:
        raise WorkflowError(
            f"port {port} can't be used ({os.strerror(error.errno or 0)}); make ui PORT=... takes another."
        ) from error
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", address()]
    options = ["--host", "127.0.0.1", "--port", port, "--uvicorn-opts", "--log-level warning"]
    print("The server starts ...", flush=True)
    with suppress(KeyboardInterrupt), child([*command, *options], env=QUIET | os.environ) as server:
        while not answers(int(port)):
            if server.poll() is not None:
                raise WorkflowError("`mlflow ui` failed, see above.")
            time.sleep(0.2)
        print(f"The runs (Ctrl-C stops the server):\nhttp://127.0.0.1:{port}{page}", flush=True)
        server.wait()


def answers(port: int) -> bool:
    """Whether MLflow's server answers on this port."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    with closing(connection), suppress(OSError, HTTPException):
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


if __name__ == "__main__":
    cli.run(main)
