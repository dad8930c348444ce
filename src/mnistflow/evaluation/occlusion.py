"""Where a model looks: which parts of a misclassified image speak for the prediction, and which for the label.

Occlusion sensitivity (M. Zeiler and R. Fergus 2014, arXiv:1311.2901): a square is painted over at one position after
another, and the model answers each time. Nothing but its answers is needed, so this works for every network.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from mnistflow.core.errors import WorkflowError
from mnistflow.data.arrays import Images, Labels
from mnistflow.data.background import background
from mnistflow.evaluation import predictions
from mnistflow.evaluation.metrics import Predict
from mnistflow.evaluation.predictions import Predictions

Evidence = npt.NDArray[np.float32]  # (n, height, width), in nats

FILE = "occlusion.npy"
MOST = 20  # images: the most confident errors
SIDE = 0.2  # of the square, as a share of the image's shorter side
LEAST = 1e-7  # a lower probability counts as this, as in the loss
PIXELS = 2**23  # in one call of the model: what is in memory at a time


def of_errors(predict: Predict, evaluation: Predictions) -> Evidence:
    """The `evidence` in the first MOST errors of an evaluation, the most confident first."""
    positions = evaluation.most_confident_errors(MOST)
    indices = evaluation.errors[positions]
    images, labels = evaluation.error_images[positions], evaluation.labels[indices]
    return evidence(predict, images, labels, evaluation.predictions[indices])


def evidence(predict: Predict, images: Images, labels: Labels, predictions: Labels) -> Evidence:
    """What each pixel of misclassified images adds to the log-odds of the prediction against the label.

    Where it is positive, the pixels speak for the prediction, because without them it loses to the label; where it is
    negative, they speak for the label. The value of a pixel is the mean of all squares that cover it.
    """
    length, step = square(images.shape[1:3])
    height, width = images.shape[1:3]
    windows = [
        (slice(max(top, 0), top + length), slice(max(left, 0), left + length))
        for top in range(step - length, height, step)
        for left in range(step - length, width, step)
    ]
    result = np.zeros((len(images), height, width), np.float32)
    batch_size = max(1, PIXELS // (len(windows) * images[0].size)) if len(images) else 1
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        changes = _changes(predict, images[part], labels[part], predictions[part], windows)
        result[part] = _means(changes, windows, (height, width))
    return result


def square(shape: tuple[int, ...]) -> tuple[int, int]:
    """The side of the square that is painted over, and the step from one position to the next, in pixels."""
    length = max(1, round(SIDE * min(shape)))
    return length, max(1, length // 3)


Window = tuple[slice, slice]


def _changes(
    predict: Predict, images: Images, labels: Labels, predictions: Labels, windows: list[Window]
) -> npt.NDArray[np.float32]:
    """By how much the log-odds fall when each of the windows is painted over: (n, windows)."""
    colours = images.reshape(*images.shape[:3], -1)
    paint = np.rint(background(colours)).astype(np.uint8)
    painted = np.repeat(colours[:, np.newaxis], 1 + len(windows), axis=1)  # the first stays as it is
    for index, (rows, columns) in enumerate(windows, start=1):
        painted[:, index, rows, columns] = paint
    probabilities = predict(painted.reshape(-1, *images.shape[1:])).reshape(len(images), 1 + len(windows), -1)
    logarithms = np.log(probabilities.clip(min=LEAST))
    each_image = np.arange(len(images))
    odds = logarithms[each_image, :, predictions] - logarithms[each_image, :, labels]
    return np.asarray(odds[:, :1] - odds[:, 1:])


def _means(changes: npt.NDArray[np.float32], windows: list[Window], shape: tuple[int, int]) -> Evidence:
    """For each pixel, the mean of the changes by the windows that cover it: (n, height, width)."""
    sums, covers = np.zeros((len(changes), *shape), np.float32), np.zeros(shape, np.float32)
    for change, (rows, columns) in zip(changes.T, windows, strict=True):
        sums[:, rows, columns] += change[:, np.newaxis, np.newaxis]
        covers[rows, columns] += 1
    return sums / covers


def write(folder: Path, predict: Predict) -> None:
    """Write the evidence in the most confident errors of the evaluation in a folder."""
    np.save(folder / FILE, of_errors(predict, predictions.read(folder)))


def read(folder: Path) -> Evidence:
    """The evidence in the errors of an evaluation, the most confident first, as `write` wrote it.

    Raises:
        WorkflowError: the file is missing or damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise WorkflowError(f"{path} is missing; `dvc repro` makes it.")
    try:
        values: Evidence = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise WorkflowError(f"{path} is damaged ({error}); run `rm {path} && dvc checkout {path}`.") from error
    return values
