"""Figures follow the data, ignore the user's settings of Matplotlib, and are the same bytes every time."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image as pictures
from matplotlib.figure import Figure

from mnistflow.data.arrays import Split
from mnistflow.data.catalog import Dispute
from mnistflow.evaluation import audit, predictions
from mnistflow.evaluation.corruptions import FAMILIES
from mnistflow.evaluation.predictions import Predictions
from mnistflow.evaluation.robustness import Scores
from mnistflow.figures import heat, results, robustness, samples, style
from mnistflow.training.history import Epoch

HISTORY = [Epoch(number, 0.5 / number, 0.9, loss, 0.9, 0.001) for number, loss in ((1, 0.6), (2, 0.3), (3, 0.4))]
DIGITS = list("0123456789")
# Names in scripts that Matplotlib's font has and has not, with signs that it would take for mathematics, and too long.
NAMES = ["고양이", "собака", "$5 or $10", "a name that is far too long for any figure", "line\nbreak", "", "🦆" * 30]
SHAPES = [(28, 28), (9, 40), (64, 48, 3)]


def split(count: int, classes: int, shape: tuple[int, ...] = (28, 28)) -> Split:
    """Random images; label i % classes for image i."""
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    return Split(images, (np.arange(count) % classes).astype(np.uint16))


def evaluation(
    folder: Path, wrong: dict[int, int], classes: list[str], count: int = 60, shape: tuple[int, ...] = (28, 28)
) -> Predictions:
    """A model's predictions of `count` images, right but for `wrong`: index -> prediction. The last is the surest."""
    test = split(count, len(classes), shape)
    predicted = np.array([wrong.get(index, label) for index, label in enumerate(test.labels)])
    confidence = np.linspace(0.6, 0.99, count)
    probabilities = np.repeat(((1 - confidence) / len(classes))[:, np.newaxis], len(classes), axis=1)
    probabilities[np.arange(count), predicted] = confidence
    predictions.write(folder, test, probabilities.astype(np.float32), {"classes": classes, "metrics": {}})
    return predictions.read(folder)


def shifted(count: int, classes: int) -> dict[int, int]:
    """The first `count` images, each taken for the class after its own."""
    return {index: (index + 1) % classes for index in range(count)}


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def pixels(figure: Figure, folder: Path) -> Any:
    """The figure's picture: (height, width, 4)."""
    style.save(folder / "figure.png", figure)
    return pictures.imread(folder / "figure.png")


def all_figures(folder: Path, classes: list[str], shape: tuple[int, ...] = (28, 28)) -> list[Callable[[], Figure]]:
    """What draws each kind of figure."""
    models = {
        name: evaluation(folder / name, shifted(n, len(classes)), classes, 60, shape)
        for name, n in (("dense", 9), ("cnn", 3))
    }
    matrices = {name: np.array(each.report["confusion_matrix"]) for name, each in models.items()}
    audited, train = audit.audit(models, []), split(40, len(classes), shape)
    evidence = np.random.default_rng(0).normal(size=(3, *shape[:2])).astype(np.float32)
    scores = {name: Scores(60, 0.9, {family: [0.8, 0.5, 0.1] for family in FAMILIES}) for name in models}
    return [
        lambda: results.loss_curve(HISTORY),
        lambda: results.loss_sheet({"dense": HISTORY, "cnn": HISTORY}),
        lambda: results.confusion(matrices, classes),
        lambda: results.errors("cnn", models["cnn"]),
        lambda: results.audit_sheet(audited, audit.pixels(models), classes),
        lambda: results.occlusion_sheet("cnn", models["cnn"], evidence),
        lambda: robustness.sheet(train.images[0], scores),
        lambda: samples.digit(train.images[0], f"class {style.drawable(classes, 30)[0]}"),
        lambda: samples.samples(train.images, train.labels, classes),
    ]


