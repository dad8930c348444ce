"""The training, validation and test part of a data set, and its overview in text."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnistflow.core.errors import WorkflowError
from mnistflow.data.arrays import Labels, Split

Indices = npt.NDArray[np.intp]


class Part(NamedTuple):
    """A part of a data set: images, or references to pictures that are not decoded yet."""

    items: npt.NDArray[Any]  # (n,) positions in the list of pictures, or images
    labels: Labels  # (n,)

    def take(self, indices: Indices) -> "Part":
        """The subset with these indices."""
        return Part(self.items[indices], self.labels[indices])


def divide(
    parts: Mapping[str, Part],
    keys: Sequence[bytes],
    test: float | None,
    validation: int | str,
    seed: int,
    classes: Sequence[str],
) -> tuple[dict[str, Part], list[str]]:
    """The training, validation and test part, and notes for the user on a choice that is not the usual one.

    Args:
        parts: the data set's own parts: training, and possibly test and validation.
        keys: a hash of each training image, where there is no test part.
        test: the share to hold out as the test set, where there is no test part.
        validation: `split.validation`: the number of images to hold out, or `test`.
        seed: of the choice of validation images.
        classes: a name per label.

    Raises:
        WorkflowError: a class has too few images.
    """
    training, notes = parts["training"], []
    if "test" in parts:
        held_out = parts["test"]
    else:
        assert test is not None, "the entry has a share where it has no test part"
        rest, chosen = hold_out_test(keys, training.labels, test, classes)
        training, held_out = training.take(rest), training.take(chosen)
        notes.append(
            f"no test part: {len(chosen):,} images, {test:.0%} of each class, are held out as the test set; "
            "`test` in datasets.yaml is that share"
        )
    if validation == "test":
        return {"training": training, "validation": held_out, "test": held_out}, notes
    if "validation" in parts:
        notes.append(
            f"the data set's own validation part, {len(parts['validation'].labels):,} images, is used; "
            f"split.validation, which is {validation}, is not"
        )
        return {"training": training, "validation": parts["validation"], "test": held_out}, notes
    rest, chosen = hold_out(training.labels, int(validation), seed, classes)
    return {"training": training.take(rest), "validation": training.take(chosen), "test": held_out}, notes


def hold_out_test(
    keys: Sequence[bytes], labels: Labels, share: float, classes: Sequence[str]
) -> tuple[Indices, Indices]:
    """Ascending indices of the training images and of the test images, which are `share` of each class.

    The images of a class are ordered by their hashes, and the first ones are held out. So the choice is the same on
    every machine, equal images of a class are on one side, and a new image moves at most one other to the other side.

    Raises:
        WorkflowError: a class has only one image.
    """
    ranks = [hashlib.sha256(b"test" + key).digest() for key in keys]
    order = np.array(sorted(range(len(keys)), key=ranks.__getitem__), np.intp)
    chosen: list[Indices] = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        if len(members) < 2:
            raise WorkflowError(
                f"class {classes[label]!r} has one image; two are needed, one to train with and one to test with."
            )
        size = min(max(round(share * len(members)), 1), len(members) - 1)
        while size < len(members) - 1 and keys[members[size]] == keys[members[size - 1]]:  # equal images
            size += 1
        chosen.append(members[:size])
    test = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), test), test


def hold_out(labels: Labels, size: int, seed: int, classes: Sequence[str]) -> tuple[Indices, Indices]:
    """Ascending indices of the images to train on and of the `size` images held out: a seeded, stratified split.

    Raises:
        WorkflowError: a class has too few images to appear on both sides.
    """
    from sklearn.model_selection import train_test_split

    single = np.flatnonzero(np.bincount(labels) == 1)
    if len(single):
        raise WorkflowError(
            f"class {classes[single[0]]!r} has one training image; two are needed, one of them to hold out."
        )
    classes_here = len(np.unique(labels))
    most = len(labels) - classes_here
    if not classes_here <= size <= most:
        raise WorkflowError(
            f"split.validation in params.yaml is {size}, but from {classes_here} to {most} of the {len(labels)} "
            f"training images can be held out, because each of the {classes_here} classes needs one on both sides."
        )
    train, held_out = train_test_split(np.arange(len(labels)), test_size=size, stratify=labels, random_state=seed)
    return np.sort(train), np.sort(held_out)


def overview(dataset: str, parts: Mapping[str, Split], classes: Sequence[str]) -> str:
    """The data set in text: class counts, the first training image as numbers, its label as a one-hot vector."""
    counts = {name: np.bincount(split.labels, minlength=len(classes)) for name, split in parts.items()}
    width = max(map(len, [*classes, "class"]))
    rows = zip(classes, *counts.values(), strict=True)
    image, label = parts["training"].images[0], int(parts["training"].labels[0])
    grey = image if image.ndim == 2 else image[..., 0]
    return "\n".join(
        [
            f"{dataset}: " + ", ".join(f"{len(split.labels):,} {name}" for name, split in parts.items()),
            "",
            f"{'class':{width}}" + "".join(f"{name:>12}" for name in counts),
            *(f"{name:{width}}" + "".join(f"{count:12,}" for count in row) for name, *row in rows),
            "",
            "the first training image" + ("" if image.ndim == 2 else ", its red channel") + ":",
            *("".join(f"{value:4d}" for value in row) for row in grey),
            f"its class: {classes[label]}",
            f"as a one-hot vector: {[int(label == index) for index in range(len(classes))]}",
            "",
        ]
    )
