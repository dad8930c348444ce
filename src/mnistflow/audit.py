"""Whose mistake is it? The models' errors against each other, and against the labels that people dispute.

A textbook says that 100% is out of reach because the test set holds unreadable digits; `verdict` answers it in numbers.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from mnistflow.datasets import Dispute
from mnistflow.evaluation import Evaluated
from mnistflow.workspace import WorkflowError

ASKED = 5  # people, about each disputed image
COLUMNS = 9  # of a sheet
MOST = 72  # images of a sheet's second part


def audit(said: Mapping[str, Evaluated], disputed: Mapping[int, Dispute]) -> dict[str, Any]:
    """How many of each model's errors are on disputed labels, shared by all models, or its own alone.

    Args:
        said: what each model said about the same test set, by its name.
        disputed: the labels that people dispute, by index in the test set; empty where nobody has asked people.

    Returns:
        `images`, their number; `models`, for each its `errors` and how many of them are `disputed` and its own
        `alone`; `wrong_by_any`, a number; `wrong_by_all` and `disputed`, a row per image; `verdict`, a sentence.

    Raises:
        WorkflowError: the models saw different images, or the list of disputed labels is another test set's.
    """
    labels = next(iter(said.values())).labels
    for name, each in said.items():
        if not np.array_equal(each.labels, labels):
            raise WorkflowError(
                f"{name} and {next(iter(said))} were evaluated on different test images; run `dvc repro`."
            )
    for index, dispute in disputed.items():
        found = int(labels[index]) if index < len(labels) else None
        if found != dispute.label:
            raise WorkflowError(
                f"the list of disputed labels belongs to another test set: image {index} has label {found}, "
                f"but {dispute.label} in the list in datasets.py; mend that list."
            )
    wrong = np.array([each.predictions != labels for each in said.values()])  # (models, images)
    of_any, of_all, alone = wrong.any(axis=0), wrong.all(axis=0), wrong & (wrong.sum(axis=0) == 1)
    listed = np.zeros(len(labels), bool)
    listed[list(disputed)] = True

    def row(index: int) -> dict[str, Any]:
        predictions = {name: int(each.predictions[index]) for name, each in said.items()}
        return {"index": index, "label": int(labels[index]), "said": predictions}

    result: dict[str, Any] = {
        "images": len(labels),
        "models": {
            name: {
                "errors": int(wrong[place].sum()),
                "disputed": int((wrong[place] & listed).sum()),
                "alone": int(alone[place].sum()),
            }
            for place, name in enumerate(said)
        },
        "wrong_by_any": int(of_any.sum()),
        "wrong_by_all": [row(int(index)) for index in np.flatnonzero(of_all)],
        "disputed": [
            {
                **row(index),
                "other": dispute.other,
                "for_label": dispute.for_label,
                "for_other": dispute.for_other,
                "for_neither": ASKED - dispute.for_label - dispute.for_other,
            }
            for index, dispute in sorted(disputed.items())
        ],
    }
    return {**result, "verdict": verdict(result)}


def verdict(found: Mapping[str, Any]) -> str:
    """What the numbers of `audit` say about the book's claim, by the model with the fewest errors."""
    best = min(found["models"], key=lambda name: found["models"][name]["errors"])
    errors, listed = found["models"][best]["errors"], found["models"][best]["disputed"]
    images, disputes = found["images"], len(found["disputed"])
    accuracy = 1 - errors / images
    if not errors:
        return f"No: {best} gives all {images:,} test images their label."
    if not disputes:
        return (
            "Nobody is known to have asked people about this test set, so its unreadable images can't be counted; "
            f"of the {found['wrong_by_any']} images that any model gets wrong, all models share "
            f"{len(found['wrong_by_all'])}."
        )
    otherwise = sum(row["for_other"] > ASKED / 2 for row in found["disputed"])
    answer = (
        "Yes" if listed == errors else "Mostly" if 2 * listed >= errors else "In small part" if listed else "Not here"
    )
    return (
        f"{answer}: of {images:,} test images, most people read {otherwise} as another class than their label, and on "
        f"{disputes - otherwise} they agree on none, so who reads as they do ends between "
        f"{1 - disputes / images:.2%} and {1 - otherwise / images:.2%}; {best}, at {accuracy:.2%}, makes "
        f"{errors - listed} of its {errors} errors on images whose label nobody on record disputes."
    )


