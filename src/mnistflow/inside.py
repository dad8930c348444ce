"""Inside the network: the pictures by which a class sees what a kernel, a pooling and a layer do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mnistflow import cells
from mnistflow.cells import Numbers

TILES = ("#ffe3c2", "#cdf2d3", "#cfe6ff", "#f0d6f7")
SHOWN = 8  # maps of a layer

# To be checked by hand: a stroke of ink that leans to the right, and a kernel that asks where ink begins.
PICTURE = np.array([[0, 0, 2, 3], [0, 1, 3, 3], [0, 2, 3, 1], [1, 3, 2, 0]])
KERNEL = np.array([[-1, 1], [-1, 1]])


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its file, what it is called, and what to see in it."""

    name: str
    title: str
    caption: str
    figure: Figure


def pictures(
    image: Numbers, label: str, kernels: Numbers, activations: Mapping[str, Numbers], classes: Sequence[str]
) -> list[Picture]:
    """All pictures, in the order in which a lesson shows them.

    Args:
        image: (28, 28) uint8, the one that the network looks at.
        label: the name of its class.
        kernels: (height, width, n), the first convolution's.
        activations: what each layer makes of the image, in their order; `conv1`, `conv2` and `pool` are
            (height, width, maps), the last is (10,).
        classes: a name per label.
    """
    return [
        as_numbers(image, label),
        convolution(PICTURE, KERNEL),
        pooling(convolve(PICTURE, KERNEL)),
        learned_kernels(kernels, activations["conv1"]),
        feature_maps(activations, classes),
        what_pooling_keeps(activations["conv2"], activations["pool"]),
    ]


def convolve(picture: Numbers, kernel: Numbers) -> Numbers:
    """The sum of products at every place where the kernel fits into the picture: what networks call a convolution."""
    windows = np.lib.stride_tricks.sliding_window_view(picture, kernel.shape)
    return np.asarray(np.einsum("ijkl,kl->ij", windows, kernel))


