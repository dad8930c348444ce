"""The background colour of images. On its own, because `evaluate` and `plot` need it without the rest of data/."""

import numpy as np
import numpy.typing as npt


def background(images: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """The median colour of each image's border: (n, height, width, channels) -> (n, 1, 1, channels)."""
    rows, columns = images[:, [0, -1]], images[:, 1:-1, [0, -1]]
    border = [part.reshape(len(images), -1, images.shape[-1]) for part in (rows, columns)]
    median = np.median(np.concatenate(border, axis=1), axis=1)
    return median[:, np.newaxis, np.newaxis].astype(np.float32)
