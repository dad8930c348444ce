"""The lesson's pictures: what a kernel, a pooling and a layer do, by an example and in a trained network.

In them stand numbers, symbols and names alone, because a machine may have no font for Korean. The words are their
titles and captions, in English and Korean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
# The result has 4 x 4 numbers, which tiles of 2 x 2 fill.
PICTURE = np.array([[0, 0, 0, 2, 3], [0, 0, 2, 3, 1], [0, 1, 3, 2, 0], [0, 2, 3, 1, 0], [1, 3, 1, 0, 0]])
KERNEL = np.array([[-1, 1], [-1, 1]])


class Words(NamedTuple):
    """The same in English and Korean."""

    en: str
    ko: str


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its file, its title, and a caption that says what to see in it."""

    file: str
    title: Words
    caption: Words
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
        pooling_example(np.maximum(convolve(PICTURE, KERNEL), 0)),
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


def tile_means(values: Numbers, size: int) -> Numbers:
    """The mean of each `size` x `size` tile of values (height, width), which fill the tiles."""
    rows, columns = (length // size for length in values.shape)
    return np.asarray(values.reshape(rows, size, columns, size).mean(axis=(1, 3)))


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
    return " × ".join(map(str, values.shape[:2]))


def image_as_numbers(image: Numbers, name: str) -> Picture:
    """An image of the class `name`, and the part of it with the most contrast as the numbers that the network gets."""
    colour = image.ndim == 3
    rows, columns = cells.part_with_most_contrast(image, 8 if colour else 10)
    part = image[rows, columns]
    figure = new_figure(12, 6.6)
    left, right = figure.subplots(1, 2)
    cells.pixels(left, image)
    cells.frame(left, rows.start, columns.start, part.shape)
    left.set_title(f"{name}: {_size(image)}", size=16)
    cells.pixels(right, part, size=13 if colour else 14)
    right.set_title(_size(part), size=16, color=cells.ORANGE)
    what = (
        Words(
            "three numbers from 0 to 255: its red, green and blue light", "빨강, 초록, 파랑의 밝기를 0~255의 수 세 개로"
        )
        if colour
        else Words("a number from 0, drawn white, to 255, drawn black", "0(흰색)부터 255(검은색)까지의 수 하나로")
    )
    caption = Words(
        f"{_size(image)} pixels, each {what.en}. The orange frame is shown as the numbers that the network gets. An "
        "edge is where small numbers stand beside large ones. All that follows is arithmetic with these numbers.",
        f"{_size(image)}개의 픽셀을 저마다 {what.ko} 나타냅니다. 오른쪽은 주황색 틀 안을 신경망이 받는 수 그대로 보여 "
        "줍니다. 작은 수와 큰 수가 맞닿은 곳이 윤곽선입니다. 이다음은 모두 이 수들을 더하고 곱하는 계산입니다.",
    )
    title = Words("A picture is a grid of numbers", "그림은 수를 늘어놓은 표입니다")
    return Picture("numbers.png", title, caption, figure)


def convolution_example(picture: Numbers, kernel: Numbers) -> Picture:
    """A kernel at all its positions in a small picture, with each product and sum."""
    result = convolve(picture, kernel)
    high = 2 * picture.max()  # light enough for dark numbers
    figure = new_figure(18, 12.4)
    halves = figure.add_gridspec(1, 2, width_ratios=(1, 4))
    whole = halves[0].subgridspec(3, 1, height_ratios=[len(grid) for grid in (picture, kernel, result)])
    axes = [figure.add_subplot(whole[row, 0]) for row in range(3)]
    for ax, symbol, grid in zip(axes, ("", "∗ ", "= "), (picture, kernel, result), strict=True):
        ax.set_title(symbol + _size(grid), size=18)
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
        ax.set_title(f"= {cells.text(total)}", size=17, weight="bold", color=color, y=-0.32)
    caption = Words(
        f"A {_size(kernel)} kernel fits into a {_size(picture)} picture at {result.size} positions. At each, it is "
        "multiplied by the numbers under it, and the sum of the products goes to the same position of the result. This "
        "kernel subtracts the left neighbours from the right ones: the sum is large where a stroke begins, negative "
        "where it ends, and zero where nothing changes.",
        f"{_size(picture)} 그림 위에 {_size(kernel)} 커널을 놓을 수 있는 자리는 {result.size}곳입니다. 자리마다 커널의 "
        "수와 그 밑의 수를 곱해 모두 더하고, 그 합을 결과의 같은 자리에 적습니다. 이 커널은 오른쪽 이웃에서 왼쪽 "
        "이웃을 뺍니다. 그래서 획이 시작되는 곳에서는 합이 크고, 끝나는 곳에서는 음수이며, 변화가 없는 곳에서는 "
        "0입니다.",
    )
    title = Words(
        "A kernel slides over the picture: multiply, add, write down",
        "커널이 그림 위를 지나며 곱하고, 더하고, 적습니다",
    )
    return Picture("convolution.png", title, caption, figure)


def pooling_example(values: Numbers, size: int = 2) -> Picture:
    """Max pooling and average pooling of a small map, whose numbers fill the tiles."""
    bold, largest = maxima(values, size), tile_maxima(values, size)
    figure = new_figure(14, 5.4)
    axes, columns = figure.subplots(1, 3), values.shape[1] // size
    grids = ((values, size, "max(x, 0)"), (largest, 1, "max"), (tile_means(values, size), 1, f"Σ / {size * size}"))
    for ax, (grid, step, symbol) in zip(axes, grids, strict=True):
        ax.set(xlim=(-0.6, grid.shape[1] - 0.4), ylim=(len(grid) - 0.4, -0.6), aspect="equal")
        ax.axis("off")
        ax.set_title(symbol, size=20)
        for (row, column), value in np.ndenumerate(grid):
            color = TILES[(row // step * columns + column // step) % len(TILES)]
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fc=color, ec="grey"))
            if step == 1 or bold[row, column]:
                cells.write(ax, row, column, f"{value:g}", 28, weight="bold")
            else:
                cells.write(ax, row, column, cells.text(value), 20, color="dimgrey")
    caption = Words(
        f"Left, what ReLU leaves of the result: what was below zero is 0. Of each {size} × {size} tile, max pooling "
        "passes on the largest number (middle) and average pooling the mean (right), but not where in the tile it was. "
        "So a stroke that moves by a pixel mostly leaves the result as it is.",
        f"왼쪽은 합성곱 결과에 ReLU를 적용해 음수를 0으로 바꾼 것입니다. 최대 풀링은 {size} × {size} 칸마다 가장 큰 "
        "수를(가운데), 평균 풀링은 평균을(오른쪽) 넘겨줍니다. 칸 안의 어디였는지는 전하지 않으므로, 획이 한 픽셀쯤 "
        "움직여도 결과는 대체로 그대로입니다.",
    )
    title = Words("Pooling passes on one number of each tile", "풀링은 칸마다 수 하나만 넘겨줍니다")
    return Picture("pooling.png", title, caption, figure)


def learned_kernels(kernels: Numbers, maps: Numbers, columns: int = 8) -> Picture:
    """The first convolution's kernels (height, width, channels, n), each with its map of the image."""
    *shape, channels, total = kernels.shape
    first, maps = kernels[:, :, 0, :KERNELS], maps[..., :KERNELS]
    count = first.shape[-1]
    rows, size = -(-count // columns), 0 if max(shape) > 5 else 9 if max(shape) <= 3 else 6
    figure = new_figure(1.5 * columns, 3.1 * rows)
    grid = figure.add_gridspec(2 * rows, columns)
    for index in range(count):
        row, column = divmod(index, columns)
        cells.signed(figure.add_subplot(grid[2 * row, column]), first[..., index], _largest(first), size)
        cells.signed(figure.add_subplot(grid[2 * row + 1, column]), maps[..., index], _largest(maps))
    is_part, is_empty = count < total, bool((maps.max(axis=(0, 1)) <= 0).any())
    caption = Words(
        _text(
            f"{f'The first {count} of the {total}' if is_part else f'The {count}'} kernels that training found, and "
            "under each its map of the image. Nobody designed them: they began as random numbers.",
            f"A kernel has numbers for each of the {channels} channels; those for the first are shown."
            * (channels > 1),
            "A kernel with red beside blue responds to edges that face its way.",
            "An empty map belongs to a kernel that finds nothing in this image." * is_empty,
        ),
        _text(
            f"학습으로 얻은 커널 {total}개{f' 가운데 처음 {count}개' * is_part}와, 커널마다 그 아래에 이 이미지의 특징 "
            "맵입니다. 누가 설계한 것이 아니라 무작위 수에서 시작해 학습한 값입니다.",
            f"커널에는 채널 {channels}개마다 수가 따로 있으며, 첫 채널의 수만 보입니다." * (channels > 1),
            "빨간색과 파란색이 나란한 커널은 그 방향의 윤곽선에 반응합니다.",
            "빈 맵은 그 커널이 이 이미지에서 아무것도 찾지 못했다는 뜻입니다." * is_empty,
        ),
    )
    title = Words(
        "The kernels that the first convolution learned, and their maps", "첫 합성곱 층이 학습한 커널과 그 특징 맵"
    )
    return Picture("kernels.png", title, caption, figure)


def layer_outputs(image: Numbers, activations: Mapping[str, Numbers], classes: Sequence[str]) -> Picture:
    """The outputs of the layers for the image, in order; those of layers that change nothing are left out."""
    changes: dict[str, Numbers] = {}
    for name, values in activations.items():
        if not changes or not np.array_equal(values.ravel(), list(changes.values())[-1].ravel()):
            changes[name] = values
    names = list(changes)
    shown = [names[index] for index in sorted(set(np.linspace(0, len(names) - 1, LAYERS).astype(int).tolist()))]
    heights = [1.4 if changes[name].ndim > 1 else 0.7 for name in shown[:-1]]
    figure = new_figure(12.5, sum(heights) + 2.1)
    grid = figure.add_gridspec(len(shown), MAPS + 1, height_ratios=[*heights, 1.8])
    stages = [values for values in changes.values() if values.ndim == 3 and values.shape[2] > 3]
    for row, name in enumerate(shown):
        values = changes[name]
        is_image = values.shape[:2] == image.shape[:2] and values.size == image.size and values.min() >= 0
        shape = values.shape[:2] if is_image else values.shape
        _write(figure.add_subplot(grid[row, 0]), f"{shorten(name, 16)}\n{' × '.join(map(str, shape))}")
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
    is_part, is_deep, is_many = len(shown) < len(names), len(stages) > 1, len(classes) > BARS
    is_smaller = is_deep and stages[-1][..., 0].size < stages[0][..., 0].size
    caption = Words(
        _text(
            f"A row per layer{f', {len(shown)} of {len(names)}' * is_part}.",
            f"Of its maps, the {MAPS} with the largest numbers." * bool(stages),
            "Red is above zero, blue below.",
            "The first maps still show the image, as edges; later ones respond to parts of it"
            f"{', at fewer and fewer positions' * is_smaller}." * is_deep,
            "ReLU turns each number below zero into zero: the blue is gone." * has_relu,
            f"The last layer turns the numbers of the one before into {len(classes):,} probabilities that add up to 1.",
            f"The {BARS} largest are shown." * is_many,
        ),
        _text(
            f"한 줄이 한 층입니다{f'(전체 {len(names)}층 가운데 {len(shown)}층)' * is_part}.",
            f"특징 맵은 가장 큰 수가 나온 {MAPS}개만 보입니다." * bool(stages),
            "0보다 크면 빨간색, 작으면 파란색입니다.",
            "앞쪽 맵에는 이미지가 윤곽선으로 남아 있고, 뒤쪽 맵은 그 일부분에 반응합니다." * is_deep,
            "뒤로 갈수록 자리의 수가 줄어듭니다." * is_smaller,
            "ReLU가 음수를 0으로 바꾸어 파란색이 사라집니다." * has_relu,
            f"마지막 층은 앞 층의 수를 모두 더하면 1이 되는 확률 {len(classes):,}개로 바꿉니다.",
            f"그중 가장 큰 {BARS}개만 보입니다." * is_many,
        ),
    )
    title = Words("One image on its way through the network", "이미지 한 장이 신경망을 지나는 과정")
    return Picture("layers.png", title, caption, figure)


def _text(*sentences: str) -> str:
    """The sentences that are not empty."""
    return " ".join(filter(None, sentences))


def _write(ax: Axes, words: str) -> None:
    """Write words instead of a picture."""
    ax.axis("off")
    ax.text(1.0, 0.5, words, ha="right", va="center", size=13, linespacing=1.4)


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
    large_ax.set_title(f"{shorten(pooling.before, 20)}: {_size(large)}", size=16)
    cells.signed(small_ax, small, largest)
    cells.frame(small_ax, row, column, (side, side))
    small_ax.set_title(f"{shorten(pooling.layer, 20)}: {_size(small)}", size=16)
    cells.signed(part_ax, large[part], largest, 11)
    cells.lines(part_ax, large[part].shape, size, "grey", 2)
    for down, along in np.argwhere(mask[part]):
        cells.frame(part_ax, down, along, (1, 1), "black", 2.5)
    part_ax.set_title(_size(large[part]), size=16, color=cells.ORANGE)
    cells.signed(result_ax, small[row : row + side, column : column + side], largest, 18)
    result_ax.set_title(f"{side} × {side}", size=16, color=cells.ORANGE)
    caption = Words(
        f"The map of {pooling.before} with the largest number for this image. {pooling.layer} passes on {small.size:,} "
        f"of its {large.size:,} numbers, the largest of each {size} × {size} tile, which have a dot or a black frame. "
        "What is red on the left is red on the right, at the same position of a smaller map: what was detected "
        "remains, but not exactly where it was.",
        f"이 이미지에서 가장 큰 수가 나온 {pooling.before} 층의 특징 맵입니다. {pooling.layer} 층은 {size} × {size} "
        f"칸마다 가장 큰 수(점이나 검은 테두리로 표시), 곧 {large.size:,}개 가운데 {small.size:,}개만 넘겨줍니다. "
        "왼쪽에서 빨간 곳은 오른쪽의 더 작은 맵에서도 같은 자리가 빨갛습니다. 무엇을 찾았는지는 남고, 정확히 "
        "어디였는지는 사라집니다.",
    )
    title = Words("What pooling passes on", "풀링이 남기는 것")
    return Picture("pooled.png", title, caption, figure)
