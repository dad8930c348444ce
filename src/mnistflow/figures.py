"""Arrays -> matplotlib figures. No pyplot: no window system, no state between figures, a third of the import time."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mnistflow.datasets import CLASSES, SIZE, Images, Labels
from mnistflow.evaluation import Evaluated
from mnistflow.history import Epoch
from mnistflow.workspace import replacing

DPI = 120


def save(path: Path, figure: Figure) -> None:
    """Write the figure as PNG, whole or not at all; the same figure gives the same bytes with any matplotlib."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI, metadata={"Software": None})


def loss_curve(history: Sequence[Epoch]) -> Figure:
    """The figure of the book: loss by epoch, validation red, training blue, a dot per epoch."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    _draw_loss(figure.add_subplot(), history, _top([history]))
    return figure


def loss_sheet(histories: Mapping[str, Sequence[Epoch]]) -> Figure:
    """Loss curves of several models side by side, on one scale of losses."""
    figure = Figure(figsize=(4.2 * len(histories), 3.8), layout="constrained")
    axes = figure.subplots(1, len(histories), sharey=True, squeeze=False)[0]
    for ax, (name, history) in zip(axes, histories.items(), strict=True):
        _draw_loss(ax, history, _top(histories.values()))
        ax.set_title(name)
        ax.label_outer(remove_inner_ticks=False)
        ax.set_xlabel("epoch")
    return figure


def _top(histories: Iterable[Sequence[Epoch]]) -> float:
    """Where a loss axis should end, so that all of these fit."""
    return 1.05 * max(max(row.loss, row.val_loss) for history in histories for row in history)


def _draw_loss(ax: Axes, history: Sequence[Epoch], top: float) -> None:
    epochs = [row.epoch for row in history]
    ax.plot(epochs, [row.val_loss for row in history], "o-", color="red", markersize=3, label="validation loss")
    ax.plot(epochs, [row.loss for row in history], "o-", color="blue", markersize=3, label="training loss")
    ax.set(xlabel="epoch", ylabel="loss", ylim=(0, top))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.4)
    ax.legend(loc="upper right")


def confusion(matrices: Mapping[str, npt.NDArray[Any]], classes: Sequence[str]) -> Figure:
    """Confusion matrices (10, 10) side by side, coloured by their errors: 1,000 right must not hide 3 wrong."""
    figure = Figure(figsize=(4.6 * len(matrices), 5.2), layout="constrained")
    for ax, (name, matrix) in zip(figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True):
        errors = np.where(np.eye(CLASSES, dtype=bool), 0, matrix)
        ax.imshow(errors, cmap="Reds", vmin=0, vmax=max(1, int(errors.max())))
        for row, column in np.ndindex(matrix.shape):
            if matrix[row, column]:
                dark = errors[row, column] > 0.6 * errors.max() > 0
                weight = "bold" if row == column else "normal"
                color = "white" if dark else "black"
                ax.text(column, row, matrix[row, column], ha="center", va="center", size=7, weight=weight, color=color)
        ax.set_xticks(range(CLASSES), classes, rotation=0 if max(map(len, classes)) < 3 else 60)
        ax.set_yticks(range(CLASSES), classes)
        ax.set(xlabel="predicted", ylabel="actual", title=f"{name}: {int(errors.sum())} errors")
    return figure


def errors(name: str, said: Evaluated, most: int = 120) -> Figure:
    """The images that the model `name` got wrong, its surest mistakes first: label, prediction, its probability."""
    wrong = said.wrong
    order = np.argsort(-said.confidence[wrong], kind="stable")[:most]
    columns = 10
    rows = max(1, -(-len(order) // columns))
    figure = Figure(figsize=(0.95 * columns, 1.3 * rows + 0.4), layout="constrained")
    shown = f", the surest {len(order)} of them" if len(order) < len(wrong) else ""
    figure.suptitle(f"{name}: {len(wrong)} errors on {len(said.labels):,} test images{shown}")
    ax = figure.add_subplot()
    ax.axis("off")
    _draw_images(ax, said.wrong_images[order], np.arange(len(order)), (rows, columns), caption=12)
    for position, index in enumerate(wrong[order]):
        label, prediction = (said.classes[value[index]] for value in (said.labels, said.predictions))
        row, column = divmod(position, columns)
        text = f"{label} → {prediction}\n{said.confidence[index]:.0%}"
        ax.text(column + 0.5, row + 0.34, text, ha="center", va="bottom", size=8)
    return figure


def digit(image: npt.NDArray[np.uint8], title: str) -> Figure:
    """One image in greys with the numbers that it is made of."""
    figure = Figure(figsize=(9, 9), layout="constrained")
    ax = figure.add_subplot()
    ax.imshow(image, cmap="gray_r", vmin=0, vmax=255)
    for row, column in np.ndindex(image.shape):
        value = int(image[row, column])
        color = "white" if value > 127 else "black" if value else "silver"
        ax.text(column, row, str(value), ha="center", va="center", size=6, color=color)
    ax.set(title=title, xticks=range(0, image.shape[1], 4), yticks=range(0, image.shape[0], 4))
    return figure


def samples(images: Images, labels: Labels, classes: Sequence[str], each: int = 12) -> Figure:
    """A row of the first `each` images of every class."""
    figure = Figure(figsize=(0.6 * each + 0.4, 0.6 * CLASSES), layout="constrained")
    ax = figure.add_subplot()
    chosen = [np.flatnonzero(labels == label)[:each] for label in range(CLASSES)]
    places = [label * each + np.arange(len(some)) for label, some in enumerate(chosen)]
    _draw_images(ax, images[np.concatenate(chosen)], np.concatenate(places), (CLASSES, each))
    ax.set_yticks(np.arange(CLASSES) + 0.5, classes)
    ax.tick_params(left=False, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    return figure


def _draw_images(
    ax: Axes, images: Images, places: npt.NDArray[np.intp], grid: tuple[int, int], caption: int = 0
) -> None:
    """Draw images (n, 28, 28) in a grid of rows and columns whose cells have the size 1, as one picture.

    With an axes for each, drawing them takes seconds. `places` counts cells row by row; `caption` is room above each
    image, in pixels of it.
    """
    rows, columns = grid
    margin = 4
    height, width = margin + caption + SIZE, margin + SIZE
    cells = np.zeros((rows * columns, height, width), np.uint8)
    cells[places, height - SIZE :, margin // 2 : margin // 2 + SIZE] = images
    picture = cells.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    ax.imshow(picture, cmap="gray_r", vmin=0, vmax=255, extent=(0, columns, rows, 0), aspect=height / width)
