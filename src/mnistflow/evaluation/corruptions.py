"""Corrupted images, which are harder to read: seven kinds of corruption, at three strengths each.

After MNIST-C (N. Mu and J. Gilmer 2019, arXiv:1906.02337) and the severities of D. Hendrycks and T. Dietterich (2019,
arXiv:1903.12261). Lengths are shares of an image's shorter side, so that one table serves images of any size. What
moves into an image, or covers a part of it, has the colour of its background.

The strengths were chosen on MNIST's validation images: the weakest costs the best model a few points or fewer, the
strongest about half of its accuracy.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mnistflow.data.arrays import Images
from mnistflow.data.background import background

Pixels = npt.NDArray[np.float32]  # (n, height, width, channels), 0 to 255
Random = np.random.Generator

SEED = 1


@dataclass(frozen=True)
class Family:
    """A kind of corruption: the function, its three strengths, and a template for a strength in words."""

    apply: Callable[[Pixels, float, Random], Pixels]
    strengths: tuple[float, float, float]
    words: str

    def settings(self) -> list[str]:
        """The three strengths in words, the weakest first."""
        return [self.words.format(strength) for strength in self.strengths]


def corrupted(images: Images, family: str, level: int, part: int = 0) -> Images:
    """Copies of the images, corrupted by a family of FAMILIES at level 1, 2 or 3.

    The same arguments give the same bytes. An image gets the same direction, position or noise at each level. `part` is
    the number of this batch, where the images of a data set come in several.
    """
    chosen = FAMILIES[family]
    random = np.random.default_rng([SEED, part, *family.encode()])
    pixels = images.reshape(*images.shape[:3], -1).astype(np.float32)
    changed = chosen.apply(pixels, chosen.strengths[level - 1], random)
    return np.rint(changed).clip(0, 255).astype(np.uint8).reshape(images.shape)


def noise(pixels: Pixels, strength: float, random: Random) -> Pixels:
    """Gaussian noise; `strength` is its standard deviation, as a share of the range."""
    return pixels + 255 * np.float32(strength) * random.standard_normal(pixels.shape, np.float32)


def blur(pixels: Pixels, strength: float, random: Random) -> Pixels:
    """Gaussian blur; `strength` is its standard deviation, as a share of the side."""
    sigma = strength * side(pixels)
    return np.asarray(ndimage.gaussian_filter(pixels, (0, sigma, sigma, 0), mode="nearest"))


def shift(pixels: Pixels, strength: float, random: Random) -> Pixels:
    """Each image moved by whole pixels in one of eight directions; `strength` is how far, as a share of the side."""
    angle = random.integers(8, size=len(pixels)) * np.pi / 4
    offset = np.rint(strength * side(pixels) * np.stack([np.sin(angle), np.cos(angle)], axis=1))
    return moved(pixels, offset=offset)


def rotation(pixels: Pixels, strength: float, random: Random) -> Pixels:
    """Each image turned about its centre, to the left or to the right; `strength` is in degrees."""
    return moved(pixels, degrees=strength * random.choice([-1, 1], len(pixels)))


def scale(pixels: Pixels, strength: float, random: Random) -> Pixels:
    """What is in each image shrunk towards its centre; `strength` is the new size as a share of the old one."""
    return moved(pixels, size=strength)


def contrast(pixels: Pixels, strength: float, random: Random) -> Pixels:
    """Each pixel's distance from the image's mean multiplied by `strength`."""
    mean = pixels.mean(axis=(1, 2), keepdims=True)
    return np.asarray(mean + np.float32(strength) * (pixels - mean))


def occlusion(pixels: Pixels, strength: float, random: Random) -> Pixels:
    """A square somewhere in each image painted over; `strength` is its side, as a share of the image's."""
    length = round(strength * side(pixels))
    inside = []
    for axis in (1, 2):
        start = random.random(len(pixels)) * (pixels.shape[axis] - length + 1)
        distance = np.arange(pixels.shape[axis]) - start.astype(int)[:, np.newaxis]
        inside.append((distance >= 0) & (distance < length))
    covered = inside[0][:, :, np.newaxis, np.newaxis] & inside[1][:, np.newaxis, :, np.newaxis]
    return np.where(covered, background(pixels), pixels)


def side(pixels: Pixels) -> int:
    """The shorter side of an image, in pixels."""
    return int(min(pixels.shape[1:3]))


def moved(
    pixels: Pixels, degrees: npt.NDArray[np.float64] | float = 0, size: float = 1, offset: npt.ArrayLike = (0, 0)
) -> Pixels:
    """Images turned about their centres, resized, and moved by `offset` (down, right) in pixels; bilinear.

    `degrees` (n,) and `offset` (n, 2) are for each image, or one for all.
    """
    count, height, width, channels = pixels.shape
    angle = np.broadcast_to(np.deg2rad(degrees), count)[:, np.newaxis, np.newaxis]
    down, right = np.broadcast_to(offset, (count, 2)).T[:, :, np.newaxis, np.newaxis]
    y, x = np.indices((height, width), float)
    y, x = y - (height - 1) / 2 - down, x - (width - 1) / 2 - right
    sine, cosine = np.sin(angle) / size, np.cos(angle) / size
    index = np.broadcast_to(np.arange(count, dtype=float)[:, np.newaxis, np.newaxis], (count, height, width))
    # Where each pixel comes from.
    coordinates = [index, cosine * y - sine * x + (height - 1) / 2, sine * y + cosine * x + (width - 1) / 2]
    colour = background(pixels)
    difference = pixels - colour  # zeros, which come in from outside, are then the background
    sampled = [ndimage.map_coordinates(difference[..., channel], coordinates, order=1) for channel in range(channels)]
    return np.stack(sampled, axis=-1) + colour


FAMILIES = {
    "noise": Family(noise, (0.15, 0.3, 0.5), "deviation {:.0%}"),
    "blur": Family(blur, (0.04, 0.06, 0.09), "deviation {:.0%}"),
    "shift": Family(shift, (0.08, 0.15, 0.22), "by {:.0%}"),
    "rotation": Family(rotation, (15, 30, 45), "by {:.0f}°"),
    "scale": Family(scale, (0.8, 0.65, 0.5), "to {:.0%}"),
    "contrast": Family(contrast, (0.5, 0.3, 0.15), "to {:.0%}"),
    "occlusion": Family(occlusion, (0.25, 0.4, 0.55), "a square of {:.0%}"),
}
