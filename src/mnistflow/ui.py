"""The MLflow record in a browser: `python -m mnistflow.ui PORT`, until Ctrl-C."""

import os
import sys

from mnistflow import cli, store
from mnistflow.workspace import WorkflowError, without_password

# The page for trained models rather than that for language models, with the view that pages.py describes.
PAGE = "/#/experiments/{}/runs?workflowType=machine_learning&viewStateShareKey=results"


def main(port: str) -> None:
    """Say where the runs are, and serve them there, to this machine alone, unless a server does so already."""
    if not (port.isdigit() and 0 < int(port) < 65536):
        raise WorkflowError(f"the port is {port!r}; a number from 1 to 65535 is expected.")
    store.connect()
    address, page = store.address(), PAGE.format(store.experiment())
    if address.startswith("http"):
        print(f"These runs have a server:\n{without_password(address.rstrip('/'))}{page}")
        return
    print(f"The runs (Ctrl-C stops the server):\nhttp://127.0.0.1:{port}{page}", flush=True)
    command = ["-m", "mlflow", "ui", "--backend-store-uri", address, "--host", "127.0.0.1", "--port", port]
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    cli.run(main)
