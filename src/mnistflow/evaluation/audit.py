"""Whose mistake is it? The models' errors against each other and against the labels that people dispute.

A textbook says that 100% is out of reach because the test set holds unreadable digits; `verdict` answers it in numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mnistflow.core.errors import WorkflowError
from mnistflow.data.catalog import PEOPLE, Dispute
from mnistflow.evaluation.predictions import Predictions


def audit(evaluations: Mapping[str, Predictions], disputes: Sequence[Dispute]) -> dict[str, Any]:
    """How many of each model's errors are on disputed labels, shared by all models, or made by no other model.

    Args:
        evaluations: the models' predictions of the same test set, by name.
        disputes: the labels that people dispute; empty where nobody has asked people.

    Returns:
        `images`, their number; `models`, for each its `errors` and how many of them are `disputed` and its own
        `alone`; `wrong_by_any`, a number; `wrong_by_all` and `disputed`, a row per image; `verdict`, a sentence.
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
    alone = wrong & (wrong.sum(axis=0) == 1)
    listed = np.zeros(len(labels), bool)
    listed[[dispute.image for dispute in disputes]] = True

    def row(index: int) -> dict[str, Any]:
        predictions = {name: int(each.predictions[index]) for name, each in evaluations.items()}
        confidence = min(float(each.confidence[index]) for each in evaluations.values())
        return {"index": index, "label": int(labels[index]), "predictions": predictions, "confidence": confidence}

    shared = [row(int(index)) for index in np.flatnonzero(wrong.all(axis=0))]
    result: dict[str, Any] = {
        "images": len(labels),
        "models": {
            name: {
                "errors": int(wrong[place].sum()),
                "disputed": int((wrong[place] & listed).sum()),
                "alone": int(alone[place].sum()),
            }
            for place, name in enumerate(evaluations)
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
    """Sorts images first on which all models agree, the surest first."""
    return len(set(row["predictions"].values())) > 1, -row["confidence"], row["index"]


def verdict(audited: Mapping[str, Any]) -> str:
    """The answer of `audit` to the book's claim, by the model with the fewest errors."""
    best = min(audited["models"], key=lambda name: (audited["models"][name]["errors"], name))
    errors, listed = audited["models"][best]["errors"], audited["models"][best]["disputed"]
    images, disputes = audited["images"], len(audited["disputed"])
    accuracy = 1 - errors / images
    if not errors:
        return f"{'No: ' * (disputes > 0)}{best} gives all {images:,} test images their label."
    if not disputes:
        return (
            "Nobody is known to have asked people about this test set, so its unreadable images can't be counted; "
            f"of the {audited['wrong_by_any']} images that any model gets wrong, all models share "
            f"{len(audited['wrong_by_all'])}."
        )
    otherwise = sum(row["for_other"] > PEOPLE / 2 for row in audited["disputed"])
    answer = (
        "Yes" if listed == errors else "Mostly" if 2 * listed >= errors else "In small part" if listed else "Not here"
    )
    return (
        f"{answer}: of {images:,} test images, most people read {otherwise} as another class than their label, and on "
        f"{disputes - otherwise} they agree on none, so who reads as they do ends between "
        f"{1 - disputes / images:.2%} and {1 - otherwise / images:.2%}; {best}, at {accuracy:.2%}, makes "
        f"{errors - listed} of its {errors} errors on images whose label nobody on record disputes."
    )


def pixels(evaluations: Mapping[str, Predictions]) -> dict[int, npt.NDArray[np.uint8]]:
    """The images that any model got wrong, by index in the test set."""
    found = (zip(each.errors, each.error_images, strict=True) for each in evaluations.values())
    return {int(index): image for pairs in found for index, image in pairs}
