"""The files of an evaluation: predictions.csv, errors.npy and report.json in evaluation/MODEL/."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import EVALUATION, read_json
from mnistflow.data.arrays import Images, Labels, Split
from mnistflow.evaluation import metrics
from mnistflow.evaluation.metrics import Probabilities


@dataclass(frozen=True)
class Predictions:
    """A model's predictions of the test set, and its report."""

    labels: Labels  # (n,)
    predictions: Labels  # (n,)
    confidence: npt.NDArray[np.float64]  # (n,): the probability of the prediction
    error_images: Images  # the misclassified images, in the order of the test set
    report: dict[str, Any]  # report.json

    @property
    def errors(self) -> npt.NDArray[np.intp]:
        """The indices of the misclassified images in the test set."""
        return np.flatnonzero(self.predictions != self.labels)

    def most_confident_errors(self, most: int) -> npt.NDArray[np.intp]:
        """The positions in `errors` of the first `most` of them, the most confident first."""
        return np.argsort(-self.confidence[self.errors], kind="stable")[:most]

    @property
    def classes(self) -> list[str]:
        """A name per label."""
        classes: list[str] = self.report["classes"]
        return classes

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics/MODEL.json."""
        values: dict[str, Any] = self.report["metrics"]
        return values


def write(folder: Path, test: Split, probabilities: Probabilities, details: dict[str, Any]) -> None:
    """Write an evaluation's files.

    Args:
        folder: evaluation/MODEL.
        test: the test images and their labels.
        probabilities: (n, classes), the model's.
        details: the first entries of report.json: the model, its hash, the classes, its metrics. The per-class table,
            the confusion matrix and the calibration follow.
    """
    folder.mkdir(parents=True, exist_ok=True)
    predictions, count = probabilities.argmax(axis=1), probabilities.shape[1]
    with (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["index", "actual", "predicted", "probability"])
        for index, (label, prediction) in enumerate(zip(test.labels, predictions, strict=True)):
            table.writerow([index, label, prediction, f"{probabilities[index, prediction]:.6f}"])
    # Kept, so that figures of the errors need not open the test set.
    np.save(folder / "errors.npy", test.images[predictions != test.labels])
    report = {
        **details,
        "per_class": metrics.per_class(test.labels, predictions, count),
        "confusion_matrix": metrics.confusion_matrix(test.labels, predictions, count).tolist(),
        "calibration": metrics.calibration(probabilities, test.labels),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read(folder: Path) -> Predictions:
    """An evaluation's files.

    Raises:
        WorkflowError: a file is missing or damaged.
    """
    path = folder / "predictions.csv"
    for file in (path, folder / "errors.npy"):
        if not file.is_file():  # NumPy's error does not name the file
            raise WorkflowError(f"{file} is missing; `dvc repro` makes it.")
    try:
        table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
        labels, predictions = table[:, 1].astype(np.uint16), table[:, 2].astype(np.uint16)
        images: Images = np.load(folder / "errors.npy", allow_pickle=False)
    except (ValueError, IndexError, EOFError) as error:
        raise WorkflowError(f"{folder} is damaged ({error}); run `rm -r {folder} && dvc checkout`.") from error
    return Predictions(labels, predictions, table[:, 3], images, read_json(folder / "report.json"))


def read_all(names: list[str], folder: Path = EVALUATION) -> dict[str, Predictions]:
    """The evaluations of several models, by name.

    Raises:
        WorkflowError: a file is missing or damaged, or the models were evaluated on different images.
    """
    evaluations = {name: read(folder / name) for name in names}
    first = evaluations[names[0]]
    for name, each in evaluations.items():
        if not np.array_equal(each.labels, first.labels) or each.classes != first.classes:
            raise WorkflowError(f"{name} and {names[0]} were evaluated on different test images; run `dvc repro`.")
    return evaluations
