"""Preprocessing for prediction: a picture file -> the network's input image, in the form of the training images.

Imports nothing of this project but decoding.py, because MLflow stores both files with each logged model: `predict` and
the served model share them.

Digits are brought into MNIST's form, as its authors did: light ink on black, the longer side of the ink scaled to 20 of
28 pixels, its centre of mass in the middle. Before that, the ink is separated from paper, shadows and noise.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

if __name__ == "preparation":  # as MLflow stored it
    import decoding  # type: ignore[import-not-found]
else:
    from mnistflow.data import decoding

Image2D = npt.NDArray[np.uint8]  # (height, width)
Grey = npt.NDArray[np.float32]  # (height, width), 0 to 255

# Chosen on validation images of MNIST: scaled, shifted, as JPEG, and in simulated photos with shadows and thin pens.
BOX = 20 / 28  # the longer side of the ink, as a share of the image's shorter one
SLACK = 2  # pixels: ink that is at most so much smaller than the box is not scaled
LARGEST = 1024  # pixels: pictures with a longer side are downsampled first
CONTRAST = 24  # grey levels: the least difference of ink and background
NOISE = 6  # standard deviations of the noise: the least difference of ink and background
EDGE = 0.15  # threshold for the edge of a stroke, as a share of the ink's level
SPECK = 0.03  # components with a smaller share of the largest component's ink are dirt
FAINT = 230  # grey levels: weaker ink is amplified


class NoInkError(ValueError):
    """A picture without ink."""


def load(content: bytes, shape: tuple[int, ...], prepare: str | None) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """The network's input image, and the preprocessing steps in words.

    Args:
        content: the picture file.
        shape: of the image: (height, width) in grey or (height, width, 3) in colour.
        prepare: `digit` for MNIST's form, None to resize only.

    Raises:
        ValueError: the picture can't be decoded or has no ink; the reason, without the file's name.
    """
    if prepare == "digit":
        return digit(np.asarray(decoding.opened(content)[0].convert("L")), (shape[0], shape[1]))
    picture, (height, width) = decoding.opened(content, 2 * max(shape[:2]))
    return decoding.fit(picture, shape), [] if (height, width) == shape[:2] else [f"resized from {width}x{height}"]


def digit(picture: Image2D, size: tuple[int, int]) -> tuple[Image2D, list[str]]:
    """A grey picture of one digit -> an image in MNIST's form, (height, width) = `size`, and the steps in words.

    A picture that is already in that form keeps its pixels.

    Raises:
        NoInkError: nothing stands out from the background.
    """
    grey, steps = picture.astype(np.float32), []
    if (factor := -(-max(grey.shape) // LARGEST)) > 1:
        grey = np.asarray(Image.fromarray(grey).reduce(factor))
    border = float(np.median(_edge(grey)))
    # Ink is on the side of the levels that is farther from the border, also in a dim photo.
    if border - grey.min() > grey.max() - border:
        grey, border = 255 - grey, 255 - border
        steps.append("inverted")
    if _is_in_form(grey, size):
        return grey.astype(np.uint8), steps
    is_flat = bool((np.abs(_edge(grey) - border) <= 2).mean() > 0.5)  # a drawing or a clean scan, not a photo
    ink = _ink(grey, border if is_flat else None)
    if not is_flat:
        steps.append("background removed")
    rows, columns = ndimage.find_objects((ink > 0).astype(np.int8))[0]
    ink = ink[rows, columns]
    steps.append(f"cropped to {ink.shape[1] * factor}x{ink.shape[0] * factor}")
    box = round(BOX * min(size))
    if not box - SLACK <= max(ink.shape) <= box:
        ink = _scale(ink, box)
        steps.append(f"scaled to {ink.shape[1]}x{ink.shape[0]}")
    return _centre(ink, size), [*steps, "centred"]


def _is_in_form(grey: Grey, size: tuple[int, int]) -> bool:
    """Whether the picture is in MNIST's form: ink on pure black, of the right size, centred by its mass."""
    if grey.shape != size or not grey.any():
        return False
    rows, columns = ndimage.find_objects((grey > 0).astype(np.int8))[0]
    longer = max(rows.stop - rows.start, columns.stop - columns.start)
    off = max(abs(center - length / 2) for center, length in zip(ndimage.center_of_mass(grey), size, strict=True))
    box = round(BOX * min(size))
    return bool(box - SLACK <= longer <= box and off <= 0.51)


def _edge(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The border pixels."""
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def _ink(grey: Grey, background: float | None) -> Grey:
    """Light ink without its background, 0 to 255.

    Args:
        grey: the picture.
        background: its grey level, or None for a photo, whose background varies with light, shadows and noise.

    Raises:
        NoInkError: nothing stands out from the background.
    """
    is_photo = background is None
    if background is None:
        # Background subtraction by a morphological opening, which removes all that is narrower than the window.
        # Smoothed before, because the darkest of many noisy pixels is darker than the background.
        window = max(grey.shape) // 3 + 1
        smooth = ndimage.gaussian_filter(grey, 1)
        ink = smooth - ndimage.gaussian_filter(ndimage.grey_opening(smooth, size=(window, window)), 3)
        ink -= np.median(ink)
    else:
        ink = grey - background
    noise = 1.4826 * float(np.median(np.abs(ink if is_photo else _edge(ink))))
    ink = np.maximum(ink, 0)
    threshold = _otsu(ink)
    strong = ink > threshold
    level = float(np.percentile(ink[strong], 95)) if strong.any() else 0.0
    if level < max(CONTRAST, NOISE * noise):
        raise NoInkError("no ink: nothing stands out from its background")
    # Hysteresis thresholding: components that contain strong pixels are ink; those with too little of it are dirt.
    parts, count = ndimage.label(ink > max(3 * noise, EDGE * level), np.ones((3, 3)))
    weight = np.bincount(parts.ravel(), np.where(strong, ink, 0).ravel(), count + 1)[1:]
    if is_photo:  # components at the border are shadows or the table, unless there are no others
        inner = np.where(np.isin(np.arange(1, count + 1), _edge(parts)), 0, weight)
        weight = inner if inner.any() else weight
    is_ink = np.concatenate([[False], weight >= max(SPECK * weight.max(), 1)])[parts]
    gain = 255 / level if level < FAINT else 1
    return np.where(is_ink, gain * ink, 0).clip(0, 255)


def _otsu(values: Grey) -> float:
    """Otsu's threshold: the level with the largest variance between the two classes of pixels."""
    counts, edges = np.histogram(values, 256, (0, 256))
    below, total = np.cumsum(counts), np.cumsum(counts * edges[:-1])
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(edges[np.nan_to_num(difference).argmax()])


def _scale(ink: Grey, box: int) -> Grey:
    """The ink, resized so that its longer side has `box` pixels."""
    height, width = (max(1, round(length * box / max(ink.shape))) for length in ink.shape)
    scaled = Image.fromarray(ink.astype(np.float32)).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(scaled).clip(0, 255)


def _centre(ink: Grey, size: tuple[int, int]) -> Image2D:
    """The ink on black, its centre of mass in the middle, as far as it stays inside."""
    image = np.zeros(size, np.uint8)
    window = []
    for center, length, whole in zip(ndimage.center_of_mass(ink), ink.shape, size, strict=True):
        start = min(max(round(whole / 2 - center), 0), whole - length)
        window.append(slice(start, start + length))
    image[tuple(window)] = np.rint(ink)
    return image
