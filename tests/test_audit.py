"""The audit counts what can be counted by hand, and says so fairly."""

from pathlib import Path

import numpy as np
import pytest

from mnistflow import audit, figures
from mnistflow.datasets import DATASETS, Dispute
from mnistflow.evaluation import Evaluated
from mnistflow.workspace import WorkflowError

CLASSES = list("0123456789")
LABELS = (np.arange(100) % 10).astype(np.uint8)


def said(**wrong: int) -> Evaluated:
    """A model that is right but for the images that are given: `i7=2` is image 7, taken for a 2."""
    predictions = LABELS.copy()
    for name, prediction in wrong.items():
        predictions[int(name[1:])] = prediction
    images = np.array([np.full((28, 28), int(name[1:])) for name in wrong], np.uint8).reshape(-1, 28, 28)
    return Evaluated(LABELS, predictions, np.ones(100), images, CLASSES)


# Image 8 is wrong for both and disputed, 9 for both, 3 for `one` alone and disputed, 4 and 5 for `two` alone.
MODELS = {"one": said(i3=1, i8=9, i9=4), "two": said(i4=9, i5=3, i8=9, i9=7)}
DISPUTED = {3: Dispute(3, 1, 2, 2), 8: Dispute(8, 9, 0, 5), 20: Dispute(0, 6, 1, 4)}


def test_errors_are_counted_by_hand() -> None:
    found = audit.audit(MODELS, DISPUTED)
    assert found["models"] == {
        "one": {"errors": 3, "disputed": 2, "alone": 1},
        "two": {"errors": 4, "disputed": 1, "alone": 2},
    }
    assert (found["images"], found["wrong_by_any"]) == (100, 5)
    assert [row["index"] for row in found["wrong_by_all"]] == [8, 9]
    assert found["wrong_by_all"][1] == {"index": 9, "label": 9, "said": {"one": 4, "two": 7}}
    assert found["disputed"][0] == {
        "index": 3,
        "label": 3,
        "said": {"one": 1, "two": 3},
        "other": 1,
        "for_label": 2,
        "for_other": 2,
        "for_neither": 1,
    }


def test_the_verdict_follows_the_numbers() -> None:
    text = audit.audit(MODELS, DISPUTED)["verdict"]
    assert text.startswith(
        "Mostly: of 100 test images, most people read 2 as another class than their label, and on 1 "
    )
    assert "between 97.00% and 98.00%; one, at 97.00%, makes 1 of its 3 errors on images whose label nobody" in text
    assert audit.audit({"one": said(i8=9)}, DISPUTED)["verdict"].startswith("Yes: ")
    assert audit.audit({"one": said(i4=9)}, DISPUTED)["verdict"].startswith("Not here: ")
    assert audit.audit({"one": said(i8=9, i4=9, i5=3)}, DISPUTED)["verdict"].startswith("In small part: ")
    assert audit.audit({"one": said()}, DISPUTED)["verdict"] == "No: one gives all 100 test images their label."
    unasked = audit.audit(MODELS, {})["verdict"]
    assert unasked.startswith("Nobody is known to have asked people")
    assert unasked.endswith("of the 5 images that any model gets wrong, all models share 2.")


def test_a_list_of_another_test_set_does_not_go_unnoticed() -> None:
    shifted = {index + 1: dispute for index, dispute in DISPUTED.items()}
    with pytest.raises(WorkflowError, match="image 4 has label 4, but 3 in the list"):
        audit.audit(MODELS, shifted)
    with pytest.raises(WorkflowError, match="image 100 has label None"):
        audit.audit(MODELS, {100: Dispute(0, 1, 0, 5)})


def test_models_on_different_images_are_not_compared() -> None:
    other = Evaluated(LABELS[::-1], LABELS, np.ones(100), np.zeros((100, 28, 28), np.uint8), CLASSES)
    with pytest.raises(WorkflowError, match="two and one were evaluated on different test images"):
        audit.audit({"one": said(), "two": other}, {})


def test_mnist_s_list_is_the_published_one() -> None:
    disputed = DATASETS["mnist"].disputed
    assert len(disputed) == 15
    for dispute in disputed.values():
        assert dispute.label != dispute.other
        assert dispute.for_label < audit.ASKED / 2
        assert dispute.for_label + dispute.for_other <= audit.ASKED
    assert not any(dataset.disputed for name, dataset in DATASETS.items() if name != "mnist")


def test_words_say_who_saw_what() -> None:
    found = audit.audit(MODELS, DISPUTED)
    assert [audit.people(row, CLASSES).replace("\u00a0", " ") for row in found["disputed"]] == [
        "people: 1 ×2, 3 ×2, neither ×1",
        "people: 9 ×5",
        "people: 6 ×4, 0 ×1",
    ]
    assert audit.models(found["disputed"][0], CLASSES).replace("\u00a0", " ") == "one: 1, two: 3"
    assert audit.models(found["disputed"][1], CLASSES) == "all models: 9"


def test_the_sheet_shows_what_evaluation_kept_and_says_what_it_did_not() -> None:
    images = audit.pixels(MODELS)
    assert {index: int(image[0, 0]) for index, image in images.items()} == {3: 3, 4: 4, 5: 5, 8: 8, 9: 9}
    figure = audit.sheet(audit.audit(MODELS, DISPUTED), images, CLASSES)
    words = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert "3 labels that people dispute, 5 people each; 1 not shown, because no model gets them wrong" in words
    assert "1 more that all models get wrong" in words
    assert [ax.get_title() for ax in figure.axes if ax.get_title()] == ["label 3", "label 8", "label 9"]


@pytest.mark.parametrize(
    "models", [{"one": said()}, MODELS, {"one": said(**{f"i{i}": 1 for i in range(100) if i % 10 != 1})}]
)
@pytest.mark.parametrize("disputed", [{}, DISPUTED])
def test_any_number_of_errors_can_be_drawn(
    models: dict[str, Evaluated], disputed: dict[int, Dispute], tmp_path: Path
) -> None:
    found = audit.audit(models, disputed)
    for name in ("once", "again"):
        figures.save(tmp_path / f"{name}.png", audit.sheet(found, audit.pixels(models), CLASSES))
    assert (tmp_path / "once.png").read_bytes() == (tmp_path / "again.png").read_bytes()
