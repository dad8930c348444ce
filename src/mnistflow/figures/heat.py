"""Where a model looked, laid over the image that it looked at."""

import numpy as np
import numpy.typing as npt

from mnistflow.data.arrays import Images
from mnistflow.evaluation.occlusion import Evidence
from mnistflow.figures.cells import SIGNED


def overlay(image: Images, evidence: Evidence) -> npt.NDArray[np.uint8]:
    """The image in pale grey under colours: red speaks for the prediction, blue for the label; (height, width, 3).

    Deepest where the evidence is strongest in this image. Grey images are ink on paper.
    """
    paper = 255 - image.astype(np.float32) if image.ndim == 2 else image.mean(axis=2)
    pale = (255 - 0.6 * (255 - paper))[..., np.newaxis]
    share = evidence / (np.abs(evidence).max() or 1)
    colours = 255 * SIGNED(0.5 + share / 2)[..., :3]
    opacity = 0.8 * np.abs(share)[..., np.newaxis] ** 0.5
    return np.asarray(np.rint(pale * (1 - opacity) + colours * opacity), np.uint8)


def beside(image: Images, evidence: Evidence) -> npt.NDArray[np.uint8]:
    """The image and, to its right, the same one with the `overlay`: (height, 2 widths and a gap, 3)."""
    plain = np.repeat(255 - image[..., np.newaxis], 3, axis=2) if image.ndim == 2 else image
    gap = np.full((len(image), max(1, image.shape[1] // 14), 3), 255, np.uint8)
    return np.concatenate([plain, gap, overlay(image, evidence)], axis=1)
