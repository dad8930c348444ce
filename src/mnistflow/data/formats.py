"""Files -> arrays of images and labels. Three formats:

- IDX, as MNIST's authors define it: two zero bytes, a type code (0x08 is an unsigned byte), the number of dimensions,
  each dimension as a big-endian 32-bit integer, then the values in row-major order;
- NPZ, NumPy's archive of named arrays, with the names of Keras or of MedMNIST;
- CSV, a row per image, as in Kaggle's digit recognizer.
"""

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnistflow.core.errors import WorkflowError
from mnistflow.data import preparation
from mnistflow.data.arrays import Split
from mnistflow.data.catalog import Dataset

Array = npt.NDArray[Any]

# The arrays of an .npz file by part.
KERAS = {"training": ("x_train", "y_train"), "test": ("x_test", "y_test")}
MEDMNIST = {
    "training": ("train_images", "train_labels"),
    "validation": ("val_images", "val_labels"),
    "test": ("test_images", "test_labels"),
}
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4"}  # of IDX files with integers


def read(dataset: Dataset, folder: Path) -> dict[str, Split]:
    """The parts in the files in `folder`: training, and, where the data set has them, validation and test.

    Raises:
        WorkflowError: a file is damaged or not in its format, or a label is out of range.
    """
    if dataset.format == "npz":
        return _read_npz(folder / "arrays", dataset)
    if dataset.format == "csv":
        tables = {"training": "train_table", "test": "test_table"}
        return {part: _read_csv(folder / role, dataset) for part, role in tables.items() if role in dataset.files}
    return {"training": _read_idx_pair(folder, "train", dataset), "test": _read_idx_pair(folder, "test", dataset)}


def as_split(images: Array, labels: Array, dataset: Dataset, images_name: str, labels_name: str) -> Split:
    """Checked images and labels: uint8 (n, height, width) or (n, height, width, 3), and labels from 0.

    A last dimension of 1 is dropped, of images and of labels. Labels are returned in the smallest unsigned type that
    holds all classes. The names are the sources of images and labels, for messages.

    Raises:
        WorkflowError: another type or shape, different lengths, or a label out of range.
    """
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.dtype != np.uint8 or images.shape[3:] not in ((), (3,)) or images.ndim < 3:
        raise WorkflowError(
            f"{images_name} is {images.dtype} {images.shape}; uint8 from 0 to 255 and (images, height, width) in grey "
            "or (images, height, width, 3) in colour are expected."
        )
    if labels.dtype.kind not in "iu" or labels.size != len(labels):
        raise WorkflowError(
            f"{labels_name} is {labels.dtype} {labels.shape}; one integer an image is expected, (images,) or "
            "(images, 1)."
        )
    labels = labels.reshape(-1)
    if len(images) != len(labels):
        raise WorkflowError(
            f"{images_name} holds {len(images)} images, but {labels_name} holds {len(labels)} labels; "
            "the two do not belong together."
        )
    if not images.size:
        raise WorkflowError(f"{images_name} holds no image.")
    first, last = dataset.first_label, dataset.first_label + len(dataset.classes) - 1
    outside = np.flatnonzero((labels < first) | (labels > last))
    if len(outside):
        raise WorkflowError(
            f"{labels_name}: label {labels[outside[0]]} at position {outside[0]} is out of range; "
            f"datasets.yaml has {len(dataset.classes)} classes, so {first} to {last} are allowed."
        )
    smallest = np.min_scalar_type(len(dataset.classes) - 1)
    return Split(images, (labels.astype(np.int64) - first).astype(smallest))


def _read_idx_pair(folder: Path, part: str, dataset: Dataset) -> Split:
    """The images and labels of `train` or `test`."""
    images_path, labels_path = folder / f"{part}_images", folder / f"{part}_labels"
    images, labels = read_idx(images_path, (3, 4)), read_idx(labels_path, (1, 2))
    if dataset.transposed:
        images = images.swapaxes(1, 2)
    return as_split(images, labels, dataset, str(images_path), str(labels_path))