def pixels(said: Mapping[str, Evaluated]) -> dict[int, npt.NDArray[np.uint8]]:
    """The images that any model got wrong, by index: those whose pixels evaluation kept."""
    pairs = (zip(each.wrong, each.wrong_images, strict=True) for each in said.values())
    return {int(index): image for pair in pairs for index, image in pair}


def people(row: Mapping[str, Any], classes: Sequence[str]) -> str:
    """What people saw in a disputed image, most votes first; no line breaks before a count."""
    votes = sorted((("other", "for_other"), ("label", "for_label")), key=lambda pair: -row[pair[1]])
    words = [f"{classes[row[name]]}\u00a0×{row[count]}" for name, count in votes if row[count]]
    return "people: " + ", ".join(words + [f"neither\u00a0×{row['for_neither']}"] * (row["for_neither"] > 0))


def models(row: Mapping[str, Any], classes: Sequence[str]) -> str:
    """What the models saw in an image."""
    said = {name: classes[prediction] for name, prediction in row["said"].items()}
    if len(set(said.values())) == 1:
        return f"all models: {next(iter(said.values()))}"
    return ", ".join(f"{name}:\u00a0{word}" for name, word in said.items())


def sheet(found: Mapping[str, Any], images: Mapping[int, npt.NDArray[np.uint8]], classes: Sequence[str]) -> Figure:
    """The disputed images, then the others that all models get wrong, each with its label and what was said of it.

    `images` are those that any model got wrong. A disputed image that is not among them is counted and not shown.
    """
    listed = [row for row in found["disputed"] if row["index"] in images]
    shared = [row for row in found["wrong_by_all"] if row["index"] not in {row["index"] for row in listed}]
    unseen = len(found["disputed"]) - len(listed)
    parts = {
        f"{len(found['disputed'])} labels that people dispute, {ASKED} people each"
        + f"; {unseen} not shown, because no model gets them wrong" * (unseen > 0): listed,
        f"{len(shared)} {'more ' * bool(listed)}that all models get wrong"
        + f", the first {MOST} of them" * (len(shared) > MOST): shared[:MOST],
    }
    parts = {title: part for title, part in parts.items() if part or part is not listed}
    rows = {title: max(1, -(-len(part) // COLUMNS)) for title, part in parts.items()}
    figure = Figure(figsize=(1.3 * COLUMNS, 2.25 * sum(rows.values())))
    axes = figure.subplots(sum(rows.values()), COLUMNS, squeeze=False)
    # In fixed places, which a layout engine would shift from row to row with the length of the captions.
    inch = 1 / figure.get_figheight()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.6 * inch, top=1 - 0.7 * inch, wspace=0.3, hspace=1.15)
    for ax in axes.flat:
        ax.axis("off")
    start = 0
    for title, part in parts.items():
        axes[start, 0].text(0, 1.33, title, size=12, transform=axes[start, 0].transAxes)
        for ax, row in zip(axes[start:].flat, part, strict=False):
            ax.imshow(images[row["index"]], cmap="gray_r", vmin=0, vmax=255)
            ax.set_title(f"label {classes[row['label']]}", size=9, weight="bold")
            said = [people(row, classes)] if "other" in row else []
            caption = "\n".join(textwrap.fill(line, 20) for line in [*said, models(row, classes)])
            ax.text(0.5, -0.06, caption, size=7.5, ha="center", va="top", transform=ax.transAxes)
        start += rows[title]
    return figure
