"""Metrics of a model, from its probabilities and the labels."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mnistflow.data.arrays import Images, Labels

Probabilities = npt.NDArray[np.float32]  # (n, classes), each row adds up to 1
Predict = Callable[[Images], Probabilities]


def headline(probabilities: Probabilities, labels: Labels) -> dict[str, float]:
    """The metrics that are compared from commit to commit.

    `loss` is the mean cross-entropy in nats. `accuracy_low` and `accuracy_high` bound the accuracy's 95% interval
    (Wilson 1927). `balanced_accuracy` is the mean of the classes' recalls and `macro_f1` the mean of their F1, both
    over the classes that occur in `labels`.
    """
    predictions = probabilities.argmax(axis=1)
    errors = int((predictions != labels).sum())
    low, high = wilson_interval(len(labels) - errors, len(labels))
    present = [row for row in per_class(labels, predictions, probabilities.shape[1]) if row["images"]]
    return {
        "accuracy": (len(labels) - errors) / len(labels),
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": float(np.mean([row["recall"] for row in present])),
        "errors": errors,  # DVC takes a metric named `error` for a failure to read the file
        "loss": cross_entropy(probabilities, labels),
        "macro_f1": float(np.mean([row["f1"] for row in present])),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
    }


def cross_entropy(probabilities: Probabilities, labels: Labels) -> float:
    """The mean of -log(probability of the true class), in nats; probabilities below 1e-7 count as 1e-7, as in Keras."""
    true_class = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(true_class.clip(min=1e-7)).mean())


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95% score interval of a proportion: E. B. Wilson (1927), "Probable inference"."""
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def per_class(labels: Labels, predictions: npt.NDArray[Any], classes: int) -> list[dict[str, float]]:
    """Precision, recall, F1 and number of images of each class; 0 where a ratio is undefined."""
    from sklearn.metrics import precision_recall_fscore_support

    table = precision_recall_fscore_support(labels, predictions, labels=range(classes), zero_division=0)
    names = ("precision", "recall", "f1", "images")
    return [
        {"class": label, **{name: float(value) for name, value in zip(names, row, strict=True)}}
        for label, row in enumerate(zip(*table, strict=True))
    ]


def confusion_matrix(labels: Labels, predictions: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int64]:
    """Counts, (classes, classes): a row per true class, a column per predicted class."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def calibration(probabilities: Probabilities, labels: Labels, bins: int = 15) -> list[dict[str, float]]:
    """Mean confidence, accuracy and number of images in `bins` equal intervals of confidence, without empty ones."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "confidence": float(confidence[bin_of == index].mean()),
            "accuracy": float(correct[bin_of == index].mean()),
            "images": int((bin_of == index).sum()),
        }
        for index in np.unique(bin_of)
    ]


def expected_calibration_error(probabilities: Probabilities, labels: Labels) -> float:
    """The mean distance of confidence from accuracy over 15 bins, weighted by images.

    C. Guo et al. (2017), "On Calibration of Modern Neural Networks", arXiv:1706.04599.
    """
    rows = calibration(probabilities, labels)
    return sum(row["images"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / len(labels)