def test_loss_curve_is_that_of_the_book_with_the_best_epoch_marked() -> None:
    ax = results.loss_curve(HISTORY).axes[0]
    validation, training, best = ax.lines
    assert (validation.get_color(), training.get_color()) == ("red", "blue")
    assert validation.get_marker() == training.get_marker() == "o"
    assert list(validation.get_ydata()) == [row.val_loss for row in HISTORY]
    assert list(training.get_ydata()) == [row.loss for row in HISTORY]
    assert (list(best.get_xdata()), list(best.get_ydata())) == ([2], [0.3])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss")
    assert ax.get_legend()._get_loc() == 1  # upper right
    assert ax.xaxis.get_gridlines()[0].get_visible()


def test_models_stand_in_the_order_of_the_mapping_on_one_scale() -> None:
    names = ["zeta", "alpha", "mu", "beta", "omega"]
    axes = results.loss_sheet({name: HISTORY[: index + 1] for index, name in enumerate(names)}).axes
    assert [ax.get_title() for ax in axes] == names
    assert {ax.get_ylim()[1] for ax in axes} == {1.05 * 0.6}


def test_most_confident_errors_come_first(tmp_path: Path) -> None:
    title, *captions = texts(results.errors("cnn", evaluation(tmp_path, shifted(25, 10), DIGITS)))
    captions = [caption for caption in captions if caption]
    assert title == "cnn: 25 errors on 60 test images"
    assert len(captions) == 25
    assert captions[0].startswith("4 → 5\n")  # image 24
    assert captions[-1].startswith("0 → 1\n")


def test_errors_stand_beside_where_the_model_looked(tmp_path: Path) -> None:
    model = evaluation(tmp_path, shifted(25, 10), DIGITS)
    title, *captions = [
        words for words in texts(results.occlusion_sheet("cnn", model, np.ones((7, 28, 28), np.float32))) if words
    ]
    assert title.startswith("cnn, its 7 most confident errors: ")
    assert (len(captions), captions[0]) == (7, "4 → 5, 76%")


def test_red_speaks_for_the_prediction_and_blue_for_the_label() -> None:
    image = np.array([[255, 255, 0, 0]], np.uint8)
    red, blue, plain, half = heat.overlay(image, np.array([[1.0, -1.0, 0.0, 0.5]], np.float32))[0].astype(int)
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert plain.tolist() == [255, 255, 255]
    assert 255 > half[2] > red[2]
    assert heat.overlay(image, np.zeros((1, 4), np.float32)).tolist() == [[[102] * 3, [102] * 3, [255] * 3, [255] * 3]]
    assert heat.beside(image, np.zeros((1, 4), np.float32)).shape == (1, 9, 3)


def test_each_model_has_a_line_under_each_corruption() -> None:
    scores = {name: Scores(60, 0.9, {family: [0.8, 0.5, 0.1] for family in FAMILIES}) for name in ("dense", "cnn")}
    figure = robustness.sheet(split(1, 10).images[0], scores)
    charts = [ax for ax in figure.axes if ax.lines]
    assert len(figure.axes) == 4 * len(charts) == 4 * len(FAMILIES)
    assert [[list(line.get_ydata()) for line in ax.lines] for ax in charts] == [[[90, 80, 50, 10]] * 2] * len(FAMILIES)
    assert figure.legends[0].texts[0].get_text() == "dense: 46.7%"


def test_errors_above_the_limit_are_counted_and_not_shown(tmp_path: Path) -> None:
    words = texts(results.errors("cnn", evaluation(tmp_path, shifted(25, 10), DIGITS), most=7))
    assert words[0] == "cnn: 25 errors on 60 test images, the 7 most confident of them"
    assert len([word for word in words if "→" in word]) == 7


@pytest.mark.parametrize("wrong", [0, 1, 60])
def test_any_number_of_errors_can_be_drawn(wrong: int, tmp_path: Path) -> None:
    model = evaluation(tmp_path, shifted(wrong, 10), DIGITS)
    assert pixels(results.errors("cnn", model), tmp_path).shape[2] == 4


