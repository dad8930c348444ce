"""The lesson's pictures: what a kernel, a pooling and a layer do, by an example and in a trained network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mnistflow.figures import cells
from mnistflow.figures.cells import Numbers
from mnistflow.figures.style import drawable, new_figure, shorten

TILES = ("#ffe3c2", "#cdf2d3", "#cfe6ff", "#f0d6f7")
MAPS = 8  # of a layer
KERNELS = 32
LAYERS = 14
BARS = 12

# An example to be checked by hand: a stroke that leans to the right, and a kernel that responds where a stroke begins.
PICTURE = np.array([[0, 0, 2, 3], [0, 1, 3, 3], [0, 2, 3, 1], [1, 3, 2, 0]])
KERNEL = np.array([[-1, 1], [-1, 1]])


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its file, its title, and a caption that says what to see in it."""

    file: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Convolution:
    """A network's first convolution: the name of its layer, and its kernels (height, width, channels, n)."""

    layer: str
    kernels: Numbers


@dataclass(frozen=True)
class Pooling:
    """A max pooling of tiles that don't overlap: the layer before it, its own name, and the side of a tile."""

    before: str
    layer: str
    size: int


def pictures(
    image: Numbers,
    label: int,
    activations: Mapping[str, Numbers],
    classes: Sequence[str],
    convolution: Convolution | None = None,
    pooling: Pooling | None = None,
) -> list[Picture]:
    """All pictures that apply to a network, in the order in which a lesson shows them.

    Args:
        image: (height, width) or (height, width, 3) uint8: the input.
        label: that of the image.
        activations: the output of each layer for the image by the layer's name, in order. The last has a probability
            for each class.
        classes: a name per label.
        convolution: None if the network has no such layer.
        pooling: None if the network has no such layer.
    """
    result = [
        image_as_numbers(image, drawable(classes, 20)[label]),
        convolution_example(PICTURE, KERNEL),
        pooling_example(convolve(PICTURE, KERNEL)),
    ]
    if convolution:
        result.append(learned_kernels(convolution.kernels, activations[convolution.layer]))
    result.append(layer_outputs(image, activations, classes))
    if pooling:
        result.append(pooled_map(activations[pooling.before], activations[pooling.layer], pooling))
    return result


def convolve(picture: Numbers, kernel: Numbers) -> Numbers:
    """The sum of products at each position where the kernel fits into the picture; networks call it a convolution."""
    windows = np.lib.stride_tricks.sliding_window_view(picture, kernel.shape)
    return np.asarray(np.einsum("ijkl,kl->ij", windows, kernel))


