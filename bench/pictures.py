"""Whether a picture of a test image gets the answer that the image's array gets: `python bench/pictures.py [MODEL]`.

The test images of MNIST are written as PNG files, as they are and changed, and classified as `make predict` does. The
test set is opened here to measure, once all is decided: the constants of data/preparation.py, and SURE of
commands/predict.py, were chosen on validation images. Fails if a change costs more than one in a hundred right answers.
"""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from mnistflow.core import cli, files, params
from mnistflow.core.errors import WorkflowError
from mnistflow.data import arrays
from mnistflow.data.arrays import Images

SHARE = 0.99  # of the array's accuracy: what every change must reach
RANDOM = np.random.default_rng(0)


def padded(image: Images) -> Images:
    """The image anywhere in 100x100."""
    height, width = image.shape
    picture = np.zeros((100, 100), np.uint8)
    y, x = RANDOM.integers(0, 100 - height + 1), RANDOM.integers(0, 100 - width + 1)
    picture[y : y + height, x : x + width] = image
    return picture


def shifted(image: Images) -> Images:
    """The ink in one of the corners, by chance."""
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    up, left = (-int(RANDOM.choice([used[0], used[-1] - len(image) + 1])) for used in (rows, columns))
    return np.roll(image, (up, left), (0, 1))


def scaled(how: Image.Resampling) -> Callable[[Images], Images]:
    """A function that makes an image three times as high and wide."""
    return lambda image: np.asarray(Image.fromarray(image).resize((3 * image.shape[1], 3 * image.shape[0]), how))


CHANGES: dict[str, Callable[[Images], Images]] = {
    "as it is": lambda image: image,
    "inverted": lambda image: 255 - image,
    "padded to 100x100": padded,
    "scaled 3x, pixels repeated": scaled(Image.Resampling.NEAREST),
    "scaled 3x, bicubic": scaled(Image.Resampling.BICUBIC),
    "shifted to a corner": shifted,
    "all four": lambda image: 255 - padded(scaled(Image.Resampling.BICUBIC)(shifted(image))),
}


def predict(name: str, folder: Path, labels: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """What `make predict` says of 0.png, 1.png, ...: the label of each, -1 where it refused, and whether it is sure."""
    command = [sys.executable, "-m", "mnistflow.commands.predict", "--csv", "--model", name, str(folder)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = {int(Path(row["file"]).stem): row for row in csv.DictReader(output.splitlines())}
    ordered = [rows[index] for index in range(len(rows))]
    predictions = np.array([labels.get(row["class"], -1) for row in ordered])
    return predictions, np.array([row["sure"] == "True" for row in ordered])


def main(name: str = "") -> None:
    """Print the table.

    Raises:
        WorkflowError: a change costs too much, or the pictures as they are get other answers than the arrays.
    """
    from mnistflow.training import archive, backend

    name = name or params.load().evaluate.model
    model, classes = archive.load(files.MODELS / name / "model.keras"), arrays.describe().classes
    images, labels = arrays.load(arrays.DATA / "test")
    expected = backend.probabilities(model, images).argmax(axis=1)
    accuracy = float((expected == labels).mean())
    print(f"{len(labels):,} images as an array: {accuracy:.2%}", flush=True)
    print(f"{'as PNG files':26}  accuracy  other answers  not classified  unsure", flush=True)
    failed = []
    for change, apply in CHANGES.items():
        with TemporaryDirectory() as folder:
            for index, image in enumerate(images):
                Image.fromarray(apply(image)).save(Path(folder, f"{index}.png"))
            predictions, is_sure = predict(name, Path(folder), {each: label for label, each in enumerate(classes)})
        right, others = float((predictions == labels).mean()), int((predictions != expected).sum())
        unclassified, unsure = int((predictions < 0).sum()), float((~is_sure[predictions >= 0]).mean())
        print(f"{change:26}  {right:8.2%}  {others:13,}  {unclassified:14,}  {unsure:6.1%}", flush=True)
        if right < SHARE * accuracy or (change == "as it is" and others):
            failed.append(change)
    if failed:
        raise WorkflowError(f"too many answers change: {', '.join(failed)}.")


if __name__ == "__main__":
    cli.run(main)
