"""Grids of numbers as coloured cells, in one language of colours.

Pixels are grey, ink dark. Other numbers are red above zero, blue below, white at zero, deeper where larger. Orange
marks what is being looked at.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

Numbers = npt.NDArray[Any]

BLUE, RED, ORANGE = "#114b8f", "#a50f15", "#e8590c"
SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "#5a9fd6", "white", "#f0805c", RED])
INK = LinearSegmentedColormap.from_list("ink", ["white", "black"])


def pixels(ax: Axes, values: Numbers, white_to_black: tuple[float, float], size: float = 0) -> None:
    """Draw pixels (height, width) as greys; with their numbers in them, if `size`, in points, is given."""
    _cells(ax, values, INK, *white_to_black, size)


def signed(
    ax: Axes, values: Numbers, largest: float, size: float = 0, aspect: Literal["equal", "auto"] = "equal"
) -> None:
    """Draw numbers (height, width) as red and blue cells, the deepest for those as large as `largest`."""
    _cells(ax, values, SIGNED, -(largest or 1), largest or 1, size, aspect)


def _cells(
    ax: Axes,
    values: Numbers,
    cmap: LinearSegmentedColormap,
    low: float,
    high: float,
    size: float,
    aspect: Literal["equal", "auto"] = "equal",
) -> None:
    ax.imshow(values, cmap=cmap, vmin=low, vmax=high, aspect=aspect)
    ax.set(xticks=[], yticks=[])
    if size:
        lines(ax, values.shape, 1, "lightgrey", 0.8)
        for (row, column), value in np.ndenumerate(values):
            dark = value > 0.55 * high or value < 0.55 * low
            write(ax, row, column, text(value), size, color="white" if dark else "black")


def write(ax: Axes, row: int, column: int, words: str, size: float, **style: Any) -> None:
    """Write into the middle of a cell."""
    ax.text(column, row, words, ha="center", va="center", size=size, **style)


def text(value: float) -> str:
    """A number as a class writes it: whole where it is, else with two decimals below one and one above."""
    decimals = 0 if value == round(value) else 2 if abs(value) < 1 else 1
    return f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", "\u2212")  # + 0.0: no minus before a zero


def lines(ax: Axes, shape: tuple[int, ...], step: int, color: str, width: float) -> None:
    """Draw the lines between every `step` cells of a grid."""
    height, length = shape[:2]
    ax.hlines(np.arange(step, height, step) - 0.5, -0.5, length - 0.5, color=color, lw=width)
    ax.vlines(np.arange(step, length, step) - 0.5, -0.5, height - 0.5, color=color, lw=width)


def frame(ax: Axes, row: int, column: int, size: int, color: str = ORANGE, width: float = 3.5) -> None:
    """Mark a square of cells."""
    square = Rectangle((column - 0.5, row - 0.5), size, size, fill=False, ec=color, lw=width, clip_on=False, zorder=3)
    ax.add_patch(square)
