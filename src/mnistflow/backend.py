"""Keras, set up for this machine: the one module that knows which backend computes, and how.

Import `keras` from here. What it sets must be in the environment before Keras is imported; a variable that is set
already wins:

- KERAS_BACKEND: `tensorflow`, or `jax` where that is installed.
- TF_ENABLE_ONEDNN_OPTS: 1. TensorFlow leaves oneDNN's kernels off on processors without AVX-512; they are up to twice
  as fast there. Results differ in the last bits from those without, and are the same on every run with.
- TF_CPP_MIN_LOG_LEVEL: 2, errors only.

Threads are TensorFlow's own choice: as many as the process may use processors.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
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

    if keras.backend.backend() != "tensorflow":
        with suppress(ImportError):
            import tensorflow  # noqa: F401  # Keras would, in the middle of a training

__all__ = ["compile_options", "keras", "make_reproducible", "pipeline_workers"]


def make_reproducible(seed: int) -> None:
    """Seed Python, NumPy and the backend; on a GPU, choose kernels that always add in the same order."""
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            tf.config.experimental.enable_op_determinism()


def compile_options() -> dict[str, Any]:
    """What `Model.compile` should be told: several steps for each return to Python, and whether XLA pays off."""
    if keras.backend.backend() == "tensorflow":
        # XLA's convolutions are slower than oneDNN's on a processor.
        return {"jit_compile": False, "steps_per_execution": 10}
    return {"jit_compile": "auto"}


def pipeline_workers() -> int:
    """How many threads should make the batches of a `PyDataset`; their order is the same with any number.

    With one, TensorFlow tunes the pipeline while it runs, and waits at an epoch's end until the tuner's current period
    is over. Those double, up to a minute: an epoch of 22 seconds took 41. With more than one, Keras on JAX loses the
    batch from which it learns the shapes.
    """
    return 2 if keras.backend.backend() == "tensorflow" else 1
