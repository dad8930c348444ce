"""Compare predictions for PNG files with those for arrays: `python bench/pictures.py [MODEL]`.

The test images of MNIST are written as PNG files, unchanged and transformed, and classified by `make predict`. Fails
if a transformation costs more than 1% of the accuracy. The test set only measures: the constants of
data/preparation.py, and SURE of commands/predict.py, were chosen on validation images.
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

SHARE = 0.99  # the least accuracy after a transformation, as a share of the arrays' accuracy
RANDOM = np.random.default_rng(0)


def padded(image: Images) -> Images:
    """The image at a random position in 100x100 black pixels."""
    height, width = image.shape
    picture = np.zeros((100, 100), np.uint8)
    y, x = RANDOM.integers(0, 100 - height + 1), RANDOM.integers(0, 100 - width + 1)
    picture[y : y + height, x : x + width] = image
    return picture


def shifted(image: Images) -> Images:
    """The ink moved to a random corner."""
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    up, left = (-int(RANDOM.choice([used[0], used[-1] - len(image) + 1])) for used in (rows, columns))
    return np.roll(image, (up, left), (0, 1))


def scaled(how: Image.Resampling) -> Callable[[Images], Images]:
    """A function that enlarges an image three times."""
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
    """The predictions of `make predict` for 0.png, 1.png, ... (-1: refused), and whether each is sure."""
    command = [sys.executable, "-m", "mnistflow.commands.predict", "--csv", "--model", name, str(folder)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = {int(Path(row["file"]).stem): row for row in csv.DictReader(output.splitlines())}
    ordered = [rows[index] for index in range(len(rows))]
    predictions = np.array([labels.get(row["class"], -1) for row in ordered])
    return predictions, np.array([row["sure"] == "True" for row in ordered])


def main(name: str = "") -> None:
    """Print the table.

    Raises:
        WorkflowError: a transformation costs too much, or unchanged pictures get other predictions than arrays.
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
