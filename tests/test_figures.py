"""Figures show what they are given, and are the same bytes every time."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from mnistflow import figures
from mnistflow.evaluation import Evaluated
from mnistflow.history import Epoch

HISTORY = [Epoch(number, 0.5 / number, 0.9, 0.6 / number, 0.9, 0.001) for number in (1, 2, 3)]
CLASSES = list("0123456789")


def said(wrong: int, total: int = 300) -> Evaluated:
    labels = (np.arange(total) % 10).astype(np.uint8)
    predictions = labels.copy()
    predictions[:wrong] = (labels[:wrong] + 1) % 10
    confidence = np.linspace(0.5, 1, total)
    return Evaluated(labels, predictions, confidence, np.zeros((wrong, 28, 28), np.uint8), CLASSES)


def test_the_loss_curve_is_the_book_s() -> None:
    ax = figures.loss_curve(HISTORY).axes[0]
    validation, training = ax.lines
    assert (validation.get_color(), training.get_color()) == ("red", "blue")
    assert validation.get_marker() == training.get_marker() == "o"
    assert list(validation.get_ydata()) == [row.val_loss for row in HISTORY]
    assert list(training.get_ydata()) == [row.loss for row in HISTORY]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss")
    assert ax.get_legend()._get_loc() == 1  # upper right
    assert ax.xaxis.get_gridlines()[0].get_visible()


def test_the_surest_mistakes_come_first() -> None:
    captions = [text.get_text() for text in figures.errors("cnn", said(25)).axes[0].texts]
    assert len(captions) == 25
    assert captions[0].startswith("4 → 5")  # image 24, of which the model is the most sure
    assert captions[-1].startswith("0 → 1")


@pytest.mark.parametrize("wrong", [0, 1, 300])
def test_any_number_of_errors_can_be_drawn(wrong: int, tmp_path: Path) -> None:
    figures.save(tmp_path / "errors.png", figures.errors("cnn", said(wrong)))


def test_every_figure_is_the_same_bytes_again(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (40, 28, 28), dtype=np.uint8), (np.arange(40) % 10).astype(np.uint8)
    matrix = np.eye(10, dtype=int) * 5

    def draw() -> list[Figure]:
        return [
            figures.loss_curve(HISTORY),
            figures.loss_sheet({"dense": HISTORY, "cnn": HISTORY}),
            figures.confusion({"dense": matrix, "cnn": matrix + 1}, CLASSES),
            figures.errors("cnn", said(3)),
            figures.digit(images[0], "a digit"),
            figures.samples(images, labels, CLASSES),
        ]

    for once, again in zip(draw(), draw(), strict=True):
        figures.save(tmp_path / "once.png", once)
        figures.save(tmp_path / "again.png", again)
        assert (tmp_path / "once.png").read_bytes() == (tmp_path / "again.png").read_bytes()
