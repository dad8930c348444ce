"""Results -> figures: losses, confusion matrices, errors, the audit."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mnistflow.data.arrays import Images
from mnistflow.evaluation.occlusion import Evidence
from mnistflow.evaluation.predictions import Predictions
from mnistflow.figures import cells, heat
from mnistflow.figures.samples import draw_image
from mnistflow.figures.style import drawable, new_figure
from mnistflow.training.history import Epoch, best

PANELS = 4  # models side by side
COUNTS = 20  # classes up to which a confusion matrix shows its counts
SHARED = 72  # images of the audit's second part


def _panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes of this size in inches, PANELS in a row."""
    columns, rows = min(count, PANELS), -(-count // PANELS)
    figure = new_figure(width * columns, height * rows)
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(count)]


def loss_curve(history: Sequence[Epoch]) -> Figure:
    """The figure of the book: loss by epoch, validation red, training blue, a dot per epoch."""
    figure = new_figure(6.4, 4.2)
    _draw_loss(figure.add_subplot(), history, loss_limit([history]))
    return figure


def loss_sheet(histories: Mapping[str, Sequence[Epoch]]) -> Figure:
    """Loss curves of several models side by side, on one scale of losses."""
    figure, axes = _panels(len(histories), 4.2, 3.8)
    for ax, (name, history) in zip(axes, histories.items(), strict=True):
        _draw_loss(ax, history, loss_limit(histories.values()))
        ax.set_title(name)
    for index, ax in enumerate(axes):
        if index % PANELS:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
    return figure


def loss_limit(histories: Iterable[Sequence[Epoch]]) -> float:
    """Where a loss axis should end, so that all fit."""
    return 1.05 * max(loss for history in histories for row in history for loss in (row.loss, row.val_loss))


def _draw_loss(ax: Axes, history: Sequence[Epoch], top: float) -> None:
    epochs, chosen = [row.epoch for row in history], best(history)
    ax.plot(epochs, [row.val_loss for row in history], "o-", color="red", markersize=3, label="validation loss")
    ax.plot(epochs, [row.loss for row in history], "o-", color="blue", markersize=3, label="training loss")
    ax.plot(chosen.epoch, chosen.val_loss, "o", markersize=9, mfc="none", mec="red", label="best epoch")
    ax.set(xlabel="epoch", ylabel="loss", ylim=(0, top))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.4)
    ax.legend(loc="upper right")


