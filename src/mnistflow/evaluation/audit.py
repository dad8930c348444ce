"""The models' errors compared with each other, and with the labels that people dispute.

The book says that 100% is out of reach because the test set holds unreadable digits. `answer` checks that.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnistflow.core.errors import WorkflowError
from mnistflow.data.catalog import PEOPLE, Dispute
from mnistflow.evaluation.predictions import Predictions


def audit(evaluations: Mapping[str, Predictions], disputes: Sequence[Dispute]) -> dict[str, Any]:
    """Count the errors on disputed labels, those that all models share, and those that one model makes alone.

    Args:
        evaluations: the models' predictions of the same test set, by name.
        disputes: the labels that people dispute; empty where nobody has asked people.

    Returns:
        `images`, their number; `models`, for each its number of `errors`, of those on `disputed` labels, and of those
        that it makes `alone`; `wrong_by_any`, a number; `wrong_by_all` and `disputed`, a row per image; `verdict`, in
        words.
        Where there are several models and no disputes, `wrong_by_all` begins with the images on whose other class the
        models agree most surely: candidates for wrong labels.

    Raises:
        WorkflowError: the disputes belong to another test set.
    """
    labels = next(iter(evaluations.values())).labels
    for dispute in disputes:
        label = int(labels[dispute.image]) if dispute.image < len(labels) else None
        if label != dispute.label:
            raise WorkflowError(
                f"datasets.yaml lists disputed labels of another test set: image {dispute.image} has label {label} "
                f"here, and {dispute.label} in the list; correct `disputed` in that entry."
            )
    wrong = np.array([each.predictions != labels for each in evaluations.values()])  # (models, images)
    is_alone = wrong.sum(axis=0) == 1
    is_disputed = np.zeros(len(labels), bool)
    is_disputed[[dispute.image for dispute in disputes]] = True

    def row(index: int) -> dict[str, Any]:
        predictions = {name: int(each.predictions[index]) for name, each in evaluations.items()}
        confidence = min(float(each.confidence[index]) for each in evaluations.values())
        return {"index": index, "label": int(labels[index]), "predictions": predictions, "confidence": confidence}

    shared = [row(int(index)) for index in np.flatnonzero(wrong.all(axis=0))]
    result: dict[str, Any] = {
        "images": len(labels),
        "models": {
            name: {
                "errors": int(errors.sum()),
                "disputed": int((errors & is_disputed).sum()),
                "alone": int((errors & is_alone).sum()),
            }
            for name, errors in zip(evaluations, wrong, strict=True)
        },
        "wrong_by_any": int(wrong.any(axis=0).sum()),
        "wrong_by_all": sorted(shared, key=_certainty) if not disputes else shared,
        "disputed": [
            {
                **row(dispute.image),
                "other": dispute.other,
                "for_label": dispute.for_label,
                "for_other": dispute.for_other,
                "for_neither": PEOPLE - dispute.for_label - dispute.for_other,
            }
            for dispute in disputes
        ],
    }
    return {**result, "verdict": verdict(result)}


def _certainty(row: Mapping[str, Any]) -> tuple[bool, float, int]:
    """A sort key: first the images on which all models agree, and of these the most confident first."""
    return len(set(row["predictions"].values())) > 1, -row["confidence"], row["index"]


class Answer(NamedTuple):
    """Whether the book is right that no model can reach 100%, because of the test set's labels."""

    word: str  # Yes, Mostly, In small part, Not here, No
    model: str  # the one with the fewest errors
    errors: int  # of that model
    undisputed: int  # of these, those on labels that nobody disputes
    disputed: int  # labels in the test set
    for_other: int  # of these, those where most people see one other class


def answer(audited: Mapping[str, Any]) -> Answer | None:
    """The answer of an audit to the book; None where no labels are disputed."""
    if not audited["disputed"]:
        return None
    model = min(audited["models"], key=lambda name: (audited["models"][name]["errors"], name))
    errors, on_disputed = audited["models"][model]["errors"], audited["models"][model]["disputed"]
    if not errors:
        word = "No"
    elif on_disputed == errors:
        word = "Yes"
    else:
        word = "Mostly" if 2 * on_disputed >= errors else "In small part" if on_disputed else "Not here"
    for_other = sum(row["for_other"] > PEOPLE / 2 for row in audited["disputed"])
    return Answer(word, model, errors, errors - on_disputed, len(audited["disputed"]), for_other)


def verdict(audited: Mapping[str, Any]) -> str:
    """The result of an audit in words."""
    result = answer(audited)
    images = audited["images"]
    if not result:
        return (
            f"Of {images:,} test images, at least one model misclassifies {audited['wrong_by_any']:,}, and all models "
            f"misclassify {len(audited['wrong_by_all']):,}. No disputed labels of this test set are known."
        )
    if not result.errors:
        return f"{result.word}. {result.model} classifies all {images:,} test images as they are labelled."
    without_majority = result.disputed - result.for_other
    return (
        f"{result.word}. People dispute {result.disputed} of {images:,} labels: in {result.for_other} of these images, "
        f"most people see another class than the label, and in the other {without_majority} they agree on none. "
        f"A model that answers as they do is right on {1 - result.disputed / images:.2%} to "
        f"{1 - result.for_other / images:.2%}. {result.model} is right on {1 - result.errors / images:.2%}, and "
        f"{result.undisputed} of its {result.errors} errors are on labels that nobody disputes."
    )


def pixels(evaluations: Mapping[str, Predictions]) -> dict[int, npt.NDArray[np.uint8]]:
    """The images that any model got wrong, by index in the test set."""
    by_model = (zip(each.errors, each.error_images, strict=True) for each in evaluations.values())
    return {int(index): image for pairs in by_model for index, image in pairs}
