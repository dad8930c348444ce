"""Grids of numbers as coloured cells, with one meaning for each colour.

Grey pixels are ink on paper: the larger the number, the darker. Colour pixels are drawn as they are. Other numbers are
red above zero, blue below, white at zero, deeper where larger. Orange marks what the text is about.
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


def pixels(ax: Axes, values: Numbers, high: float = 255, size: float = 0) -> None:
    """Draw pixels from 0 to `high`, (height, width) or (height, width, 3).

    With `size`, a font size in points, their numbers are written into the cells: one, or red, green and blue.
    """
    if values.ndim == 3:
        ax.imshow(np.clip(values / high, 0, 1))
        dark = values.mean(axis=2) < 0.45 * high
    else:
        ax.imshow(values, cmap="gray_r", vmin=0, vmax=high)
        dark = values > 0.55 * high
    _finish(ax, values, dark, size)


def signed(
    ax: Axes, values: Numbers, largest: float, size: float = 0, aspect: Literal["equal", "auto"] = "equal"
) -> None:
    """Draw numbers (height, width) as red and blue cells, the deepest for those as large as `largest`."""
    limit = largest or 1
    ax.imshow(values, cmap=SIGNED, vmin=-limit, vmax=limit, aspect=aspect)
    _finish(ax, values, np.abs(values) > 0.55 * limit, size)


def _finish(ax: Axes, values: Numbers, dark: npt.NDArray[np.bool_], size: float) -> None:
    """Remove the ticks; with `size`, write the numbers: white on `dark` cells, zeros faint."""
    ax.set(xticks=[], yticks=[])
    if size:
        lines(ax, values.shape, 1, "lightgrey", 0.8)
        for row, column in np.ndindex(*values.shape[:2]):
            cell = np.atleast_1d(values[row, column])
            color = "white" if dark[row, column] else "black" if cell.any() else "grey"
            write(ax, row, column, "\n".join(text(value) for value in cell), size, color=color)


def write(ax: Axes, row: int, column: int, words: str, size: float, **style: Any) -> None:
    """Write into the middle of a cell."""
    ax.text(column, row, words, ha="center", va="center", size=size, **style)


def text(value: float) -> str:
    """A short form of a number: whole where it is, else with two decimals below one and one above."""
    decimals = 0 if value == round(value) else 2 if abs(value) < 1 else 1
    return f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", "\u2212")  # + 0.0: no minus before a zero


def lines(ax: Axes, shape: tuple[int, ...], step: int, color: str, width: float) -> None:
    """Draw the lines between every `step` cells of a grid."""
    height, length = shape[:2]
    ax.hlines(np.arange(step, height, step) - 0.5, -0.5, length - 0.5, color=color, lw=width)
    ax.vlines(np.arange(step, length, step) - 0.5, -0.5, height - 0.5, color=color, lw=width)


def frame(ax: Axes, row: int, column: int, shape: tuple[int, ...], color: str = ORANGE, width: float = 3.5) -> None:
    """Mark a rectangle of cells, of the height and width in `shape`."""
    corner = (column - 0.5, row - 0.5)
    ax.add_patch(Rectangle(corner, shape[1], shape[0], fill=False, ec=color, lw=width, clip_on=False, zorder=3))


def part_with_most_contrast(image: Numbers, side: int) -> tuple[slice, slice]:
    """The rows and columns of the square of `side` pixels, or less in a smaller image, whose pixels vary most."""
    grey = image.astype(float).mean(axis=2) if image.ndim == 3 else image.astype(float)
    height, width = (min(side, length) for length in grey.shape)

    def means(values: Numbers) -> Numbers:
        """The mean of each part, by sums from the corner: a view of all parts of a large image fills the memory."""
        sums = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        rows = sums[height:] - sums[:-height]
        return np.asarray((rows[:, width:] - rows[:, :-width]) / (height * width))

    variance = means(grey**2) - means(grey) ** 2
    row, column = (int(index) for index in np.unravel_index(variance.argmax(), variance.shape))
    return slice(row, row + height), slice(column, column + width)
