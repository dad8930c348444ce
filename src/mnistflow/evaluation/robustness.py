"""A model's accuracy on corrupted test images, and its table in metrics/robustness/."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import ROBUSTNESS
from mnistflow.data import arrays
from mnistflow.data.arrays import Images, Split
from mnistflow.evaluation.corruptions import FAMILIES, SEED, corrupted
from mnistflow.evaluation.metrics import Predict

IMAGES = 1000  # of the test set: all of MNIST's 10,000 would take ten times as long, a minute for a large network
PIXELS = 2**22  # that are corrupted at a time
COLUMNS = ("corruption", "level", "setting", "images", "accuracy")
CLEAN = "none"


@dataclass(frozen=True)
class Scores:
    """Accuracies on the same test images: uncorrupted, and by kind of corruption at level 1, 2 and 3."""

    images: int
    clean: float
    families: dict[str, list[float]]

    @property
    def mean(self) -> float:
        """The mean over all families and levels."""
        return float(np.mean(list(self.families.values())))

    def __str__(self) -> str:
        """In a sentence."""
        weakest = min(self.families, key=lambda family: sum(self.families[family]))
        return (
            f"{self.mean:.2%} right on corrupted test images, {self.clean:.2%} on the same {self.images:,} as they "
            f"are; weakest: {weakest}, {', '.join(f'{value:.0%}' for value in self.families[weakest])}"
        )


def subset(count: int) -> npt.NDArray[np.intp]:
    """The indices of the test images that are used, the same ones each time: all, or IMAGES of them."""
    return np.sort(np.random.default_rng(SEED).permutation(count)[:IMAGES])


def measure(predict: Predict, test: Split) -> Scores:
    """Classify a part of the test images as they are, and under each corruption at each level."""
    indices = subset(len(test.labels))
    images, labels = arrays.take(test.images, indices), test.labels[indices]
    size = max(1, PIXELS // images[0].size)

    def accuracy(corrupt: Callable[..., Images]) -> float:
        batches = [images[start : start + size] for start in range(0, len(labels), size)]
        predictions = [predict(corrupt(batch, part=part)).argmax(axis=1) for part, batch in enumerate(batches)]
        return float((np.concatenate(predictions) == labels).mean())

    families = {
        family: [accuracy(partial(corrupted, family=family, level=level)) for level in (1, 2, 3)] for family in FAMILIES
    }
    return Scores(len(labels), accuracy(lambda batch, part: batch), families)


def write(name: str, scores: Scores, folder: Path = ROBUSTNESS) -> None:
    """Write a model's table, MODEL.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerow([CLEAN, 0, "as they are", scores.images, scores.clean])
        for family, accuracies in scores.families.items():
            for level, (setting, value) in enumerate(
                zip(FAMILIES[family].settings(), accuracies, strict=True), start=1
            ):
                table.writerow([family, level, setting, scores.images, value])


def read(name: str, folder: Path = ROBUSTNESS) -> Scores:
    """A model's scores.

    Raises:
        WorkflowError: the file is missing or damaged.
    """
    path = folder / f"{name}.csv"
    if not path.is_file():
        raise WorkflowError(f"{path} is missing; `dvc repro` makes it.")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            clean, *rows = list(csv.DictReader(file))
        families: dict[str, list[float]] = {}
        for row in rows:
            families.setdefault(row["corruption"], []).append(float(row["accuracy"]))
        return Scores(int(clean["images"]), float(clean["accuracy"]), families)
    except (ValueError, KeyError, TypeError) as error:
        raise WorkflowError(f"{path} is damaged ({error!r}); delete it and run `dvc repro`.") from error


def read_all(names: Sequence[str], folder: Path = ROBUSTNESS) -> dict[str, Scores]:
    """The scores of several models, by name."""
    return {name: read(name, folder) for name in names}
