"""Keras, set up for this machine. Import `keras` from here, so that the settings come first.

Set by us, because they change bytes, whatever a user's ~/.keras/keras.json says: 32-bit floats and the channel as the
last dimension. Environment variables that are set already win:

- KERAS_BACKEND: `tensorflow`, or `jax` where that is installed.
- XLA_FLAGS: of JAX's kernels on a GPU, those that always add in the same order.
- TF_ENABLE_ONEDNN_OPTS: 1. TensorFlow leaves oneDNN's kernels off on processors without AVX-512, where they are up to
  twice as fast. They change the last bits of results, in the same way on every run.
- TF_CPP_MIN_LOG_LEVEL: 2, errors only.

Threads are TensorFlow's own choice: as many as the process may use processors.
"""

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from mnistflow.core.errors import WorkflowError
from mnistflow.data.arrays import Images, Labels, piece_size, take

NAME = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if NAME not in ("tensorflow", "jax") or find_spec(NAME) is None:
    raise WorkflowError(f"KERAS_BACKEND is {NAME!r}; tensorflow, or jax where it is installed, is expected.")
os.environ.setdefault("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

keras.config.set_floatx("float32")
keras.config.set_image_data_format("channels_last")
keras.config.set_epsilon(1e-7)
if NAME != "tensorflow":
    with suppress(ImportError):
        import tensorflow  # noqa: F401  # Keras would import it in the middle of a training

__all__ = ["build", "compile_options", "identity", "keras", "make_reproducible", "network", "pipeline", "probabilities"]

Batch = tuple[Images, Labels]
GROUP, GROUP_BYTES = 10, 16_000_000  # batches that are handed to TensorFlow at a time, and their images' bytes: at most
# Variables that change the last bits of results.
ROUNDING = ("TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")


def network(name: str) -> ModuleType:
    """The module mnistflow.networks.NAME, whose `build(shape, classes)` gives the untrained network."""
    return import_module(f"mnistflow.networks.{name}")


def build(name: str, shape: tuple[int, ...], classes: int) -> Any:
    """The untrained network `name` for images of a shape.

    Raises:
        WorkflowError: it can't be built for them, mostly because they are too small for its layers; or what is built is
            no Keras model that gives a probability for each class.
    """
    try:
        model = network(name).build(shape, classes)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise WorkflowError(
            f"the network {name} can't be built for images of {'x'.join(map(str, shape))}: {reason}; if they are too "
            "small, remove the models that use it from params.yaml, or give the data set a larger `size`."
        ) from error
    except AttributeError as error:
        raise WorkflowError(f"src/mnistflow/networks/{name}.py: {error}.") from error
    image = np.arange(math.prod(shape)).reshape(1, *shape).astype(np.uint8)
    output = keras.ops.convert_to_numpy(model(image)) if isinstance(model, keras.Model) else np.zeros(0)
    if output.shape != (1, classes) or not np.isclose(output.sum(), 1, atol=1e-3):
        raise WorkflowError(
            f"src/mnistflow/networks/{name}.py: `build` gives no Keras model whose last layer gives {classes} "
            "probabilities that add up to 1, as Dense(classes, activation='softmax') does."
        )
    return model


def make_reproducible(seed: int) -> None:
    """Seed Python, NumPy and the backend; on a GPU, choose kernels that always add in the same order."""
    keras.utils.set_random_seed(seed)
    if NAME == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            tf.config.experimental.enable_op_determinism()


def compile_options() -> dict[str, Any]:
    """Options for `Model.compile`: how many steps run without a return to Python, and whether XLA compiles them."""
    if NAME == "tensorflow":
        # XLA's convolutions are slower than oneDNN's on a processor.
        return {"jit_compile": False, "steps_per_execution": GROUP}
    return {"jit_compile": "auto"}


def identity() -> str:
    """The backend, its version and the variables on which the last bits of results depend."""
    return " ".join([NAME, import_module(NAME).__version__, *(f"{key}={os.environ.get(key)}" for key in ROUNDING)])


def probabilities(model: Any, images: Images) -> npt.NDArray[np.float32]:
    """The model's probabilities (n, classes) for images, of which a part is in memory at a time."""
    size = piece_size(images)
    parts = (np.arange(start, min(start + size, len(images))) for start in range(0, len(images), size))
    return np.concatenate([model.predict_on_batch(take(images, part)) for part in parts])


@contextmanager
def pipeline(batches: Iterable[Batch], count: int, image_shape: tuple[int, ...]) -> Iterator[Any]:
    """The data for `Model.fit`: `count` batches (images, labels), all of one size but the last.

    TensorFlow prepares the next batches while it trains on the current ones. It is handed several at a time, because
    each handing over takes half a millisecond. The tuner of its data pipeline is off: at the end of an epoch, it would
    wait for the tuner's current period to end, and the periods double up to a minute (an epoch of 22 s took 41 s).

    Raises:
        WorkflowError: as `batches` raised it; TensorFlow would make another exception of it.
    """
    if NAME != "tensorflow":
        yield iter(batches)
        return
    import tensorflow as tf

    failures: list[WorkflowError] = []

    def watched() -> Iterator[Batch]:
        try:
            yield from batches
        except WorkflowError as error:
            failures.append(error)
            raise

    def groups() -> Iterator[Batch]:
        def group_and_size(item: tuple[int, Batch]) -> tuple[int, int]:
            index, (images, labels) = item
            return index // max(1, min(GROUP, GROUP_BYTES // images.nbytes)), len(labels)

        for _, group in itertools.groupby(enumerate(watched()), group_and_size):
            images, labels = zip(*(batch for _, batch in group), strict=True)
            yield np.stack(images), np.stack(labels).astype(np.int32)

    signature = (tf.TensorSpec((None, None, *image_shape), tf.uint8), tf.TensorSpec((None, None), tf.int32))
    data = tf.data.Dataset.from_generator(groups, output_signature=signature).prefetch(1)
    data = data.flat_map(lambda *group: tf.data.Dataset.from_tensor_slices(group))
    options = tf.data.Options()
    options.autotune.enabled = False
    try:
        yield data.apply(tf.data.experimental.assert_cardinality(count)).with_options(options)
    except tf.errors.OpError as error:
        if failures:
            raise failures[0] from error
        raise
