"""The share of unsure predictions at several limits of SURE in commands/predict.py: `python bench/sure.py [MODEL]`.

On validation images, right and wrong predictions apart; and on images of no digit: printed letters, pairs of printed
digits, and crops of the photos that come with scikit-learn and Matplotlib. The test set stays closed.
"""

import string
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images

from mnistflow.core import cli, files, params
from mnistflow.data import arrays, preparation
from mnistflow.data.arrays import Images

LIMITS = (0.5, 0.8, 0.9, 0.95, 0.99)
DATA = Path(matplotlib.__file__).parent / "mpl-data"
FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono-Oblique")
LIKE_DIGITS = "BDIOQSZbgijloqsz"


def text(words: str, font: str) -> Images:
    """Words in black on white."""
    picture = Image.new("L", (400, 160), 255)
    ImageDraw.Draw(picture).text((30, 20), words, font=ImageFont.truetype(DATA / f"fonts/ttf/{font}.ttf", 100))
    return np.asarray(picture)


def crops(count: int = 200) -> list[Images]:
    """Random square crops of photos, 60 to 299 pixels wide."""
    random = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    photos.append(Image.open(DATA / "sample_data/grace_hopper.jpg"))
    grey, cut = [np.asarray(photo.convert("L")) for photo in photos], []
    for _ in range(count):
        photo, size = grey[random.integers(len(grey))], random.integers(60, 300)
        y, x = random.integers(photo.shape[0] - size), random.integers(photo.shape[1] - size)
        cut.append(photo[y : y + size, x : x + size])
    return cut


def main(name: str = "") -> None:
    """Print the table."""
    from mnistflow.training import archive, backend

    model = archive.load(files.MODELS / (name or params.load().evaluate.model) / "model.keras")
    dataset = arrays.describe()
    images, labels = arrays.load(arrays.DATA / "validation")
    letters = [letter for letter in string.ascii_letters if letter not in LIKE_DIGITS]
    others = {
        "letters": [text(letter, font) for letter in letters for font in FONTS],
        "two digits": [text(f"{number:02}", FONTS[0]) for number in range(100)],
        "pieces of photos": crops(),
    }
    probabilities = backend.probabilities(model, images)
    is_right = probabilities.argmax(axis=1) == labels
    confidence = {"right answers": probabilities[is_right], "wrong answers": probabilities[~is_right]}
    for kind, pictures in others.items():
        prepared = []
        for picture in pictures:
            try:
                prepared.append(preparation.digit(picture, dataset.shape)[0])
            except preparation.NoInkError:
                continue
        print(f"{kind}: {len(prepared)} of {len(pictures)} have ink")
        confidence[kind] = backend.probabilities(model, np.stack(prepared))
    print("limit  " + "  ".join(f"{kind:>16}" for kind in confidence))
    for limit in LIMITS:
        shares = ((values.max(axis=1) < limit).mean() for values in confidence.values())
        print(f"{limit:5.0%}  " + "  ".join(f"{share:16.1%}" for share in shares))


if __name__ == "__main__":
    cli.run(main)
