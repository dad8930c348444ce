"""How the models break: an image under each corruption, and under it their accuracy."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from mnistflow.data.arrays import Images
from mnistflow.evaluation.corruptions import FAMILIES, corrupted
from mnistflow.evaluation.robustness import Scores
from mnistflow.figures import cells
from mnistflow.figures.style import new_figure, shorten

LEVELS = (0, 1, 2, 3)
MARKERS = "osD^vP*X"
LEGEND = 4  # models in a row


def sheet(image: Images, scores: Mapping[str, Scores]) -> Figure:
    """A column for each kind of corruption: the image at three strengths, and the models' accuracy by strength.

    Args:
        image: one that shows what the corruptions do.
        scores: of each model, by name.
    """
    legend_rows = -(-len(scores) // LEGEND)
    width, height = 1.75 * len(FAMILIES), 8 + 0.25 * legend_rows
    figure = new_figure(width, height, layout=None)  # a layout engine takes a second for so many axes
    bounds = {"left": 0.7 / width, "right": 1 - 0.1 / width, "top": 1 - 0.35 / height}
    bounds |= {"bottom": (0.9 + 0.25 * legend_rows) / height, "wspace": 0.12, "hspace": 0.22}
    rows = figure.add_gridspec(4, len(FAMILIES), height_ratios=(1, 1, 1, 1.25), **bounds)
    for column, (name, family) in enumerate(FAMILIES.items()):
        for level, setting in enumerate(family.settings(), start=1):
            ax = figure.add_subplot(rows[level - 1, column])
            cells.pixels(ax, corrupted(image[np.newaxis], name, level)[0])
            ax.set_xlabel(f"{level}: {setting}", size=10)
            if level == 1:
                ax.set_title(name, size=15)
        ax = figure.add_subplot(rows[3, column])
        for index, each in enumerate(scores.values()):
            marker, dashes = MARKERS[index % len(MARKERS)], "-" if index < 10 else "--"
            percent = [100 * value for value in (each.clean, *each.families[name])]
            ax.plot(LEVELS, percent, marker + dashes, color=f"C{index % 10}", markersize=5)
        ax.set(xticks=LEVELS, ylim=(0, 103), xlabel="strength")
        ax.tick_params(labelleft=column == 0)
        ax.grid(alpha=0.4)
        ax.margins(x=0.08)
        if column == 0:
            ax.set_ylabel("accuracy, %", size=11)
    names = [f"{shorten(name, 14)}: {each.mean:.1%}" for name, each in scores.items()]
    images = next(iter(scores.values())).images
    title = f"mean accuracy on {images:,} test images with all corruptions"
    figure.legend(
        ax.lines, names, loc="lower center", ncols=min(LEGEND, len(names)), fontsize=12, frameon=False, title=title
    )
    return figure