def test_confusion_shows_counts_of_few_classes() -> None:
    matrix = np.diag([5, 6, 7])
    matrix[0, 2] = 3
    ax = results.confusion({"cnn": matrix}, ["a", "b", "c"]).axes[0]
    assert [text.get_text() for text in ax.texts] == ["5", "3", "6", "7"]
    assert [text.get_text() for text in ax.texts if text.get_weight() == "bold"] == ["5", "6", "7"]
    assert ax.get_title() == "cnn: 3 errors"
    assert np.asarray(ax.images[0].get_array()).tolist() == [[0, 0, 3], [0, 0, 0], [0, 0, 0]]


def test_confusion_of_many_classes_names_the_most_frequent_errors() -> None:
    matrix = np.eye(100, dtype=int) * 9
    matrix[7, 70], matrix[3, 30] = 4, 2
    ax = results.confusion({"cnn": matrix}, [f"name {label}" for label in range(100)]).axes[0]
    assert not ax.texts
    assert ax.get_xlabel().endswith("name 7 → name 70: 4 · name 3 → name 30: 2")
    assert len(ax.get_yticklabels()) == 50


def test_largest_confusions_are_rows_of_label_prediction_and_count() -> None:
    matrix = np.array([[50, 1, 0], [4, 50, 4], [0, 2, 50]])
    assert results.largest_confusions(matrix, 3) == [(1, 0, 4), (1, 2, 4), (2, 1, 2)]
    assert results.largest_confusions(matrix, 9)[3:] == [(0, 1, 1)]
    assert results.largest_confusions(np.eye(3, dtype=int), 9) == []


def test_grey_is_ink_on_paper_and_colour_is_itself(tmp_path: Path) -> None:
    for name, image, color in (
        ("ink", np.full((20, 20), 255, np.uint8), (0, 0, 0)),
        ("paper", np.zeros((20, 20), np.uint8), (1, 1, 1)),
        ("green", np.full((20, 20, 3), (0, 255, 0), np.uint8), (0, 1, 0)),
    ):
        drawn = pixels(samples.samples(image[np.newaxis], np.array([0], np.uint8), [""]), tmp_path)
        center = drawn[drawn.shape[0] // 2, drawn.shape[1] * 70 // 793, :3]
        assert tuple(center) == color, name


def test_large_images_show_the_part_with_the_most_contrast() -> None:
    image = np.zeros((90, 50), np.uint8)
    image[70, 40] = 255
    ax = samples.digit(image, "title").axes[0]
    assert ax.get_title() == "title"
    assert ax.get_yticklabels()[0].get_text() == "39"  # the first of the rows that are shown
    assert len(ax.texts) == 32 * 32
    assert sum(text.get_text() == "255" for text in ax.texts) == 1
    colour = samples.digit(np.full((4, 5, 3), (1, 2, 3), np.uint8), "title").axes[0]
    assert {text.get_text() for text in colour.texts} == {"1\n2\n3"}
    assert len(colour.texts) == 20


def test_a_sample_sheet_stays_small_with_a_thousand_classes() -> None:
    train = split(2000, 1000, (8, 8))
    figure = samples.samples(train.images, train.labels, [f"n{label}" for label in range(1000)])
    assert texts(figure)[0] == "1–100 / 1,000"
    assert max(figure.get_size_inches()) < 16


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.filterwarnings("error::UserWarning")  # Matplotlib's for a character that no font has
def test_every_figure_can_be_drawn_for_any_shape_and_names(shape: tuple[int, ...], tmp_path: Path) -> None:
    for draw in all_figures(tmp_path, NAMES, shape):
        height, width, _ = pixels(draw(), tmp_path).shape
        assert max(height, width) < 2500


@pytest.mark.filterwarnings("error::UserWarning")  # Matplotlib's for a character that no font has
def test_names_are_shortened_to_what_fonts_can_draw() -> None:
    names = style.drawable(NAMES, 10)
    assert names[1:6] == ["собака", "$5 or $10", "a name th…", "line break", ""]
    assert names[0] in ("고양이", "class 0")  # with or without a Korean font on this machine
    assert all(len(name) <= 10 for name in names)
    assert style.shorten("고양이고양이", 6) == "고양…"
    results.confusion({"cnn": np.eye(7, dtype=int)}, NAMES).canvas.draw()


def test_names_with_one_beginning_can_be_told_apart() -> None:
    names = [f"species number {label:03}" for label in range(3)]
    assert style.drawable(names, 10) == ["spec…r 000", "spec…r 001", "spec…r 002"]
    alike = ["a long beginning, 1, and a long end", "a long beginning, 2, and a long end", "short"]
    assert style.drawable(alike, 10) == ["class 0", "class 1", "short"]


def test_every_figure_is_the_same_bytes_again(tmp_path: Path) -> None:
    for draw in all_figures(tmp_path, DIGITS):
        style.save(tmp_path / "once.png", draw())
        style.save(tmp_path / "again.png", draw())
        assert (tmp_path / "once.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_a_matplotlibrc_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\naxes.facecolor: red\nfont.size: 30\nsavefig.dpi: 30\n")
    code = (
        "import sys; from pathlib import Path; import numpy as np; from mnistflow.figures import results, style\n"
        "style.save(Path(sys.argv[1]), results.confusion({'cnn': np.eye(10, dtype=int)}, list('0123456789')))"
    )
    for name, environment in (("plain", {}), ("changed", {"MATPLOTLIBRC": str(tmp_path)})):
        path = str(tmp_path / f"{name}.png")
        source = os.pathsep.join(map(str, sys.path))
        subprocess.run(
            [sys.executable, "-c", code, path], env=os.environ | {"PYTHONPATH": source} | environment, check=True
        )
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "changed.png").read_bytes()


