"""One training on several hosts: `python cluster/hosts.py MODEL OUTPUT`, which starts two processes on this one.

On hosts of their own, run the same command on each, in clones with the same data, with Keras' own variables:

    KERAS_DISTRIBUTION_JOB_ADDRESSES    where process 0 is to listen, such as 10.0.0.1:7000; the same everywhere
    KERAS_DISTRIBUTION_NUM_PROCESSES    how many there are (also of those that are started on this host)
    KERAS_DISTRIBUTION_PROCESS_ID       which one this is, from 0

Each process holds the whole network and its share of the images, and so of each batch; gradients, batch statistics and
losses are those of the whole batch (Keras' DataParallel, on JAX). Process 0 alone writes: what the train stage would
write, into OUTPUT, the record in MLflow, and a state after each epoch, which it sends to all when the training goes on.
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
ARRAYS = arrays.DATA
STARTER = "MNISTFLOW_HOSTS_STARTER"  # its own process ID, for the processes that it starts
AGAIN = "the same command goes on after the last finished epoch"


def main(name: str, output: Path) -> None:
    """Be one of the processes, or start them all."""
    if name not in (known := params.load().models):
        raise WorkflowError(f"there is no model {name!r}; {', '.join(known)} are known.")
    if find_spec("jax") is None:
        raise WorkflowError("JAX is not installed here; `make cluster` adds it.")
    if ID in os.environ:
        take_part(name, output)
    else:
        start(name, output)


def start(name: str, output: Path) -> None:
    """Run all processes here, on loopback. When one is lost, the others end too."""
    count = os.environ.get(COUNT, "2")
    if not count.isdecimal() or int(count) < 1:
        raise WorkflowError(f"{COUNT} is {count!r}; a number of processes is expected.")
    check_divides(name, int(count))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # JAX would have process 0 listen on all of this machine's addresses.
    own = {ADDRESSES: address, COUNT: count, STARTER: str(os.getpid()), "JAX_COORDINATOR_BIND_ADDRESS": address}
    command = [sys.executable, __file__, name, str(output)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    processes = [
        # Each in a session of its own: Ctrl-C is for this one, which hands it on.
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
                process.wait(timeout=10)  # for process 0 to end its run in MLflow
            process.kill()
            process.wait()


def check_divides(name: str, count: int) -> None:
    """Check that the devices can share a batch equally.

    Raises:
        WorkflowError: the batch size is no multiple of their number.
    """
    size = params.load().models[name].batch_size
    if size % count:
        raise WorkflowError(f"models.{name}.batch_size is {size}, no multiple of the {count} devices.")


def check_variables() -> None:
    """Check Keras' variables, and that process 0 can listen at its address.

    Raises:
        WorkflowError: a variable is missing or has another form, or the port is taken.
    """
    address, count, index = (os.environ.get(key, "") for key in (ADDRESSES, COUNT, ID))
    first, _, port = address.partition(",")[0].rpartition(":")
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)) or not (first and port.isdecimal()):
        raise WorkflowError(
            f"{ADDRESSES}, {COUNT} and {ID} are {address!r}, {count!r} and {index!r}; HOST:PORT of process 0, a "
            "number of processes, and which one this is, from 0, are expected."
        )
    if index == "0":  # JAX would crash
        try:
            socket.create_server((first, int(port))).close()
        except (OSError, OverflowError) as error:
            raise WorkflowError(f"process 0 can't listen at {first}:{port} ({error}); choose another port.") from error


def check_starter() -> None:
    """Check that the process that started this one, and would stop it, is still there.

    Raises:
        WorkflowError: it is gone.
    """
    starter = os.environ.get(STARTER)
    if starter and os.getppid() != int(starter):
        raise WorkflowError(f"the process that started this one is gone; {AGAIN}.")


def take_part(name: str, output: Path) -> None:
    """Be one of the processes."""
    check_variables()
    os.environ["KERAS_BACKEND"] = "jax"
    import jax

    from mnistflow.training import loop
    from mnistflow.training.backend import keras

    keras.distribution.initialize()
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    index, count, devices = jax.process_index(), jax.process_count(), jax.device_count()
    settings = params.load().models[name]
    check_divides(name, devices)
    data = [arrays.sha256(ARRAYS / part) for part in ("training", "validation")]
    fingerprint = loop.fingerprint(name, settings, *data, f"{count} processes")
    if from_first(fingerprint.encode()) != fingerprint.encode():
        raise WorkflowError("parameters, code, versions or images here are not those of process 0.")
    share_settings = settings.model_copy(update={"batch_size": settings.batch_size // count})
    images = [share(arrays.load(ARRAYS / part), index, count) for part in ("training", "validation")]

    def train(state: Path, on_epoch: Callable[[Sequence[Epoch], float], None]) -> tuple[Any, Any]:
        classes = len(arrays.describe().classes)
        trained = loop.train(name, share_settings, *images, classes, received(state), on_epoch)
        keras.distribution.set_distribution(None)  # from here on, process 0 computes alone
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
    """Be process 0: do with the training what the train stage does."""
    from mnistflow.tracking import runs
    from mnistflow.training import loop, state

    settings, dataset = params.load().models[name], arrays.describe()
    training = arrays.load(ARRAYS / "training")
    sha256 = arrays.sha256(ARRAYS / "training")
    details = {**loop.describe(name, settings, dataset, training, sha256), "processes": count}
    processes = "one process" if count == 1 else f"{count} processes"
    print(f"{name} on {processes}, {len(training.labels):,} images; loss (accuracy):", flush=True)
    with state.folder(fingerprint) as folder:
        with runs.training(folder / runs.FILE, details) as run:

            def on_epoch(rows: Sequence[Epoch], seconds: float) -> None:
                print(loop.epoch_line(rows, seconds), flush=True)
                run.log_epochs(rows, seconds)
                check_starter()

            model, progress = train(folder / "state.npz", on_epoch)
            loop.write(output, details, model, progress)
            run.log_outputs(output, arrays.load(ARRAYS / "validation"), progress.seconds)
        if not (folder / state.UNRECORDED).is_file():  # else, the same command completes the record
            shutil.rmtree(folder)
    print(f"The model and its history are in {output}.   Next: make ui")


def share(split: Split, index: int, count: int) -> Split:
    """Every `count`th image from `index` on; as many for each process, so that all take the same number of steps."""
    size = len(split.labels) // count
    return Split(*(array[index::count][:size] for array in split))


def received(state: Path) -> Path:
    """Copy the file `state` of process 0, if it has one, to every process; returns its path."""
    content = from_first(state.read_bytes() if state.is_file() else b"")
    if content and not state.is_file():
        state.write_bytes(content)
    return state


def from_first(content: bytes) -> bytes:
    """The `content` of process 0, in every process. All call this at the same point."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    size = int(broadcast_one_to_all(np.int32(len(content))))
    padded = np.frombuffer(content[:size].ljust(size, b"\0"), np.uint8)
    return bytes(broadcast_one_to_all(padded)) if size else b""


if __name__ == "__main__":
    try:
        cli.run(main)
    except SystemExit as end:
        if ID in os.environ:  # at its end, JAX would wait for the others, who wait for this one
            sys.stdout.flush()
            os._exit(int(end.code or 0))
        raise
