"""Training images -> images to train on and images held out, and what a data set looks like in numbers."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mnistflow.core.errors import WorkflowError
from mnistflow.data.arrays import Labels, Split


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
        raise WorkflowError(
            f"split.validation is {size}, but so many of the {len(labels)} training images can't be held out: {error}"
        ) from error
    return np.sort(train), np.sort(held_out)


def class_counts(labels: Labels, classes: int) -> list[int]:
    """The number of images of each class."""
    return [int(count) for count in np.bincount(labels, minlength=classes)]


def overview(dataset: str, parts: Mapping[str, Split], classes: Sequence[str]) -> str:
    """The data set in text: its counts, its first training image as numbers, and its label as a one-hot vector."""
    counts = {name: class_counts(split.labels, len(classes)) for name, split in parts.items()}
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
