"""Batches of training images, each in an order and with random changes that depend on (seed, epoch, batch) alone."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mnistflow.core.params import ModelSettings
from mnistflow.data import arrays
from mnistflow.data.arrays import Images, Labels, Split


def batches(split: Split, settings: ModelSettings, epoch: int) -> Iterator[tuple[Images, Labels]]:
    """The batches of one epoch. Each is read when it is asked for: the images need not fit into memory."""
    order = np.random.default_rng((settings.seed, epoch)).permutation(len(split.labels))
    for index, start in enumerate(range(0, len(order), settings.batch_size)):
        chosen = order[start : start + settings.batch_size]
        images = arrays.take(split.images, chosen)
        random = np.random.default_rng((settings.seed, epoch, index))
        if settings.shift:
            images = shifted(images, settings.shift, random)
        if settings.rotate or settings.zoom:
            images = turned(images, settings.rotate or 0.0, settings.zoom or 0.0, random)
        yield images, split.labels[chosen]


def shifted(images: Images, pixels: int, random: np.random.Generator) -> Images:
    """Each image moved by up to `pixels` right or left and up or down, at random, zeros moving in."""
    height, width = images.shape[1:3]
    margin = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))[: images.ndim]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(images, margin), (height, width), axis=(1, 2))
    down, right = random.integers(0, 2 * pixels + 1, (2, len(images)))
    moved = windows[np.arange(len(images)), down, right]  # (n, [3,] height, width)
    return moved if images.ndim == 3 else np.ascontiguousarray(np.moveaxis(moved, 1, -1))


def turned(images: Images, degrees: float, zoom: float, random: np.random.Generator) -> Images:
    """Each image turned about its centre by up to `degrees` either way, and enlarged or shrunk, at random.

    Its size changes by up to the share `zoom`, each way by as much. Bilinear, zeros from outside.
    """
    angle = np.deg2rad(random.uniform(-degrees, degrees, len(images)), dtype=np.float32)
    scale = np.float32(1) / (1 + random.uniform(-zoom, zoom, len(images)).astype(np.float32))
    if images.ndim == 4:
        channels = [_turned(images[..., channel], angle, scale) for channel in range(images.shape[-1])]
        return np.stack(channels, axis=-1)
    return _turned(images, angle, scale)


def _turned(images: Images, angle: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]) -> Images:
    """Grey images (n, height, width) turned by `angle` (n,) in radians, of a size divided by `scale` (n,)."""
    height, width = images.shape[1:]
    cosine, sine = (scale * function(angle) for function in (np.cos, np.sin))
    down, right = np.indices((height, width), np.float32).reshape(2, 1, -1)
    down, right = down - (height - 1) / 2, right - (width - 1) / 2
    # Where each pixel comes from. A frame of zeros, one pixel wide, stands for all that lies outside.
    y = np.clip(cosine[:, None] * down - sine[:, None] * right + (height + 1) / 2, 0, height)
    x = np.clip(sine[:, None] * down + cosine[:, None] * right + (width + 1) / 2, 0, width)
    top, left = y.astype(np.int32), x.astype(np.int32)
    y, x = y - top, x - left
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1))).reshape(len(images), -1)
    corner, row = top * (width + 2) + left, width + 2
    pixels = [np.take_along_axis(framed, corner + step, 1) for step in (0, 1, row, row + 1)]
    upper, lower = (pair[0] + x * (pair[1].astype(np.float32) - pair[0]) for pair in (pixels[:2], pixels[2:]))
    interpolated: Images = np.rint(upper + y * (lower - upper)).astype(np.uint8).reshape(images.shape)
    return interpolated
