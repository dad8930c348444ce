"""Keras, set up for this machine: the one module that knows which backend computes, and how.

Import `keras` from here. What it sets must be in the environment before Keras is imported; a variable that is set
already wins:

- KERAS_BACKEND: `tensorflow`, or `jax` where that is installed.
- XLA_FLAGS: of JAX's kernels on a GPU, those that always add in the same order.
- TF_ENABLE_ONEDNN_OPTS: 1. TensorFlow leaves oneDNN's kernels off on processors without AVX-512; they are up to twice
  as fast there. Results differ in the last bits from those without, and are the same on every run with.
- TF_CPP_MIN_LOG_LEVEL: 2, errors only.

Threads are TensorFlow's own choice: as many as the process may use processors.
"""

import itertools
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from mnistflow.datasets import SIZE, Images, Labels
from mnistflow.workspace import WorkflowError

NAME = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if NAME not in ("tensorflow", "jax") or find_spec(NAME) is None:
    raise WorkflowError(f"KERAS_BACKEND is {NAME!r}; tensorflow, or jax where it is installed, is expected.")
os.environ.setdefault("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Written by TensorFlow's libraries while they load, before they read any setting that could silence them.
NOISE = ("oneDNN custom operations are on", "before absl::InitializeLog() is called")


@contextmanager
def _without_noise() -> Iterator[None]:
    """Hold back what the process writes to its standard error, and pass it on afterwards less the lines of NOISE."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            lines = held.read().decode(errors="replace").splitlines(keepends=True)
            sys.stderr.write("".join(line for line in lines if not any(noise in line for noise in NOISE)))


with _without_noise():
    import keras

    if NAME != "tensorflow":
        with suppress(ImportError):
            import tensorflow  # noqa: F401  # Keras would, in the middle of a training

__all__ = ["compile_options", "fed", "identity", "keras", "make_reproducible"]

Batch = tuple[Images, Labels]
HANDFUL = 10  # batches
ROUNDING = ("TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")  # they change the last bits


def make_reproducible(seed: int) -> None:
    """Seed Python, NumPy and the backend; on a GPU, choose kernels that always add in the same order."""
    keras.utils.set_random_seed(seed)
    if NAME == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            tf.config.experimental.enable_op_determinism()


def compile_options() -> dict[str, Any]:
    """What `Model.compile` should be told: several steps for each return to Python, and whether XLA pays off."""
    if NAME == "tensorflow":
        # XLA's convolutions are slower than oneDNN's on a processor.
        return {"jit_compile": False, "steps_per_execution": 10}
    return {"jit_compile": "auto"}


def identity() -> str:
    """What computes, as far as the last bits of results depend on it."""
    return " ".join([NAME, import_module(NAME).__version__, *(f"{key}={os.environ.get(key)}" for key in ROUNDING)])


@contextmanager
def fed(batches: Iterable[Batch], count: int) -> Iterator[Any]:
    """What `Model.fit` should be given for so many batches (images, labels), all of a size but the last.

    A WorkflowError of making one is raised as it is, where TensorFlow made another exception of it.

    TensorFlow makes the next ones while it trains on the last, and is handed several at a time: each handing over costs
    it half a millisecond. Its own tuning of such a pipeline is off: at the end of an epoch, it waits for the tuner's
    current period to be over, and these double up to a minute. An epoch of 22 seconds took 41.
    """
    if NAME != "tensorflow":
        yield iter(batches)
        return
    import tensorflow as tf

    failures: list[WorkflowError] = []

    def made() -> Iterator[Batch]:
        try:
            yield from batches
        except WorkflowError as error:
            failures.append(error)
            raise

    def handfuls() -> Iterator[Batch]:
        def alike(item: tuple[int, Batch]) -> tuple[int, int]:
            place, (_, labels) = item
            return place // HANDFUL, len(labels)

        for _, group in itertools.groupby(enumerate(made()), alike):
            images, labels = zip(*(batch for _, batch in group), strict=True)
            yield np.stack(images), np.stack(labels)

    kinds = tuple(tf.TensorSpec((None, None, *shape), tf.uint8) for shape in ((SIZE, SIZE), ()))
    pipeline = tf.data.Dataset.from_generator(handfuls, output_signature=kinds).prefetch(1)
    pipeline = pipeline.flat_map(lambda *handful: tf.data.Dataset.from_tensor_slices(handful))
    options = tf.data.Options()
    options.autotune.enabled = False
    try:
        yield pipeline.apply(tf.data.experimental.assert_cardinality(count)).with_options(options)
    except tf.errors.OpError as error:
        if failures:
            raise failures[0] from error
        raise
