"""Metrics against values that were published or can be counted by hand."""

from pathlib import Path

import numpy as np
import pytest

from mnistflow.core.errors import WorkflowError
from mnistflow.data.arrays import Split
from mnistflow.evaluation import audit, comparisons, metrics, predictions


def test_wilson_interval_is_the_published_one() -> None:
    # R. G. Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
    assert metrics.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert metrics.wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_headline_by_hand() -> None:
    probabilities = np.full((4, 10), 0.02, np.float32)
    for row in range(4):
        probabilities[row, row] = 0.82
    figures = metrics.headline(probabilities, np.array([0, 1, 2, 9], np.uint8))
    assert figures["accuracy"] == 0.75
    assert figures["errors"] == 1
    assert figures["accuracy_low"] < 0.75 < figures["accuracy_high"]
    assert figures["loss"] == pytest.approx((-3 * np.log(0.82) - np.log(0.02)) / 4, rel=1e-5)
    assert figures["expected_calibration_error"] == pytest.approx(0.82 - 0.75, abs=1e-6)


def test_a_sure_mistake_does_not_cost_infinitely_much() -> None:
    probabilities = np.eye(10, dtype=np.float32)[[0]]
    assert metrics.cross_entropy(probabilities, np.array([1], np.uint8)) == pytest.approx(-np.log(1e-7))


def test_confusion_and_classes_by_hand() -> None:
    labels, predicted = np.array([0, 0, 1, 1, 1], np.uint8), np.array([0, 1, 1, 1, 2])
    matrix = metrics.confusion_matrix(labels, predicted, 10)
    assert matrix.sum() == 5
    assert (matrix[0, 0], matrix[0, 1], matrix[1, 1], matrix[1, 2]) == (1, 1, 2, 1)
    one = metrics.per_class(labels, predicted, 10)[1]
    assert (one["precision"], one["recall"], one["images"]) == (2 / 3, 2 / 3, 3)
    assert metrics.per_class(labels, predicted, 10)[9]["f1"] == 0


def test_calibration_counts_every_image_once() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(10), 500).astype(np.float32)
    labels = np.zeros(500, np.uint8)
    assert sum(row["images"] for row in metrics.calibration(probabilities, labels)) == 500
    sure = np.eye(10, dtype=np.float32)[np.zeros(5, int)]
    assert metrics.expected_calibration_error(sure, np.zeros(5, np.uint8)) == 0


def test_mcnemar_by_hand() -> None:
    labels = np.zeros(100, np.uint8)
    baseline, model = np.zeros(100, int), np.zeros(100, int)
    baseline[:9] = 1  # wrong, of which the model fixes eight
    model[8:10] = 1
    pair = comparisons.compare(labels, baseline, model)
    assert (pair.fixed, pair.introduced) == (8, 1)
    assert pair.gain == pytest.approx(0.07)
    assert pair.mcnemar_p == pytest.approx(2 * (1 + 9) / 2**9)
    same = comparisons.compare(labels, model, model)
    assert (same.gain, same.mcnemar_p) == (0, 1)


def test_a_target_is_spoken_of_where_there_is_one() -> None:
    values = {"parameters": 1, "accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "errors": 1}
    comparison = {"baseline": "one", "selected": "one", "pairs": [], "target_accuracy": 0.95, "target_met": False}
    assert comparisons.table({"one": values}, comparison)[-1].endswith("its 90.00% misses the target of 95.00%")
    assert comparisons.table({"one": values}, comparison | {"target_accuracy": 0})[-1] == "* the selected model"


@pytest.mark.parametrize(
    ("errors", "disputed", "word"),
    [(0, 0, "No"), (3, 0, "Not here"), (3, 1, "In small part"), (3, 2, "Mostly"), (2, 2, "Yes")],
)
def test_the_book_is_answered_by_the_model_with_the_fewest_errors(errors: int, disputed: int, word: str) -> None:
    models = {"worse": {"errors": 9, "disputed": 9}, "better": {"errors": errors, "disputed": disputed}}
    rows = [{"for_other": votes} for votes in (5, 3, 2)]
    audited = {"images": 200, "models": models, "wrong_by_any": 9, "wrong_by_all": [], "disputed": rows}
    assert audit.answer(audited) == (word, "better", errors, errors - disputed, 3, 2)
    text = audit.verdict(audited)
    assert text.startswith(f"{word}. ")
    if errors:
        assert "in 2 of these images, most people see another class than the label, and in the other 1 " in text
        assert "is right on 98.50% to 99.00%." in text
        assert f"{errors - disputed} of its {errors} errors are on labels that nobody disputes." in text


def test_where_no_labels_are_disputed_shared_errors_are_counted() -> None:
    models = {"one": {"errors": 1200, "disputed": 0}}
    audited = {"images": 2000, "models": models, "wrong_by_any": 1200, "wrong_by_all": [{}] * 7, "disputed": []}
    assert audit.answer(audited) is None
    assert audit.verdict(audited) == (
        "Of 2,000 test images, at least one model misclassifies 1,200, and all models misclassify 7. "
        "No disputed labels of this test set are known."
    )


def test_absent_classes_count_in_no_mean() -> None:
    probabilities = np.eye(10, dtype=np.float32)[[0, 1, 1]]
    figures = metrics.headline(probabilities, np.array([0, 1, 1], np.uint8))
    assert figures["macro_f1"] == figures["balanced_accuracy"] == 1


def test_predictions_are_read_as_they_were_written_also_with_many_classes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50, 9, 7, 3), dtype=np.uint8)
    labels = random.integers(0, 300, 50).astype(np.uint16)
    probabilities = random.dirichlet(np.ones(300), 50).astype(np.float32)
    details = {"model": "cnn", "classes": [str(label) for label in range(300)], "metrics": {}}
    predictions.write(tmp_path, Split(images, labels), probabilities, details)
    evaluation = predictions.read(tmp_path)
    np.testing.assert_array_equal(evaluation.labels, labels)
    np.testing.assert_array_equal(evaluation.predictions, probabilities.argmax(axis=1))
    np.testing.assert_allclose(evaluation.confidence, probabilities.max(axis=1), atol=1e-6)
    np.testing.assert_array_equal(evaluation.error_images, images[evaluation.errors])
    (tmp_path / "predictions.csv").write_text("index,actual\n1,x\n")
    with pytest.raises(WorkflowError, match="is damaged"):
        predictions.read(tmp_path)
    (tmp_path / "errors.npy").unlink()
    with pytest.raises(WorkflowError, match=r"errors\.npy is missing"):
        predictions.read(tmp_path)
