"""Files -> arrays of images and labels.

IDX, as MNIST's authors define it: two zero bytes, a type code (0x08 is an unsigned byte), the number of dimensions,
each dimension as a big-endian 32-bit integer, then the values in row-major order.
"""

import math
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mnistflow.core.errors import WorkflowError
from mnistflow.data.arrays import Split


def read_idx_part(folder: Path, part: str, classes: int) -> Split:
    """The images (n, height, width) and labels (n,) of `train` or `test`, both uint8.

    Raises:
        WorkflowError: a file is missing or not what IDX says, the two files do not belong together, or a label is out
            of the range of `classes`.
    """
    images_path, labels_path = folder / f"{part}_images", folder / f"{part}_labels"
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise WorkflowError(
            f"{images_path} holds {len(images)} images, but {labels_path} holds {len(labels)} labels; "
            "the two do not belong together."
        )
    if not len(labels):
        raise WorkflowError(f"{images_path} holds no image.")
    if labels.max() >= classes:
        position = int(labels.argmax())
        raise WorkflowError(
            f"{labels_path}: label {labels[position]} at position {position} is out of range; "
            f"datasets.yaml has {classes} classes, so 0 to {classes - 1} are allowed."
        )
    return Split(images, labels)


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes with so many dimensions.

    Raises:
        WorkflowError: missing, wrong magic number, or not as long as its header says.
    """
    magic = struct.pack(">HBB", 0, 0x08, dimensions)
    start = len(magic) + 4 * dimensions
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise WorkflowError(f"{path} is missing; `dvc repro fetch` brings it.") from error
    if len(content) < start or not content.startswith(magic):
        raise WorkflowError(
            f"{path} begins with {content[:4].hex() or 'nothing'}; an IDX file of unsigned bytes with {dimensions} "
            f"dimension{'s' * (dimensions > 1)} begins with {magic.hex()}."
        )
    shape = struct.unpack(f">{dimensions}I", content[len(magic) : start])
    if math.prod(shape) != len(content) - start:
        raise WorkflowError(
            f"{path}: the header promises {' x '.join(map(str, shape))} = {math.prod(shape)} bytes, "
            f"but {len(content) - start} follow."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def write_idx(path: Path, values: npt.NDArray[np.uint8]) -> None:
    """Write an array of bytes as an IDX file."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 0x08, values.ndim, *values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + np.ascontiguousarray(values).tobytes())


def write_digits(output: Path) -> None:
    """Write scikit-learn's 1,797 8x8 digits as IDX files of 28x28 images, the last 300 as the test set.

    Each image is brought to 24x24 by linear interpolation, its 0-16 to 0-255, with a margin of 2 pixels around.
    """
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    large = zoom(small.reshape(-1, 8, 8), (1, 3, 3), order=1, grid_mode=True, mode="nearest")
    images = np.pad(np.rint(large * (255 / 16)), ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    for part, chosen in (("train", slice(None, -300)), ("test", slice(-300, None))):
        write_idx(output / f"{part}_images", images[chosen])
        write_idx(output / f"{part}_labels", labels[chosen].astype(np.uint8))