def confusion(matrices: Mapping[str, npt.NDArray[Any]], classes: Sequence[str]) -> Figure:
    """Confusion matrices (classes, classes) side by side, coloured by their errors: 1,000 right must not hide 3 wrong.

    Above COUNTS classes, the counts are left out, and the largest confusions stand below in words.
    """
    count, names = len(classes), drawable(classes, 16)
    side = min(max(4.2, 0.38 * count), 7.6)
    figure, axes = _panels(len(matrices), side + 0.4, side + (1.0 if count <= 10 else 0.7 if count <= COUNTS else 2.4))
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        errors = _errors(matrix)
        # Above COUNTS, the square root: a cell with one error has to be seen without its number.
        norm = PowerNorm(1 if count <= COUNTS else 0.5, 0, max(1, int(errors.max())))
        ax.imshow(errors, cmap="Reds", norm=norm, interpolation="nearest")
        ax.set(xlabel="predicted", ylabel="actual", title=f"{name}: {int(errors.sum()):,} errors")
        if count <= COUNTS:
            _draw_counts(ax, matrix, errors, size=min(max(70 / count, 6), 14))
        else:
            ax.plot([-0.5, count - 0.5], [-0.5, count - 0.5], color="silver", lw=0.5)
            rows = [f"{names[a]} → {names[p]}: {times}" for a, p, times in largest_confusions(matrix, 8)]
            pairs = [" · ".join(rows[start : start + 2]) for start in range(0, len(rows), 2)]
            ax.set_xlabel("predicted\n\n" + "\n".join(["most frequent, actual → predicted", *pairs]))
        shown = range(0, count, -(-count // 50))
        size = 10 if count <= 10 else 8 if count <= COUNTS else 6
        labels = [names[label] for label in shown]
        ax.set_xticks(shown, labels, size=size)
        if count > COUNTS or max(map(len, labels)) > 2:
            for text in ax.get_xticklabels():
                text.set(rotation=60 if count <= COUNTS else 90, ha="right", va="center", rotation_mode="anchor")
        ax.set_yticks(shown, labels, size=size)
    return figure


def _errors(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The confusion matrix without its diagonal."""
    return np.where(np.eye(len(matrix), dtype=bool), 0, matrix)


def _draw_counts(ax: Axes, matrix: npt.NDArray[Any], errors: npt.NDArray[Any], size: float) -> None:
    for row, column in np.argwhere(matrix):
        weight = "bold" if row == column else "normal"
        color = "white" if errors[row, column] > 0.6 * errors.max() else "black"
        cells.write(ax, row, column, str(matrix[row, column]), size, weight=weight, color=color)


def largest_confusions(matrix: npt.NDArray[Any], most: int) -> list[tuple[int, int, int]]:
    """The most frequent errors in a confusion matrix: label, prediction, count; at most `most`, the largest first."""
    errors = _errors(matrix)
    order = np.argsort(-errors, axis=None, kind="stable")[:most]
    pairs = (divmod(int(index), len(errors)) for index in order)
    return [(*pair, int(errors[pair])) for pair in pairs if errors[pair]]


class Tile(NamedTuple):
    """An image of a gallery and the words around it."""

    image: Images  # (height, width) or (height, width, 3)
    above: str
    below: str = ""


def _gallery(parts: Mapping[str, Sequence[Tile]], columns: int, cell: float, *, bold: bool = False) -> Figure:
    """Images in rows, under the title of their part; `cell` is the width of one with its margin, in inches.

    All in one axes whose unit is an inch: an axes for each image takes seconds to draw, and a layout engine would shift
    the images with the length of their words.
    """
    line, left = 0.135, 0.15
    figure = new_figure(cell * columns + 2 * left, 1, layout=None)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    y = 0.1
    for title, tiles in parts.items():
        ax.text(left, y + 0.15, title, size=12, va="center")
        y += 0.45
        for start in range(0, len(tiles), columns):
            row = tiles[start : start + columns]
            y += line * max(tile.above.count("\n") + 1 for tile in row)
            height = max(draw_image(ax, tile.image, left + cell * x, y, cell) for x, tile in enumerate(row))
            for x, tile in enumerate(row):
                center = left + cell * (x + 0.5)
                ax.text(center, y, tile.above, size=8, ha="center", va="bottom", weight="bold" if bold else "normal")
                ax.text(center, y + height, tile.below, size=7.5, ha="center", va="top")
            y += height + line * max(tile.below.count("\n") + 1 for tile in row) + 0.12
    figure.set_figheight(y)
    ax.set(xlim=(0, figure.get_figwidth()), ylim=(y, 0), aspect="auto")
    return figure


def errors(name: str, predictions: Predictions, most: int = 120) -> Figure:
    """The misclassified images of the model `name`, the most confident first: label, prediction, its probability."""
    wrong, classes = predictions.errors, drawable(predictions.classes, 11)
    order = predictions.most_confident_errors(most)

    def tile(position: int) -> Tile:
        index = wrong[position]
        label, prediction = classes[predictions.labels[index]], classes[predictions.predictions[index]]
        arrow = " → " if len(label + prediction) < 10 else "\n→ "
        words = f"{label}{arrow}{prediction}\n{predictions.confidence[index]:.0%}"
        return Tile(predictions.error_images[position], words)

    shown = f", the {len(order)} most confident of them" if len(order) < len(wrong) else ""
    title = f"{name}: {len(wrong):,} errors on {len(predictions.labels):,} test images{shown}"
    return _gallery({title: [tile(int(position)) for position in order]}, columns=10, cell=0.95)


def occlusion_sheet(name: str, predictions: Predictions, evidence: Evidence) -> Figure:
    """The model's most confident errors, each beside what in it speaks for the prediction and for the label."""
    classes, order = drawable(predictions.classes, 11), predictions.most_confident_errors(len(evidence))

    def tile(position: int, values: Evidence) -> Tile:
        index = predictions.errors[position]
        label, prediction = classes[predictions.labels[index]], classes[predictions.predictions[index]]
        words = f"{label} → {prediction}, {predictions.confidence[index]:.0%}"
        return Tile(heat.beside(predictions.error_images[position], values), words)

    title = f"{name}, its {len(order)} most confident errors: red speaks for the prediction, blue for the label"
    return _gallery({title: [tile(*each) for each in zip(order, evidence, strict=True)]}, columns=5, cell=2)


def answers_sheet(images: Sequence[Images], words: Sequence[str], title: str) -> Figure:
    """Images as the network saw them, a tile each, with what it answered in words."""
    tiles = [Tile(image, text) for image, text in zip(images, words, strict=True)]
    return _gallery({title: tiles}, columns=8, cell=1.2)


def people_votes(row: Mapping[str, Any], classes: Sequence[str]) -> str:
    """What people see in a disputed image of the audit, most votes first; no line breaks before a count."""
    votes = sorted((("other", "for_other"), ("label", "for_label")), key=lambda pair: -row[pair[1]])
    words = [f"{classes[row[name]]}\u00a0×{row[count]}" for name, count in votes if row[count]]
    return "people: " + ", ".join(words + [f"neither\u00a0×{row['for_neither']}"] * (row["for_neither"] > 0))


def model_predictions(row: Mapping[str, Any], classes: Sequence[str]) -> str:
    """What the models predict for an image of the audit."""
    names = {model: classes[prediction] for model, prediction in row["predictions"].items()}
    if len(names) > 1 and len(set(names.values())) == 1:
        return f"all models: {next(iter(names.values()))}"
    return ", ".join(f"{model}:\u00a0{name}" for model, name in names.items())


def audit_sheet(audited: Mapping[str, Any], images: Mapping[int, Images], classes: Sequence[str]) -> Figure:
    """The disputed images, then the others that all models get wrong, each with its label, votes and predictions.

    Args:
        audited: metrics/audit.json.
        images: those that any model got wrong, by index: `evaluation.audit.pixels`. A disputed image that is not among
            them is counted and not shown.
        classes: a name per label.
    """
    names = drawable(classes, 12)
    listed = [row for row in audited["disputed"] if row["index"] in images]
    shared = [row for row in audited["wrong_by_all"] if row["index"] not in {row["index"] for row in listed}]
    hidden = len(audited["disputed"]) - len(listed)

    def tile(row: Mapping[str, Any]) -> Tile:
        votes = [people_votes(row, names)] if "other" in row else []
        words = [textwrap.fill(text, 20) for text in [*votes, model_predictions(row, names)]]
        return Tile(images[row["index"]], f"label {names[row['label']]}", "\n".join(words))

    people = {row["for_label"] + row["for_other"] + row["for_neither"] for row in audited["disputed"]}
    disputed = f"{len(audited['disputed'])} labels that people dispute, {max(people, default=0)} people each"
    disputed += f"; {hidden} not shown, because no model gets them wrong" * (hidden > 0)
    wrong = f"{len(shared):,} {'more ' * bool(listed)}that all models get wrong"
    wrong += f", the first {SHARED} of them" * (len(shared) > SHARED)
    if not audited["disputed"] and len(audited["models"]) > 1 and shared:
        wrong += "; first come those on which they agree with confidence: there, the label may be wrong"
    parts = {disputed: listed, wrong: shared[:SHARED]} if audited["disputed"] else {wrong: shared[:SHARED]}
    return _gallery({title: [tile(row) for row in rows] for title, rows in parts.items()}, 9, 1.3, bold=True)
