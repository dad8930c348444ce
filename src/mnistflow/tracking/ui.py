"""Serve MLflow's pages to this machine: `python -m mnistflow.tracking.ui PORT`, until Ctrl-C."""

import os
import socket
import sys

from mnistflow.core import cli
from mnistflow.core.errors import WorkflowError, without_password
from mnistflow.tracking import store
from mnistflow.tracking.mark import address

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
    print(f"The runs, in a few seconds (Ctrl-C stops the server):\nhttp://127.0.0.1:{port}{page}", flush=True)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    command = ["-m", "mlflow", "ui", "--backend-store-uri", address(), "--host", "127.0.0.1", "--port", port]
    os.execv(sys.executable, [sys.executable, *command, "--uvicorn-opts", "--log-level warning"])


if __name__ == "__main__":
    cli.run(main)