# Image 8 is wrong for both and disputed, 9 for both, 3 for `one` alone and disputed, 4 and 5 for `two` alone.
WRONG = {"one": {3: 1, 8: 9, 9: 4}, "two": {4: 9, 5: 3, 8: 9, 9: 7}}
DISPUTES = [Dispute(3, 3, 1, 2, 2), Dispute(8, 8, 9, 0, 5), Dispute(20, 0, 6, 1, 4)]


def audited(folder: Path, wrong: dict[str, dict[int, int]], disputes: list[Dispute]) -> tuple[Any, Any]:
    models = {name: evaluation(folder / name, each, DIGITS) for name, each in wrong.items()}
    return audit.audit(models, disputes), audit.pixels(models)


def test_captions_give_votes_and_predictions(tmp_path: Path) -> None:
    rows = audited(tmp_path, WRONG, DISPUTES)[0]["disputed"]
    assert [results.people_votes(row, DIGITS).replace("\u00a0", " ") for row in rows] == [
        "people: 1 ×2, 3 ×2, neither ×1",
        "people: 9 ×5",
        "people: 6 ×4, 0 ×1",
    ]
    assert results.model_predictions(rows[0], DIGITS).replace("\u00a0", " ") == "one: 1, two: 3"
    assert results.model_predictions(rows[1], DIGITS) == "all models: 9"


def test_audit_sheet_shows_errors_and_counts_what_it_can_not_show(tmp_path: Path) -> None:
    words = texts(results.audit_sheet(*audited(tmp_path, WRONG, DISPUTES), DIGITS))
    assert "3 labels that people dispute, 5 people each; 1 not shown, because no model gets them wrong" in words
    assert "1 more that all models get wrong" in words
    assert [word for word in words if word.startswith("label ")] == ["label 3", "label 8", "label 9"]


@pytest.mark.parametrize("wrong", [{"one": {}}, WRONG, {"one": {i: (i + 1) % 10 for i in range(60)}}])
@pytest.mark.parametrize("disputes", [[], DISPUTES])
def test_any_audit_can_be_drawn(wrong: dict[str, dict[int, int]], disputes: list[Dispute], tmp_path: Path) -> None:
    words = texts(results.audit_sheet(*audited(tmp_path, wrong, disputes), DIGITS))
    assert any("dispute" in word for word in words) == bool(disputes)