def kept(values: Numbers, size: int = 2) -> npt.NDArray[np.bool_]:
    """Where max pooling finds what it keeps: the first largest value of each whole `size` x `size` tile."""
    places = np.zeros(values.shape, bool)
    for row, column in np.ndindex(*(length // size for length in values.shape)):
        tile = np.s_[row * size : (row + 1) * size, column * size : (column + 1) * size]
        places[tile].flat[values[tile].argmax()] = True
    return places


def strongest(maps: Numbers) -> npt.NDArray[np.intp]:
    """The places of the maps (height, width, n), that with the largest value first."""
    return np.argsort(-maps.max(axis=(0, 1)), kind="stable")


def _largest(values: Numbers) -> float:
    return float(np.abs(values).max())


def as_numbers(image: Numbers, label: str, part: int = 10) -> Picture:
    """The image, and the part of it with the most contrast as the numbers that the network gets."""
    contrast = np.lib.stride_tricks.sliding_window_view(image, (part, part)).astype(float).var(axis=(2, 3))
    row, column = (int(place) for place in np.unravel_index(contrast.argmax(), contrast.shape))
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    cells.pixels(left, image, (0, 255))
    cells.frame(left, row, column, part)
    left.set_title(f"what we see: {label}", size=14)
    cells.pixels(right, image[row : row + part, column : column + part], (0, 255), 14)
    right.set_title("what the network gets, in the orange square", size=14)
    caption = (
        f"{image.shape[0]} x {image.shape[1]} pixels, each a number from 0, paper, to 255, ink. An edge of the stroke "
        "is where small numbers stand beside large ones. All that follows is arithmetic with these numbers."
    )
    return _titled("numbers.png", "A picture is a grid of numbers", caption, figure)


def convolution(picture: Numbers, kernel: Numbers) -> Picture:
    """A kernel at all its places in a small picture, with each product and sum."""
    result = convolve(picture, kernel)
    greys = (0, 2 * picture.max())  # light enough for dark numbers
    figure = Figure(figsize=(14, 9.4), layout="constrained")
    halves = figure.add_gridspec(1, 2, width_ratios=(1, 3))
    whole = halves[0].subgridspec(3, 1, height_ratios=[len(grid) for grid in (picture, kernel, result)])
    axes = [figure.add_subplot(whole[row, 0]) for row in range(3)]
    for ax, name in zip(axes, ("the picture", "the kernel", "the result"), strict=True):
        ax.set_title(name, size=14)
    cells.pixels(axes[0], picture, greys, 20)
    for ax, grid in zip(axes[1:], (kernel, result), strict=True):
        cells.signed(ax, grid, 1.6 * _largest(grid), 20)
    places = halves[1].subgridspec(*result.shape)
    for (row, column), total in np.ndenumerate(result):
        ax = figure.add_subplot(places[row, column])
        cells.pixels(ax, picture, greys, 14)
        cells.frame(ax, row, column, len(kernel))
        window = picture[row : row + len(kernel), column : column + kernel.shape[1]]
        products = [f"{value}·({cells.text(weight)})" for value, weight in zip(window.flat, kernel.flat, strict=True)]
        ax.set_xlabel(" + ".join(products).replace("(1)", "1"), size=13)
        color = cells.RED if total > 0 else cells.BLUE if total < 0 else "black"
        ax.set_title(f"= {cells.text(total)}", size=17, weight="bold", color=color, y=-0.33)
    caption = (
        f"A {len(kernel)} x {kernel.shape[1]} kernel fits into a {len(picture)} x {picture.shape[1]} picture at "
        f"{result.size} places. At each, the numbers under it are multiplied by the kernel's, and the sum is written "
        "down at the same place of the result. This kernel takes the left neighbours from the right ones: it answers "
        "with a large number where ink begins, a negative one where it ends, and nothing where nothing changes."
    )
    return _titled("convolution.png", "A kernel slides over the picture: multiply, add, write down", caption, figure)


def pooling(values: Numbers, size: int = 2) -> Picture:
    """Max pooling of a small result. An edge that fills no tile gets empty cells: `padding="same"` in Keras."""
    borders = [(0, -length % size) for length in values.shape]
    whole = np.pad(values.astype(float), borders, constant_values=-np.inf)
    bold = kept(whole, size)
    pooled = whole.reshape(len(whole) // size, size, -1, size).max(axis=(1, 3))
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    for ax, grid, step in zip(figure.subplots(1, 2), (whole, pooled), (size, 1), strict=True):
        ax.set(xlim=(-0.6, grid.shape[1] - 0.4), ylim=(len(grid) - 0.4, -0.6), aspect="equal")
        ax.axis("off")
        ax.set_title("the result, in tiles" if step > 1 else "the largest of each tile", size=14)
        for (row, column), value in np.ndenumerate(grid):
            color = TILES[(row // step * pooled.shape[1] + column // step) % len(TILES)]
            line = "-" if np.isfinite(value) else ":"
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fc=color, ec="grey", ls=line))
            if step == 1 or bold[row, column]:
                cells.write(ax, row, column, cells.text(value), 28, weight="bold")
            elif np.isfinite(value):
                cells.write(ax, row, column, cells.text(value), 18, color="dimgrey")
    caption = (
        f"Each {size} x {size} tile passes on its largest number and forgets where in the tile it stood: a quarter of "
        "the numbers remains, and a stroke that moves by a pixel mostly leaves them as they are. "
        f"{values.shape[0]} x {values.shape[1]} numbers don't fill such tiles, so empty cells complete the edge."
    )
    return _titled("pooling.png", "Max pooling keeps the strongest answer of each tile", caption, figure)


def learned_kernels(kernels: Numbers, maps: Numbers, columns: int = 8) -> Picture:
    """The first layer's kernels (height, width, n), each with what it makes of the image: its map."""
    count = kernels.shape[-1]
    rows = -(-count // columns)
    figure = Figure(figsize=(1.5 * columns, 3.1 * rows + 0.6), layout="constrained")
    grid = figure.add_gridspec(2 * rows, columns)
    for place in range(count):
        row, column = divmod(place, columns)
        cells.signed(figure.add_subplot(grid[2 * row, column]), kernels[..., place], _largest(kernels), 9)
        cells.signed(figure.add_subplot(grid[2 * row + 1, column]), maps[..., place], _largest(maps))
    caption = (
        f"The {count} kernels that training found, and under each the map that it makes of the image. Nobody drew "
        "them; they began as random numbers. Red beside blue looks for an edge, and its map is red along the edges "
        "that face its way. An empty map belongs to a kernel that finds nothing here."
    )
    return _titled("kernels.png", "The kernels that the first layer learned, and their maps", caption, figure)


def feature_maps(activations: Mapping[str, Numbers], classes: Sequence[str]) -> Picture:
    """What the layers make of the image, one after the other; those that pass it on as it is are left out."""
    steps: dict[str, Numbers] = {}
    for name, values in activations.items():
        if not steps or not np.array_equal(values.ravel(), list(steps.values())[-1].ravel()):
            steps[name] = values
    *between, last = steps
    heights = [1.4 if steps[name].ndim > 1 else 0.7 for name in between]
    figure = Figure(figsize=(12.5, sum(heights) + 3), layout="constrained")
    grid = figure.add_gridspec(len(steps), SHOWN + 1, height_ratios=[*heights, 1.8])
    for row, (name, values) in enumerate(steps.items()):
        size = " x ".join(map(str, values.shape[:2]))
        words = [name, size, *(f"{number} maps" for number in values.shape[2:])]
        _say(figure.add_subplot(grid[row, 0]), "\n".join(words), "right")
        if name == last:
            _bars(figure.add_subplot(grid[row, 1:]), values, classes)
        elif values.ndim == 1:
            ax = figure.add_subplot(grid[row, 1:])
            cells.signed(ax, values[np.newaxis], _largest(values), aspect="auto")
        elif values.ndim == 2:
            cells.pixels(figure.add_subplot(grid[row, 1]), values, (0, float(values.max())))
        else:
            # The same ones before and after pooling and ReLU, for both keep each map's largest value.
            chosen = strongest(values)[:SHOWN]
            for column, place in enumerate(chosen, 1):
                ax = figure.add_subplot(grid[row, column])
                cells.signed(ax, values[..., place], _largest(values[..., chosen]))
    note = (
        f"Each row is made from the row above it.\nOf its maps, the {SHOWN} that answer most strongly are shown:\n"
        "red above zero, blue below, white at zero."
    )
    _say(figure.add_subplot(grid[0, 2:]), note, "left")
    caption = (
        "The first layers still show the image, as edges; then maps answer to parts of it, at fewer and fewer places. "
        "Where pooling kept a number below zero, ReLU makes it zero: the blue is gone. What is left becomes one row of "
        f"numbers, and the last layer turns it into {len(classes)} probabilities that add up to 1."
    )
    return _titled("layers.png", "One image on its way through the network", caption, figure)


def _say(ax: Axes, words: str, side: str) -> None:
    """Write words in the place of a picture."""
    ax.axis("off")
    ax.text(1.0 if side == "right" else 0.04, 0.5, words, ha=side, va="center", size=13, linespacing=1.4)


def _bars(ax: Axes, probabilities: Numbers, classes: Sequence[str]) -> None:
    ax.bar(classes, probabilities, color=cells.RED, width=0.6)
    ax.set(ylim=(0, 1.2), yticks=[])
    ax.tick_params(labelsize=13 if max(map(len, classes)) < 4 else 9)
    ax.spines[["top", "left", "right"]].set_visible(False)
    for place, value in enumerate(probabilities):
        ax.text(place, value + 0.04, f"{value:.1%}", ha="center", size=12)


def what_pooling_keeps(before: Numbers, after: Numbers, part: int = 8) -> Picture:
    """The map with the strongest answer before and after 2x2 pooling, and the part around that answer in numbers."""
    place = strongest(after)[0]
    wide, small = before[..., place], after[..., place]
    half = part // 2
    peak = np.unravel_index(small.argmax(), small.shape)
    row, column = (int(np.clip(at - 2, 0, end - half)) for at, end in zip(peak, small.shape, strict=True))
    cut = wide[2 * row : 2 * row + part, 2 * column : 2 * column + part]
    largest = _largest(wide)
    figure = Figure(figsize=(12, 12.4), layout="constrained")
    (wide_ax, small_ax), (cut_ax, out_ax) = figure.subplots(2, 2)
    cells.signed(wide_ax, wide, largest)
    cells.frame(wide_ax, 2 * row, 2 * column, part)
    rows, columns = np.nonzero(kept(wide))
    wide_ax.scatter(columns, rows, s=6, color="black")
    wide_ax.set_title(f"before: {len(wide)} x {wide.shape[1]}, a dot where a number is kept", size=14)
    cells.signed(small_ax, small, largest)
    cells.frame(small_ax, row, column, half)
    small_ax.set_title(f"after: {len(small)} x {small.shape[1]}", size=14)
    cells.signed(cut_ax, cut, largest, 11)
    cells.lines(cut_ax, cut.shape, 2, "grey", 2)
    for down, along in np.argwhere(kept(cut)):
        cells.frame(cut_ax, down, along, 1, "black", 2.5)
    cut_ax.set_title("in the orange square, framed where it is kept", size=14)
    cells.signed(out_ax, small[row : row + half, column : column + half], largest, 18)
    out_ax.set_title("what comes out of it", size=14)
    caption = (
        f"The map of the second convolution that answers most strongly to this image. Pooling keeps {small.size} of "
        f"its {wide.size} numbers, the largest of each 2 x 2 tile. What is red on the left is red on the right, at the "
        "same place of a smaller map: what was found stays, and exactly where is forgotten."
    )
    return _titled("kept.png", "What pooling keeps", caption, figure)


def _titled(name: str, title: str, caption: str, figure: Figure) -> Picture:
    figure.suptitle(title, size=18)
    return Picture(name, title, caption, figure)
