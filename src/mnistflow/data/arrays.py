"""The arrays that training and evaluation read: images and labels as .npy files, and one file that describes them.

data/dataset.json                 the name of the data set, the shape of an image, the names of the classes
data/{training,validation,test}/  images.npy and labels.npy
"""

import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import naming, read_json

Images = npt.NDArray[np.uint8]  # (n, height, width) in grey or (n, height, width, 3) in colour
Labels = npt.NDArray[np.unsignedinteger[Any]]  # (n,): 0 to classes - 1

DATA = Path("data")
DESCRIPTION = DATA / "dataset.json"
PARTS = ("training", "validation", "test")
PIECE = 1_000_000  # bytes of images in a piece, which is what is evaluated at a time


class Split(NamedTuple):
    """Images and their labels."""

    images: Images
    labels: Labels


class Description(NamedTuple):
    """The content of data/dataset.json."""

    dataset: str
    shape: tuple[int, ...]  # of an image: (height, width) in grey, (height, width, 3) in colour
    classes: list[str]  # a name per label
    validation: int | str  # images held out of the training set, or `test`: the test images themselves
    prepare: str | None  # preprocessing for prediction: data/preparation.py


def describe(path: Path = DESCRIPTION) -> Description:
    """The description of the decoded data set.

    Raises:
        WorkflowError: the file is missing or damaged.
    """
    values = read_json(path)
    return Description(**{**values, "shape": tuple(values["shape"])})


def load(folder: Path) -> Split:
    """The split in `folder`, memory-mapped and read-only.

    Raises:
        WorkflowError: a file is missing, is no .npy file, or has another type or shape.
    """
    arrays: list[npt.NDArray[Any]] = []
    for name in Split._fields:
        path = folder / f"{name}.npy"
        try:
            arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
        except FileNotFoundError as error:
            raise WorkflowError(f"{path} is missing; `dvc repro preprocess` makes it.") from error
        except (ValueError, EOFError) as error:
            raise WorkflowError(f"{path} is damaged ({error}); delete it and run `dvc repro preprocess`.") from error
    images, labels = arrays
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.shape != images.shape[:1]:
        raise WorkflowError(
            f"{folder}: images are {images.dtype} {images.shape} and labels {labels.dtype} {labels.shape}; uint8 "
            f"(n, height, width) or (n, height, width, 3), and (n,), are expected; delete it and run `dvc repro`."
        )
    return Split(images, labels)


def save(folder: Path, split: Split) -> None:
    """Write images.npy and labels.npy into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(Split._fields, split, strict=True):
        write_npy(folder / f"{name}.npy", array.shape, array.dtype, [array])


def write_npy(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike, chunks: Iterable[npt.NDArray[Any]]) -> None:
    """Write an .npy file chunk by chunk. `np.save` needs a whole array, and its error on a full disk names no cause."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with naming(path), path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk).data)


def take(images: Images, indices: npt.NDArray[np.integer[Any]]) -> Images:
    """`images[indices]`; where the images are memory-mapped, read from the file with ordinary reads.

    Pages that are read through a memory map count as memory of this process for as long as it lives.

    Raises:
        WorkflowError: the file was deleted or truncated.
    """
    if not isinstance(images, np.memmap) or not isinstance(images.base, mmap.mmap):  # or a slice of a mapped array
        return np.asarray(images[indices])
    size, start = images[0].nbytes, images.offset
    path = Path(str(images.filename))
    try:
        with path.open("rb") as file:
            content = b"".join(os.pread(file.fileno(), size, start + index * size) for index in indices.tolist())
    except FileNotFoundError as error:
        raise WorkflowError(f"{path} is gone; `dvc repro preprocess` makes it anew.") from error
    if len(content) != len(indices) * size:
        raise WorkflowError(f"{path} has become shorter; delete it and run `dvc repro preprocess`.")
    return np.frombuffer(content, np.uint8).reshape(-1, *images.shape[1:])


def piece_size(images: Images) -> int:
    """The number of images in a piece: 1,000 of 28x28, fewer of larger ones, to bound a network's memory."""
    return max(1, min(1000, PIECE // int(images[0].nbytes)))


def pieces(split: Split) -> Iterator[Split]:
    """The split in its order, in pieces of `piece_size` images, each read when it is used.

    Raises:
        WorkflowError: as `take` does.
    """
    size = piece_size(split.images)
    for start in range(0, len(split.labels), size):
        labels = split.labels[start : start + size]
        yield Split(take(split.images, np.arange(start, start + len(labels))), labels)


def sha256(folder: Path) -> str:
    """A hash of the split in `folder`, in hex."""
    digest = hashlib.sha256()
    for name in Split._fields:
        with (folder / f"{name}.npy").open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
