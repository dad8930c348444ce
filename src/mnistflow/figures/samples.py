"""Images of a data set -> figures, in which stand numbers and names of classes alone, as in the lesson's pictures."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mnistflow.data.arrays import Images, Labels
from mnistflow.figures import cells
from mnistflow.figures.style import drawable, new_figure


def draw_image(ax: Axes, image: Images, x: float, y: float, cell: float) -> float:
    """Draw the image into a cell that begins at x, y, its longer side 0.85 of the cell; return the height used."""
    scale, margin = 0.85 * cell / max(image.shape[:2]), 0.05 * cell
    height, width = scale * image.shape[0], scale * image.shape[1]
    x += (cell - width) / 2
    extent = (x, x + width, y + margin + height, y + margin)
    ax.imshow(image, cmap="gray_r", vmin=0, vmax=255, extent=extent)  # colours do not heed the colour map
    return float(height + 2 * margin)


def digit(image: Images, title: str) -> Figure:
    """One image with the numbers that it is made of; of a large image, the part with the most contrast.

    A pixel of a colour image has three numbers: red, green and blue.
    """
    channels = image.shape[2] if image.ndim == 3 else 1
    rows, columns = cells.part_with_most_contrast(image, 32 if channels == 1 else 14)
    part = image[rows, columns]
    height, width = part.shape[:2]
    scale = 9 / max(height, width)  # inches a pixel
    figure = new_figure(scale * width + 0.6, scale * height + 0.6)
    ax = figure.add_subplot()
    cells.pixels(ax, part, size=min(14, scale * (18.5 if channels == 1 else 15)))
    ax.set_title(title)
    ax.set_xticks(range(0, width, 4), map(str, range(columns.start, columns.stop, 4)))
    ax.set_yticks(range(0, height, 4), map(str, range(rows.start, rows.stop, 4)))
    return figure


def samples(images: Images, labels: Labels, classes: Sequence[str], most: int = 100) -> Figure:
    """A row of the first images of each class; where classes are many, in blocks and of the first `most` of them."""
    shown, cell = min(len(classes), most), 0.6
    blocks = min(-(-shown // 25), 4)
    each, rows = 12 // blocks, -(-shown // blocks)
    names = drawable(classes[:shown], 14)
    margin = 0.25 + 0.085 * max(map(len, names))
    width, top = margin + cell * each + 0.1, 0.4 if shown < len(classes) else 0
    figure = new_figure(width * blocks, cell * rows + top, layout=None)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    if top:
        ax.text(0.15, 0.2, f"1–{shown} / {len(classes):,}", size=12, va="center")
    for label, name in enumerate(names):
        block, row = divmod(label, rows)
        x, y = block * width + margin, top + row * cell
        ax.text(x - 0.1, y + cell / 2, name, size=10, ha="right", va="center")
        for column, index in enumerate(np.flatnonzero(labels == label)[:each]):
            draw_image(ax, images[index], x + column * cell, y, cell)
    ax.set(xlim=(0, width * blocks), ylim=(cell * rows + top, 0), aspect="auto")
    return figure
