"""The colour behind what an image shows. A file of its own, because two stages paint with it."""

import numpy as np
import numpy.typing as npt


def background(images: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """The colour behind each image (n, height, width, channels): its border's median, (n, 1, 1, channels)."""
    rows, columns = images[:, [0, -1]], images[:, 1:-1, [0, -1]]
    border = [part.reshape(len(images), -1, images.shape[-1]) for part in (rows, columns)]
    median = np.median(np.concatenate(border, axis=1), axis=1)
    return median[:, np.newaxis, np.newaxis].astype(np.float32)
