"""Data-parallel training in several processes: `python cluster/hosts.py MODEL OUTPUT` starts two on this host.

On several hosts, run the same command on each, in clones with the same data, with Keras' own variables:

    KERAS_DISTRIBUTION_JOB_ADDRESSES    the address at which process 0 listens, such as 10.0.0.1:7000
    KERAS_DISTRIBUTION_NUM_PROCESSES    the number of processes (also for processes on one host)
    KERAS_DISTRIBUTION_PROCESS_ID       the index of this process, from 0

Each process has the whole network and a share of the images, and so of each batch. Gradients, batch statistics and
losses are those of the whole batch (Keras' DataParallel, on JAX). Process 0 alone writes: the files of the train stage,
into OUTPUT, the run in MLflow, and a state after each epoch, from which all processes resume.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mnistflow.core import cli, params
from mnistflow.core.errors import WorkflowError
from mnistflow.data import arrays
from mnistflow.data.arrays import Split
from mnistflow.training.history import Epoch

ADDRESSES, COUNT, ID = (f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID"))
STARTER = "MNISTFLOW_HOSTS_STARTER"  # the process ID of the starting process, for the processes that it starts
AGAIN = "the same command goes on after the last finished epoch"


def main(name: str, output: Path) -> None:
    """Run one process of the training, or start all of them here."""
    if name not in (known := params.load().models):
        raise WorkflowError(f"there is no model {name!r}; {', '.join(known)} are known.")
    if find_spec("jax") is None:
        raise WorkflowError("JAX is not installed here; `make cluster` adds it.")
    if ID in os.environ:
        take_part(name, output)
    else:
        start(name, output)


def start(name: str, output: Path) -> None:
    """Run all processes on this host. When one is lost, end the others."""
    count = os.environ.get(COUNT, "2")
    if not count.isdecimal() or int(count) < 1:
        raise WorkflowError(f"{COUNT} is {count!r}; a number of processes is expected.")
    check_divides(name, int(count))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # JAX would listen on all network interfaces.
    own = {ADDRESSES: address, COUNT: count, STARTER: str(os.getpid()), "JAX_COORDINATOR_BIND_ADDRESS": address}
    command = [sys.executable, __file__, name, str(output)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    processes = [
        # In a session of its own, because Ctrl-C is for this process, which forwards it.
        subprocess.Popen(command, env=os.environ | own | {ID: str(index)}, start_new_session=True)
        for index in range(int(count))
    ]
    try:
        while None in (ends := [process.poll() for process in processes]) or any(ends):
            for index, end in enumerate(ends):
                if end:
                    reason = f"signal {-end}" if end < 0 else "see above"
                    raise WorkflowError(f"process {index} of {count} was lost ({reason}); {AGAIN}.")
            time.sleep(0.1)
    except KeyboardInterrupt:
        for process in processes:
            process.send_signal(signal.SIGINT)
        raise WorkflowError(f"interrupted; {AGAIN}.") from None
    finally:
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)  # process 0 ends its run in MLflow
            process.kill()
            process.wait()


def check_divides(name: str, count: int) -> None:
    """Check that the batch size is a multiple of the number of devices.

    Raises:
        WorkflowError: it is not.
    """
    size = params.load().models[name].batch_size
    if size % count:
        raise WorkflowError(f"models.{name}.batch_size is {size}, no multiple of the {count} devices.")


def check_starter() -> None:
    """Check that the starting process, which would stop this one, still runs.

    Raises:
        WorkflowError: it has ended.
    """
    starter = os.environ.get(STARTER)
    if starter and os.getppid() != int(starter):
        raise WorkflowError(f"the process that started this one is gone; {AGAIN}.")


def take_part(name: str, output: Path) -> None:
    """Run one process of the training."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax

    from mnistflow.training import loop
    from mnistflow.training.backend import keras

    try:
        keras.distribution.initialize()
    except (ValueError, RuntimeError) as error:  # JaxRuntimeError is a RuntimeError
        values = ", ".join(f"{key}={os.environ.get(key)}" for key in (ADDRESSES, COUNT, ID))
        raise WorkflowError(f"the processes can't connect ({error}); correct {values}.") from error
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    index, count, devices = jax.process_index(), jax.process_count(), jax.device_count()
    settings = params.load().models[name]
    check_divides(name, devices)
    parts = [arrays.DATA / part for part in ("training", "validation")]
    hashes = [arrays.sha256(part) for part in parts]
    fingerprint = loop.fingerprint(name, settings, *hashes, f"{count} processes")
    if from_first(fingerprint.encode()) != fingerprint.encode():
        raise WorkflowError("parameters, code, versions or images here are not those of process 0.")
    share_settings = settings.model_copy(update={"batch_size": settings.batch_size // count})
    images = [share(arrays.load(part), index, count) for part in parts]

    def train(state: Path, on_epoch: Callable[[Sequence[Epoch], float], None]) -> tuple[Any, Any]:
        classes = len(arrays.describe().classes)
        trained = loop.train(name, share_settings, *images, classes, received(state), on_epoch)
        keras.distribution.set_distribution(None)  # afterwards, process 0 computes alone
        return trained

    try:
        if index == 0:
            lead(name, output, fingerprint, count, train)
        else:
            with tempfile.TemporaryDirectory() as folder:
                train(Path(folder, "state.npz"), lambda *_: check_starter())
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if "Gloo" not in str(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise WorkflowError(f"process {index} of {count} lost touch with another ({reason}); {AGAIN}.") from error


def lead(name: str, output: Path, fingerprint: str, count: int, train: Callable[..., tuple[Any, Any]]) -> None:
    """Run process 0: as the train stage does, write the outputs and the MLflow run."""
    from mnistflow.tracking import runs
    from mnistflow.training import loop, state

    settings, dataset = params.load().models[name], arrays.describe()
    training, sha256 = arrays.load(arrays.DATA / "training"), arrays.sha256(arrays.DATA / "training")
    details = {"model": name, **loop.describe(settings, dataset, training, sha256), "processes": count}
    print(f"{name}, number of processes: {count}; {len(training.labels):,} images; loss (accuracy):", flush=True)
    with state.folder(fingerprint) as folder:
        with runs.training(folder / runs.FILE, details) as run:

            def on_epoch(rows: Sequence[Epoch], seconds: float) -> None:
                print(loop.epoch_line(rows, seconds), flush=True)
                run.log_epochs(rows, seconds)
                check_starter()

            model, progress = train(folder / "state.npz", on_epoch)
            loop.write(output, details, model, progress)
            run.log_outputs(output, model, arrays.load(arrays.DATA / "validation"), progress.seconds)
        if not (folder / state.UNRECORDED).is_file():  # if it is, the same command completes the MLflow run
            shutil.rmtree(folder)
    print(f"The model and its history are in {output}.   Next: make ui")


def share(split: Split, index: int, count: int) -> Split:
    """Every `count`th image from `index` on: as many for each process, so that all take as many steps."""
    size = len(split.labels) // count
    return Split(*(array[index::count][:size] for array in split))


def received(state: Path) -> Path:
    """Copy the file `state` of process 0, if it has one, to every process; returns its path."""
    content = from_first(state.read_bytes() if state.is_file() else b"")
    if content and not state.is_file():
        state.write_bytes(content)
    return state


def from_first(content: bytes) -> bytes:
    """Broadcast the `content` of process 0. All processes must call this."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    size = int(broadcast_one_to_all(np.int32(len(content))))
    padded = np.frombuffer(content[:size].ljust(size, b"\0"), np.uint8)
    return bytes(broadcast_one_to_all(padded)) if size else b""


if __name__ == "__main__":
    try:
        cli.run(main)
    except SystemExit as end:
        if ID in os.environ:  # a normal exit would wait for the other processes, which wait for this one
            sys.stdout.flush()
            os._exit(int(end.code or 0))
        raise
