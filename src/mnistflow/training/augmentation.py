"""Batches of training images, each in an order and with random changes that depend on (seed, epoch, batch) alone."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mnistflow.core.params import ModelSettings
from mnistflow.data import arrays
from mnistflow.data.arrays import Images, Labels, Split

GRID = 4  # points each way, whose moves bend an image


def batches(split: Split, settings: ModelSettings, epoch: int) -> Iterator[tuple[Images, Labels]]:
    """The batches of one epoch. Each is read when it is asked for: the images need not fit into memory."""
    order = np.random.default_rng((settings.seed, epoch)).permutation(len(split.labels))
    for index, start in enumerate(range(0, len(order), settings.batch_size)):
        chosen = order[start : start + settings.batch_size]
        images = arrays.take(split.images, chosen)
        random = np.random.default_rng((settings.seed, epoch, index))
        if settings.shift:
            images = shifted(images, settings.shift, random)
        if settings.rotate or settings.zoom or settings.bend:
            limits = (settings.rotate or 0.0, settings.zoom or 0.0, settings.bend or 0.0)
            images = distorted(images, *limits, random)
        yield images, split.labels[chosen]


def shifted(images: Images, pixels: int, random: np.random.Generator) -> Images:
    """Each image moved by up to `pixels` right or left and up or down, at random, zeros moving in."""
    height, width = images.shape[1:3]
    margin = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))[: images.ndim]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(images, margin), (height, width), axis=(1, 2))
    down, right = random.integers(0, 2 * pixels + 1, (2, len(images)))
    moved = windows[np.arange(len(images)), down, right]  # (n, [3,] height, width)
    return moved if images.ndim == 3 else np.ascontiguousarray(np.moveaxis(moved, 1, -1))


def distorted(images: Images, degrees: float, zoom: float, bend: float, random: np.random.Generator) -> Images:
    """Each image turned about its centre by up to `degrees` either way, enlarged or shrunk, and bent, at random.

    Its size changes by up to the share `zoom`, each way by as much. For `bend`, a grid of 4x4 points lies over the
    image. Each point moves by up to `bend` pixels right or left and up or down, and the pixels between them move in
    proportion. This is simpler than the elastic distortions of Simard, Steinkraus and Platt (2003), "Best Practices for
    Convolutional Neural Networks Applied to Visual Document Analysis", who move each pixel at random, and smooth the
    moves by a Gaussian. Bilinear, zeros from outside.
    """
    height, width = images.shape[1:3]
    angle = np.deg2rad(random.uniform(-degrees, degrees, len(images)), dtype=np.float32)
    scale = np.float32(1) / (1 + random.uniform(-zoom, zoom, len(images)).astype(np.float32))
    cosine, sine = (scale * function(angle) for function in (np.cos, np.sin))
    down, right = np.indices((height, width), np.float32).reshape(2, 1, -1)
    down, right = down - (height - 1) / 2, right - (width - 1) / 2
    # Where each pixel comes from, (n, height * width).
    y = cosine[:, None] * down - sine[:, None] * right + (height - 1) / 2
    x = sine[:, None] * down + cosine[:, None] * right + (width - 1) / 2
    if bend:
        points = random.uniform(-bend, bend, (2, len(images), GRID, GRID)).astype(np.float32)
        moves = _between_points(height) @ points @ _between_points(width).T
        y, x = y + moves[0].reshape(y.shape), x + moves[1].reshape(x.shape)
    if images.ndim == 4:
        return np.stack([_interpolated(images[..., channel], y, x) for channel in range(images.shape[-1])], axis=-1)
    return _interpolated(images, y, x)


def _between_points(size: int) -> npt.NDArray[np.float32]:
    """The weights (size, GRID) by which the points of the grid move each of `size` pixels."""
    points = np.linspace(0, size - 1, GRID)
    return np.stack([np.interp(np.arange(size), points, one) for one in np.eye(GRID)], axis=1).astype(np.float32)


def _interpolated(images: Images, y: npt.NDArray[np.float32], x: npt.NDArray[np.float32]) -> Images:
    """Grey images (n, height, width), whose pixels are read at `y` and `x`, (n, height * width) each."""
    height, width = images.shape[1:]
    # A frame of zeros, one pixel wide, stands for all that lies outside.
    y, x = np.clip(y + 1, 0, height), np.clip(x + 1, 0, width)
    top, left = y.astype(np.int32), x.astype(np.int32)
    y, x = y - top, x - left
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1))).reshape(len(images), -1)
    corner, row = top * (width + 2) + left, width + 2
    pixels = [np.take_along_axis(framed, corner + step, 1) for step in (0, 1, row, row + 1)]
    upper, lower = (pair[0] + x * (pair[1].astype(np.float32) - pair[0]) for pair in (pixels[:2], pixels[2:]))
    interpolated: Images = np.rint(upper + y * (lower - upper)).astype(np.uint8).reshape(images.shape)
    return interpolated