def read_idx(path: Path, dimensions: tuple[int, ...]) -> Array:
    """The integers in an IDX file whose number of dimensions is one of `dimensions`.

    Raises:
        WorkflowError: wrong magic number, or not as long as its header says.
    """
    content = path.read_bytes()
    count = content[3] if len(content) > 3 else 0
    start = 4 + 4 * count
    if len(content) < start or content[:2] != b"\0\0" or content[2] not in TYPES or count not in dimensions:
        raise WorkflowError(
            f"{path} begins with {content[:4].hex() or 'nothing'}; an IDX file of unsigned bytes with "
            f"{' or '.join(map(str, dimensions))} dimensions begins with {f'0000080{dimensions[0]}'}."
        )
    values, shape = np.dtype(TYPES[content[2]]), struct.unpack(f">{count}I", content[4:start])
    size = math.prod(shape) * values.itemsize
    if size != len(content) - start:
        raise WorkflowError(
            f"{path}: the header promises {' x '.join(map(str, shape))} = {size} bytes, "
            f"but {len(content) - start} follow."
        )
    return np.frombuffer(content, values, offset=start).reshape(shape)


def _read_npz(path: Path, dataset: Dataset) -> dict[str, Split]:
    """The parts in an .npz file with Keras' or MedMNIST's names."""
    name = dataset.files["arrays"].name
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = KERAS if "x_train" in arrays.files else MEDMNIST
            pairs = {part: pair for part, pair in names.items() if set(pair) <= set(arrays.files)}
            if not {"training", "test"} <= set(pairs):
                raise WorkflowError(
                    f"{name} has {', '.join(sorted(arrays.files)) or 'nothing'}; x_train, y_train, x_test, y_test or "
                    "train_images, train_labels, test_images, test_labels are expected."
                )
            return {
                part: as_split(arrays[images], arrays[labels], dataset, f"{name}, {images}", f"{name}, {labels}")
                for part, (images, labels) in pairs.items()
            }
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:  # TypeError: one array
        raise WorkflowError(f"{name} is no .npz file of plain arrays, or damaged ({error}).") from error


def _read_csv(path: Path, dataset: Dataset) -> Split:
    """The images in a table with a column `label` and a column for each value, in row-major order."""
    name = dataset.files[path.name].name
    try:
        with path.open(encoding="utf-8-sig") as file:
            columns = [column.strip().strip('"').lower() for column in file.readline().split(",")]
            if "label" not in columns:
                raise WorkflowError(
                    f"{name} begins with the columns {', '.join(columns)[:60]}...; a column `label` is expected."
                )
            table = np.loadtxt(file, np.int32, delimiter=",", ndmin=2)
    except ValueError as error:  # NumPy counts rows after the header
        raise WorkflowError(f"{name} is no table of whole numbers ({error}; row 0 is line 2).") from error
    if not len(table) or table.shape[1] != len(columns):
        raise WorkflowError(f"{name} has {len(columns)} columns in its header and {table.shape[1]} below it.")
    label = columns.index("label")
    pixels = np.delete(table, label, axis=1)
    if pixels.min() < 0 or pixels.max() > 255:
        row = int(np.flatnonzero(((pixels < 0) | (pixels > 255)).any(axis=1))[0])
        raise WorkflowError(f"{name}, line {row + 2}: pixels from 0 to 255 are allowed.")
    side = math.isqrt(pixels.shape[1] // (3 if dataset.colour else 1))
    shape = dataset.shape() or ((side, side, 3) if dataset.colour else (side, side))
    if math.prod(shape) != pixels.shape[1]:
        raise WorkflowError(
            f"{name} has {pixels.shape[1]} pixel columns, which are no {' x '.join(map(str, shape))} image; "
            "set `size: [height, width]`, and `colour: true` for three values a pixel, in its entry in datasets.yaml."
        )
    images = pixels.astype(np.uint8).reshape(-1, *shape)
    return as_split(images, table[:, label], dataset, name, f"{name}, label")


def write_idx(path: Path, values: npt.NDArray[np.uint8]) -> None:
    """Write an array of bytes as an IDX file."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 0x08, values.ndim, *values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + np.ascontiguousarray(values).tobytes())


def write_digits(output: Path) -> None:
    """Write scikit-learn's 1,797 8x8 digits as IDX files of 28x28 images, the last 300 as the test set.

    Each image is enlarged by linear interpolation, its 0-16 to 0-255, and brought into MNIST's form.
    """
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    large = zoom(small.reshape(-1, 8, 8), (1, 3, 3), order=1, grid_mode=True, mode="nearest") * (255 / 16)
    # With a margin, so that the border tells that the background is black.
    padded = np.pad(np.rint(large), ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    images = np.stack([preparation.digit(image, (28, 28))[0] for image in padded])
    for part, chosen in (("train", slice(None, -300)), ("test", slice(-300, None))):
        write_idx(output / f"{part}_images", images[chosen])
        write_idx(output / f"{part}_labels", labels[chosen].astype(np.uint8))
