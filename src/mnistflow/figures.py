"""Arrays -> matplotlib figures. No pyplot: no window system, no state between figures, a third of the import time."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mnistflow.datasets import CLASSES, Images, Labels
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
    figure = Figure(figsize=(0.95 * columns, 1.25 * rows + 0.5), layout="constrained")
    shown = f", the surest {len(order)} of them" if len(order) < len(wrong) else ""
    figure.suptitle(f"{name}: {len(wrong)} errors on {len(said.labels):,} test images{shown}")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for ax, place in zip(axes, order, strict=False):
        index = wrong[place]
        label, prediction = (said.classes[value[index]] for value in (said.labels, said.predictions))
        ax.imshow(said.wrong_images[place], cmap="gray_r", vmin=0, vmax=255)
        ax.set_title(f"{label} → {prediction}\n{said.confidence[index]:.0%}", size=8)
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
    figure = Figure(figsize=(0.6 * each + 1.2, 0.6 * CLASSES), layout="constrained")
    axes = figure.subplots(CLASSES, each)
    for label in range(CLASSES):
        chosen = np.flatnonzero(labels == label)[:each]
        for column in range(each):
            ax = axes[label, column]
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if column < len(chosen):
                ax.imshow(images[chosen[column]], cmap="gray_r", vmin=0, vmax=255)
        axes[label, 0].set_ylabel(classes[label], rotation=0, ha="right", va="center")
    return figure
