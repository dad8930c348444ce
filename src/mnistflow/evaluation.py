"""Predictions -> metrics, intervals and comparisons, and the files that hold what was predicted."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnistflow.datasets import CLASSES, Images, Labels
from mnistflow.workspace import WorkflowError, read_json, replacing, write_array, write_json

Probabilities = npt.NDArray[np.float32]  # (n, 10), each row adds up to 1


@dataclass(frozen=True)
class Evaluated:
    """What a model said about the test set."""

    labels: Labels  # (n,)
    predictions: Labels  # (n,)
    confidence: npt.NDArray[np.float64]  # (n,): the probability given to the prediction
    wrong_images: Images  # (errors, 28, 28), in the order of the test set
    classes: list[str]  # a name per label

    @property
    def wrong(self) -> npt.NDArray[np.intp]:
        """The indices of the misclassified images."""
        return np.flatnonzero(self.predictions != self.labels)


@dataclass(frozen=True)
class Comparison:
    """A model against a baseline on the same test images."""

    gain: float  # accuracy of the model minus accuracy of the baseline
    fixed: int  # images that only the baseline gets wrong
    introduced: int  # images that only the model gets wrong
    mcnemar_p: float  # probability of so uneven a pair of counts, were both equally likely to err


def headline(probabilities: Probabilities, labels: Labels) -> dict[str, float]:
    """The figures that are compared from commit to commit, all of the test set.

    `loss` is the mean cross-entropy in nats. `accuracy_low` and `accuracy_high` bound the accuracy's 95% interval
    (Wilson 1927). `macro_f1` is the mean of the classes' F1.
    """
    predictions = probabilities.argmax(axis=1)
    errors = int((predictions != labels).sum())
    low, high = wilson_interval(len(labels) - errors, len(labels))
    return {
        "accuracy": (len(labels) - errors) / len(labels),
        "accuracy_low": low,
        "accuracy_high": high,
        "errors": errors,  # DVC takes a metric named `error` for a failure to read the file
        "loss": cross_entropy(probabilities, labels),
        "macro_f1": float(np.mean([row["f1"] for row in per_class(labels, predictions)])),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
    }


def cross_entropy(probabilities: Probabilities, labels: Labels) -> float:
    """The mean of -log(probability of the true class), in nats; probabilities below 1e-7 count as 1e-7, as in Keras."""
    of_truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(of_truth.clip(min=1e-7)).mean())


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95% score interval of a proportion: E. B. Wilson (1927), "Probable inference"."""
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def per_class(labels: Labels, predictions: npt.NDArray[Any]) -> list[dict[str, float]]:
    """Precision, recall, F1 and number of images of each of the ten classes; 0 where a ratio is undefined."""
    from sklearn.metrics import precision_recall_fscore_support

    table = precision_recall_fscore_support(labels, predictions, labels=range(CLASSES), zero_division=0)
    names = ("precision", "recall", "f1", "images")
    return [
        {"class": label, **{name: float(value) for name, value in zip(names, row, strict=True)}}
        for label, row in enumerate(zip(*table, strict=True))
    ]


def confusion_matrix(labels: Labels, predictions: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Counts, (10, 10): a row per true class, a column per predicted class."""
    matrix = np.zeros((CLASSES, CLASSES), np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def calibration(probabilities: Probabilities, labels: Labels, bins: int = 15) -> list[dict[str, float]]:
    """How sure and how right the model is, in `bins` equal intervals of its confidence; empty ones are left out."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "confidence": float(confidence[place == bin].mean()),
            "accuracy": float(right[place == bin].mean()),
            "images": int((place == bin).sum()),
        }
        for bin in np.unique(place)
    ]


def expected_calibration_error(probabilities: Probabilities, labels: Labels) -> float:
    """The mean distance of confidence from accuracy over 15 bins, weighted by images.

    C. Guo et al. (2017), "On Calibration of Modern Neural Networks", arXiv:1706.04599.
    """
    rows = calibration(probabilities, labels)
    return sum(row["images"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / len(labels)


def compare(labels: Labels, baseline: npt.NDArray[Any], model: npt.NDArray[Any]) -> Comparison:
    """Two models' predictions on the same images, with McNemar's exact test (McNemar 1947)."""
    from scipy.stats import binomtest

    baseline_right, model_right = baseline == labels, model == labels
    fixed = int((model_right & ~baseline_right).sum())
    introduced = int((baseline_right & ~model_right).sum())
    p = float(binomtest(fixed, fixed + introduced, 0.5).pvalue) if fixed + introduced else 1.0
    return Comparison((fixed - introduced) / len(labels), fixed, introduced, p)


def write(folder: Path, images: Images, labels: Labels, probabilities: Probabilities, model: dict[str, Any]) -> None:
    """Write what a model said about the test set: predictions.csv, errors.npy, report.json.

    `model` goes into the report as it is; the rest of the report is the per-class table, the confusion matrix and the
    calibration. errors.npy holds the misclassified images, so that whoever shows them need not open the test set.
    """
    predictions = probabilities.argmax(axis=1)
    with replacing(folder / "predictions.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["index", "actual", "predicted", "probability"])
        for index, (label, prediction) in enumerate(zip(labels, predictions, strict=True)):
            table.writerow([index, label, prediction, f"{probabilities[index, prediction]:.6f}"])
    write_array(folder / "errors.npy", images[predictions != labels])
    report = {
        **model,
        "per_class": per_class(labels, predictions),
        "confusion_matrix": confusion_matrix(labels, predictions).tolist(),
        "calibration": calibration(probabilities, labels),
    }
    write_json(folder / "report.json", report)


def read(folder: Path) -> Evaluated:
    """What `write` wrote.

    Raises:
        WorkflowError: a file is missing or damaged.
    """
    path = folder / "predictions.csv"
    try:
        table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
        labels, predictions = table[:, 1].astype(np.uint8), table[:, 2].astype(np.uint8)
        images: Images = np.load(folder / "errors.npy", allow_pickle=False)
    except FileNotFoundError as error:
        raise WorkflowError(f"{error.filename} is missing; `dvc repro` makes it.") from error
    except (ValueError, IndexError, EOFError) as error:
        raise WorkflowError(f"{folder} is damaged ({error}); run `dvc checkout {folder} --force`.") from error
    return Evaluated(labels, predictions, table[:, 3], images, read_json(folder / "report.json")["classes"])
