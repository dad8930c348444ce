"""Arrays -> training, validation and test sets, and the .npy files that hold them."""

import hashlib
import mmap
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnistflow.datasets import CLASSES, SIZE, Images, Labels
from mnistflow.workspace import WorkflowError, write_array


class Split(NamedTuple):
    """A set of images and what they show."""

    images: Images  # (n, 28, 28) uint8
    labels: Labels  # (n,) uint8


def hold_out(labels: Labels, size: int, seed: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Indices of the images to train on and of the `size` images held out, both ascending.

    Seeded and stratified: each class is held out in its share of the whole, to within one image.

    Raises:
        WorkflowError: a class has too few images to appear on both sides.
    """
    from sklearn.model_selection import train_test_split

    try:
        train, held_out = train_test_split(np.arange(len(labels)), test_size=size, stratify=labels, random_state=seed)
    except ValueError as error:
        raise WorkflowError(f"split.validation: {size} of {len(labels)} images can't be held out: {error}") from error
    return np.sort(train), np.sort(held_out)


def save(folder: Path, split: Split) -> None:
    """Write images.npy and labels.npy into `folder`, each whole or not at all."""
    for name, array in zip(Split._fields, split, strict=True):
        write_array(folder / f"{name}.npy", array)


def load(folder: Path) -> Split:
    """The split in `folder`, memory-mapped: pages are read when they are used, and never written.

    Raises:
        WorkflowError: a file is missing, is no .npy file, or does not hold what a split holds.
    """
    split = Split(_load(folder / "images.npy"), _load(folder / "labels.npy"))
    shape = (len(split.labels), SIZE, SIZE)
    if split.images.shape != shape or split.labels.ndim != 1 or {split.images.dtype, split.labels.dtype} != {_UINT8}:
        raise WorkflowError(
            f"{folder}: images are {split.images.dtype} {split.images.shape} and labels {split.labels.dtype} "
            f"{split.labels.shape}; uint8 (n, {SIZE}, {SIZE}) and uint8 (n,) are expected; run `dvc repro preprocess`."
        )
    return split


def take(images: Images, indices: npt.NDArray[np.integer[Any]]) -> Images:
    """`images[indices]`, read from the file where the images are memory-mapped.

    Through the mapping, every page that was ever looked at would count as this process's memory.

    Raises:
        WorkflowError: the file is gone, or has become shorter.
    """
    if not isinstance(images, np.memmap) or not isinstance(images.base, mmap.mmap):  # or only a part of a mapped one
        taken: Images = images[indices]
        return taken
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


def sha256(folder: Path) -> str:
    """A hash of the split in `folder`, in hex. Reads the files in pieces; nothing of them stays in memory."""
    digest = hashlib.sha256()
    for name in Split._fields:
        with (folder / f"{name}.npy").open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


_UINT8 = np.dtype(np.uint8)


def _load(path: Path) -> npt.NDArray[np.uint8]:
    try:
        array: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise WorkflowError(f"{path} is missing; `dvc repro preprocess` makes it.") from error
    except (ValueError, EOFError) as error:
        raise WorkflowError(f"{path} is damaged ({error}); delete it and run `dvc repro preprocess`.") from error
    return array


def class_counts(labels: Labels) -> list[int]:
    """How many images each of the ten classes has."""
    return [int(count) for count in np.bincount(labels, minlength=CLASSES)]


def one_hot(label: int) -> list[int]:
    """The label as ten numbers: 1 in its own place, 0 elsewhere."""
    return [int(label == place) for place in range(CLASSES)]


def as_text(image: npt.NDArray[np.uint8]) -> str:
    """A (28, 28) image as the grid of numbers 0 to 255 that it is."""
    return "\n".join("".join(f"{value:4d}" for value in row) for row in image)