def tile_maxima(values: Numbers, size: int) -> Numbers:
    """The largest value of each whole `size` x `size` tile of values (height, width, ...)."""
    rows, columns = (length // size for length in values.shape[:2])
    tiles = values[: rows * size, : columns * size].reshape(rows, size, columns, size, *values.shape[2:])
    return np.asarray(tiles.max(axis=(1, 3)))


def maxima(values: Numbers, size: int = 2) -> npt.NDArray[np.bool_]:
    """Which values (height, width) max pooling passes on: the first largest of each whole `size` x `size` tile."""
    mask = np.zeros(values.shape, bool)
    for row, column in np.ndindex(*(length // size for length in values.shape)):
        tile = np.s_[row * size : (row + 1) * size, column * size : (column + 1) * size]
        mask[tile].flat[values[tile].argmax()] = True
    return mask


def strongest(maps: Numbers) -> npt.NDArray[np.intp]:
    """The indices of the maps (height, width, n), that with the largest value first."""
    return np.argsort(-maps.max(axis=(0, 1)), kind="stable")


def _largest(values: Numbers) -> float:
    return float(np.abs(values).max())


def _size(values: Numbers) -> str:
    """Height and width in words."""
    return " x ".join(map(str, values.shape[:2]))


def image_as_numbers(image: Numbers, name: str) -> Picture:
    """An image of the class `name`, and the part of it with the most contrast as the numbers that the network gets."""
    colour = image.ndim == 3
    rows, columns = cells.part_with_most_contrast(image, 8 if colour else 10)
    part = image[rows, columns]
    figure = new_figure(12, 6.6)
    left, right = figure.subplots(1, 2)
    cells.pixels(left, image)
    cells.frame(left, rows.start, columns.start, part.shape)
    left.set_title(f"what we see: {name}", size=14)
    cells.pixels(right, part, size=13 if colour else 14)
    right.set_title("what the network gets, in the orange frame", size=14)
    pixel = (
        "each three numbers from 0 to 255: its red, green and blue light"
        if colour
        else "each a number from 0, drawn white, to 255, drawn black"
    )
    caption = (
        f"{_size(image)} pixels, {pixel}. An edge is where small numbers stand beside large ones. All that follows is "
        "arithmetic with these numbers."
    )
    return _picture("numbers.png", "A picture is a grid of numbers", caption, figure)


def convolution_example(picture: Numbers, kernel: Numbers) -> Picture:
    """A kernel at all its positions in a small picture, with each product and sum."""
    result = convolve(picture, kernel)
    high = 2 * picture.max()  # light enough for dark numbers
    figure = new_figure(14, 9.4)
    halves = figure.add_gridspec(1, 2, width_ratios=(1, 3))
    whole = halves[0].subgridspec(3, 1, height_ratios=[len(grid) for grid in (picture, kernel, result)])
    axes = [figure.add_subplot(whole[row, 0]) for row in range(3)]
    for ax, name in zip(axes, ("the picture", "the kernel", "the result"), strict=True):
        ax.set_title(name, size=14)
    cells.pixels(axes[0], picture, high, 20)
    for ax, grid in zip(axes[1:], (kernel, result), strict=True):
        cells.signed(ax, grid, 1.6 * _largest(grid), 20)
    positions = halves[1].subgridspec(*result.shape)
    for (row, column), total in np.ndenumerate(result):
        ax = figure.add_subplot(positions[row, column])
        cells.pixels(ax, picture, high, 14)
        cells.frame(ax, row, column, kernel.shape)
        window = picture[row : row + len(kernel), column : column + kernel.shape[1]]
        products = [f"{value}·({cells.text(weight)})" for value, weight in zip(window.flat, kernel.flat, strict=True)]
        ax.set_xlabel(" + ".join(products).replace("(1)", "1"), size=13)
        color = cells.RED if total > 0 else cells.BLUE if total < 0 else "black"
        ax.set_title(f"= {cells.text(total)}", size=17, weight="bold", color=color, y=-0.33)
    caption = (
        f"A {_size(kernel)} kernel fits into a {_size(picture)} picture at {result.size} positions. At each, it is "
        "multiplied by the numbers under it, and the sum of the products goes to the same position of the result. This "
        "kernel subtracts the left neighbours from the right ones: the sum is large where a stroke begins, negative "
        "where it ends, and zero where nothing changes."
    )
    return _picture("convolution.png", "A kernel slides over the picture: multiply, add, write down", caption, figure)


def pooling_example(values: Numbers, size: int = 2) -> Picture:
    """Max pooling of a small result. An edge that fills no tile gets empty cells: `padding="same"` in Keras."""
    borders = [(0, -length % size) for length in values.shape]
    whole = np.pad(values.astype(float), borders, constant_values=-np.inf)
    bold = maxima(whole, size)
    pooled = tile_maxima(whole, size)
    figure = new_figure(10, 5.6)
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
        f"Each {size} x {size} tile passes on its largest number, but not where in the tile it was. A stroke that "
        f"moves by a pixel mostly leaves the result as it is. {_size(values)} numbers do not fill such tiles, so empty "
        "cells complete the edge."
    )
    return _picture("pooling.png", "Max pooling passes on the largest number of each tile", caption, figure)


def learned_kernels(kernels: Numbers, maps: Numbers, columns: int = 8) -> Picture:
    """The first convolution's kernels (height, width, channels, n), each with its map of the image."""
    *shape, channels, total = kernels.shape
    first, maps = kernels[:, :, 0, :KERNELS], maps[..., :KERNELS]
    count = first.shape[-1]
    rows, size = -(-count // columns), 0 if max(shape) > 5 else 9 if max(shape) <= 3 else 6
    figure = new_figure(1.5 * columns, 3.1 * rows + 0.6)
    grid = figure.add_gridspec(2 * rows, columns)
    for index in range(count):
        row, column = divmod(index, columns)
        cells.signed(figure.add_subplot(grid[2 * row, column]), first[..., index], _largest(first), size)
        cells.signed(figure.add_subplot(grid[2 * row + 1, column]), maps[..., index], _largest(maps))
    sentences = [
        f"{f'The first {count} of the {total}' if count < total else f'The {count}'} kernels that training found, and "
        "under each its map of the image. Nobody designed them: they began as random numbers.",
        f"A kernel has numbers for each of the {channels} channels; those for the first are shown." * (channels > 1),
        "A kernel with red beside blue responds to edges that face its way.",
        "An empty map belongs to a kernel that finds nothing in this image." * bool((maps.max(axis=(0, 1)) <= 0).any()),
    ]
    title = "The kernels that the first convolution learned, and their maps"
    return _picture("kernels.png", title, " ".join(filter(None, sentences)), figure)


def layer_outputs(image: Numbers, activations: Mapping[str, Numbers], classes: Sequence[str]) -> Picture:
    """The outputs of the layers for the image, in order; those of layers that change nothing are left out."""
    changes: dict[str, Numbers] = {}
    for name, values in activations.items():
        if not changes or not np.array_equal(values.ravel(), list(changes.values())[-1].ravel()):
            changes[name] = values
    names = list(changes)
    shown = [names[index] for index in sorted(set(np.linspace(0, len(names) - 1, LAYERS).astype(int).tolist()))]
    heights = [1.4 if changes[name].ndim > 1 else 0.7 for name in shown[:-1]]
    figure = new_figure(12.5, 0.9 + sum(heights) + 2.1)
    grid = figure.add_gridspec(len(shown) + 1, MAPS + 1, height_ratios=[0.3, *heights, 1.8])
    stages = [values for values in changes.values() if values.ndim == 3 and values.shape[2] > 3]
    note = f"A row per layer{f', {len(shown)} of {len(names)}' * (len(shown) < len(names))}. "
    note += f"Of its maps, the {MAPS} with the largest numbers. " * bool(stages)
    _write(figure.add_subplot(grid[0, :]), note + "Red is above zero, blue below.", "center")
    for row, name in enumerate(shown, 1):
        values = changes[name]
        is_image = values.shape[:2] == image.shape[:2] and values.size == image.size and values.min() >= 0
        words = [shorten(name, 16), _size(values), *(f"{number} maps" for number in values.shape[2:] if not is_image)]
        _write(figure.add_subplot(grid[row, 0]), "\n".join(words), "right")
        if name == shown[-1]:
            _bars(figure.add_subplot(grid[row, 1:]), values, classes)
        elif values.ndim == 1:
            ax = figure.add_subplot(grid[row, 1:])
            cells.signed(ax, values[np.newaxis], _largest(values), aspect="auto")
        elif is_image:
            cells.pixels(figure.add_subplot(grid[row, 1]), values.reshape(image.shape), float(values.max()) or 1)
        else:
            maps = values.reshape(*values.shape[:2], -1)  # one map, if the layer has no dimension for them
            # Often the same ones before and after pooling and ReLU, for both leave each map its largest number.
            chosen = strongest(maps)[:MAPS]
            for column, index in enumerate(chosen, 1):
                ax = figure.add_subplot(grid[row, column])
                cells.signed(ax, maps[..., index], _largest(maps[..., chosen]))
    pairs = zip(changes.values(), list(changes.values())[1:], strict=False)
    has_relu = any(old.min() < 0 and np.array_equal(new, np.maximum(old, 0)) for old, new in pairs)
    sentences = [
        "The first maps still show the image, as edges; later ones respond to parts of it"
        + (", at fewer and fewer positions." if stages[-1][..., 0].size < stages[0][..., 0].size else ".")
        if len(stages) > 1
        else "",
        "ReLU turns each number below zero into zero: the blue is gone." * has_relu,
        f"The last layer turns the numbers of the one before into {len(classes):,} probabilities that add up to 1.",
        f"The {BARS} largest are shown." * (len(classes) > BARS),
    ]
    caption = " ".join(filter(None, sentences))
    return _picture("layers.png", "One image on its way through the network", caption, figure)


def _write(ax: Axes, words: str, side: str) -> None:
    """Write words instead of a picture."""
    ax.axis("off")
    ax.text(1.0 if side == "right" else 0.5, 0.5, words, ha=side, va="center", size=13, linespacing=1.4)


def _bars(ax: Axes, probabilities: Numbers, classes: Sequence[str]) -> None:
    """The probabilities of all classes, or of the BARS most probable ones."""
    order = np.arange(len(classes)) if len(classes) <= BARS else np.argsort(-probabilities, kind="stable")[:BARS]
    names = np.array(drawable(classes, 90 // len(order)))[order]
    ax.bar(range(len(order)), probabilities[order], color=cells.RED, width=0.6)
    ax.set(ylim=(0, 1.2), yticks=[])
    ax.set_xticks(range(len(order)), names, size=13 if max(map(len, names)) < 4 else 9)
    ax.spines[["top", "left", "right"]].set_visible(False)
    for position, value in enumerate(probabilities[order]):
        ax.text(position, value + 0.04, f"{value:.1%}", ha="center", size=12)


def pooled_map(before: Numbers, after: Numbers, pooling: Pooling) -> Picture:
    """The map with the largest number before and after pooling, and the part around that number as numbers."""
    size, index = pooling.size, strongest(after)[0]
    large, small = before[..., index], after[..., index]
    side = min(max(1, 8 // size), *small.shape)  # of the part, after pooling
    peak = np.unravel_index(small.argmax(), small.shape)
    row, column = (int(np.clip(at - side // 2, 0, end - side)) for at, end in zip(peak, small.shape, strict=True))
    part = np.s_[size * row : size * (row + side), size * column : size * (column + side)]
    largest, mask = _largest(large), maxima(large, size)
    figure = new_figure(12, 12.4)
    (large_ax, small_ax), (part_ax, result_ax) = figure.subplots(2, 2)
    cells.signed(large_ax, large, largest)
    cells.frame(large_ax, size * row, size * column, large[part].shape)
    rows, columns = np.nonzero(mask)
    large_ax.scatter(columns, rows, s=min(6, (200 / max(large.shape)) ** 2), color="black")
    large_ax.set_title(f"before: {_size(large)}, a dot on the largest of each tile", size=14)
    cells.signed(small_ax, small, largest)
    cells.frame(small_ax, row, column, (side, side))
    small_ax.set_title(f"after: {_size(small)}", size=14)
    cells.signed(part_ax, large[part], largest, 11)
    cells.lines(part_ax, large[part].shape, size, "grey", 2)
    for down, along in np.argwhere(mask[part]):
        cells.frame(part_ax, down, along, (1, 1), "black", 2.5)
    part_ax.set_title("before, in the orange frame: the largest are framed", size=14)
    cells.signed(result_ax, small[row : row + side, column : column + side], largest, 18)
    result_ax.set_title("after, in the orange frame", size=14)
    caption = (
        f"The map of {pooling.before} with the largest number for this image. {pooling.layer} passes on {small.size:,} "
        f"of its {large.size:,} numbers, the largest of each {size} x {size} tile. What is red on the left is red on "
        "the right, at the same position of a smaller map: what was detected remains, and exactly where is lost."
    )
    return _picture("pooled.png", "What pooling passes on", caption, figure)


def _picture(file: str, title: str, caption: str, figure: Figure) -> Picture:
    figure.suptitle(title, size=18)
    return Picture(file, title, caption, figure)
