"""What a model sees in pictures: `python -m mnistflow.commands.predict PATH...`; --help lists the options.

A picture is prepared as data/preparation.py says, so that the network sees what it was trained on. An answer with less
than SURE is shown as unsure: a network has an answer to everything, also to a picture of none of its classes.

Exit status 0 if at least one picture was classified, also where the answer is unsure; else 1.
"""

import argparse
import csv
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import numpy as np

from mnistflow.core import cli, files, params
from mnistflow.core.errors import WorkflowError
from mnistflow.data import arrays, preparation
from mnistflow.data.arrays import Description, Images
from mnistflow.evaluation.metrics import Probabilities

# Of cnn's answers to MNIST's validation images, 1.0% of the right ones and 60% of the wrong ones have less; of those to
# printed letters 38%, to two digits side by side 58%, to pieces of photos 86% (bench/sure.py).
SURE = 0.9
BATCH = 256  # pictures: what is in memory at a time
SHOWN = 120  # pictures on the sheet
COLUMNS = ("file", "class", "probability", "runner_up", "runner_up_probability", "sure", "prepared", "problem")


@dataclass
class Picture:
    """A file and, where it is a picture, the image that the network sees."""

    path: Path
    image: Images | None = None
    prepared: list[str] = field(default_factory=list)  # what was done to the picture, in words
    problem: str = ""  # why there is no image


@dataclass(frozen=True)
class Answer:
    """A model's answer to a picture; where that has no image, the probabilities are empty."""

    picture: Picture
    classes: Sequence[str]
    probabilities: Probabilities  # (classes,)

    def ranked(self, rank: int) -> tuple[str, float]:
        """The most probable class (rank 0) or the runner-up (rank 1), and its probability."""
        label = np.argsort(-self.probabilities, kind="stable")[rank]
        return self.classes[label], float(self.probabilities[label])

    @property
    def is_sure(self) -> bool:
        """Whether the answer should be believed."""
        return self.ranked(0)[1] >= SURE

    @property
    def prepared(self) -> str:
        """What was done to the picture, in words."""
        return ", ".join(self.picture.prepared) or "nothing"

    def row(self) -> dict[str, Any]:
        """The answer by COLUMNS, for CSV and JSON; None where there is nothing to tell."""
        row = dict.fromkeys(COLUMNS) | {"file": _printable(self.picture.path)}
        if self.picture.image is None:
            return row | {"problem": self.picture.problem}
        (best, probability), (second, rest) = self.ranked(0), self.ranked(1)
        values = (best, round(probability, 6), second, round(rest, 6), self.is_sure, self.prepared)
        return row | dict(zip(COLUMNS[1:-1], values, strict=True))

    def words(self) -> tuple[str, str, str, str]:
        """The answer as a row of the table: class, probability, runner-up, what was done or what is wrong."""
        if self.picture.image is None:
            return "-", "", "", self.picture.problem
        (best, probability), (second, rest) = self.ranked(0), self.ranked(1)
        name = best if self.is_sure else f"{best}?"
        unsure = "" if self.is_sure else "unsure, it may be none of the classes; "
        return name, f"{probability:.2%}", f"{second} {rest:.2%}", unsure + self.prepared


def find(paths: Sequence[Path]) -> list[Path]:
    """The files, and those in the folders and below, sorted; hidden ones are left out.

    Raises:
        WorkflowError: no path is given, one is missing, or nothing is there.
    """
    if not paths:
        raise WorkflowError("no picture is named; `make predict FILES='seven.png scans/'` takes a file and a folder.")
    pictures = []
    for path in paths:
        if not path.exists():
            raise WorkflowError(f"{_printable(path)} is missing.")
        if not path.is_dir():
            pictures.append(path)
        for folder, folders, names in os.walk(path):  # nothing, where it is a file
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            pictures += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    if not pictures:
        raise WorkflowError(f"{', '.join(map(_printable, paths))} holds no file.")
    return pictures


def read(path: Path, dataset: Description) -> Picture:
    """A file as the network sees it, or why it can't."""
    try:
        return Picture(path, *preparation.load(path.read_bytes(), dataset.shape, dataset.prepare))
    except OSError as error:
        return Picture(path, problem=os.strerror(error.errno or 0))
    except ValueError as error:
        return Picture(path, problem=str(error))


def answers(paths: Sequence[Path], model: Any, dataset: Description) -> Iterator[Answer]:
    """The model's answers, in the order of the paths; BATCH pictures are read and classified at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), BATCH):
            pictures = list(pool.map(lambda path: read(path, dataset), paths[start : start + BATCH]))
            images = [picture.image for picture in pictures if picture.image is not None]
            rows = iter(model.predict_on_batch(np.stack(images)) if images else ())
            for picture in pictures:
                yield Answer(picture, dataset.classes, np.array([]) if picture.image is None else next(rows))


def load(name: str) -> tuple[Any, Description]:
    """A model, and what it was trained on.

    Args:
        name: a section of `models` in params.yaml, or the path of a Keras archive: both classify the data set that the
            pipeline has now. Or an address in MLflow.

    Raises:
        WorkflowError: there is no such model, or it does not fit the data set.
    """
    if name.startswith(("models:/", "runs:/")):
        from mnistflow.tracking import flavor, store
        from mnistflow.training import archive

        store.connect()
        with TemporaryDirectory() as folder, store.session():
            data = flavor.download(name, Path(folder))
            return archive.load(data / "model.keras"), arrays.describe(data / "dataset.json")
    known = params.load().models
    is_ours, path = name in known, files.MODELS / name / "model.keras" if name in known else Path(name)
    if not is_ours and not (path.suffix == ".keras" and path.is_file()):
        raise WorkflowError(f"there is no model {name};{params.nearest(name, known)}, a .keras file, models:/...")
    dataset = arrays.describe()
    if is_ours:
        files.check_locked(path)
    from mnistflow.training import archive  # its import of TensorFlow takes seconds, so it comes after the checks

    try:
        model = archive.load(path)  # in Keras' safe mode, which runs no code that the file holds
    except WorkflowError as error:
        if is_ours:
            raise
        raise WorkflowError(f"{name} can't be loaded: {error.__cause__}") from error  # without advice for our own
    if model.input_shape[1:] != dataset.shape or model.output_shape[1:] != (len(dataset.classes),):
        raise WorkflowError(
            f"{path} takes {model.input_shape[1:]} and gives {model.output_shape[1:]}, but the images of "
            f"{dataset.dataset} are {dataset.shape}, of {len(dataset.classes)} classes; run `dvc repro`."
        )
    return model, dataset


def _printable(path: Path) -> str:
    """The path, with a question mark for what a terminal or a file in UTF-8 can't take."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(path))


def write_csv(rows: Iterator[Answer], file: TextIO) -> None:
    """Write the answers as CSV."""
    table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    table.writeheader()
    for answer in rows:
        table.writerow(answer.row())


def write_json(rows: Iterator[Answer], file: TextIO) -> None:
    """Write the answers as a JSON list, a line each."""
    file.write("[")
    for index, answer in enumerate(rows):
        file.write(("," if index else "") + "\n" + json.dumps(answer.row(), ensure_ascii=False))
    file.write("\n]\n")


def write_table(rows: Iterator[Answer], file: TextIO, classes: Sequence[str], paths: Sequence[Path]) -> None:
    """Write the answers as a table, its columns as wide as the classes' and the files' names need."""
    width, name = max(len(_printable(path)) for path in paths), max(5, *map(len, classes)) + 1
    file.write(f"{'file':{width}}  {'class':{name}}  probability  {'runner-up':{name + 6}}  prepared\n")
    for answer in rows:
        label, probability, second, rest = answer.words()
        path = _printable(answer.picture.path)
        row = f"{path:{width}}  {label:{name}}  {probability:>11}  {second:{name + 6}}  {rest}"
        file.write(row.rstrip() + "\n")


def draw(shown: Sequence[Answer], path: Path, count: int) -> None:
    """Draw the images as the network saw them, with its answers."""
    from mnistflow.figures import results, style

    names = style.drawable(shown[0].classes, 13)
    words = []
    for answer in shown:
        first, second = np.argsort(-answer.probabilities, kind="stable")[:2]
        (_, best), (_, rest) = answer.ranked(0), answer.ranked(1)
        name = style.shorten(_printable(Path(answer.picture.path.name)), 17)
        mark = "" if answer.is_sure else "?"
        words.append(f"{name}\n{names[first]}{mark}  {best:.1%}\nthen {names[second]}  {rest:.1%}")
    title = "what the network saw" + (f", the first {len(shown)} of {count:,}" if len(shown) < count else "")
    images = [answer.picture.image for answer in shown if answer.picture.image is not None]
    style.save(path, results.answers_sheet(images, words, title))


def main(options: argparse.Namespace) -> None:
    """Write the answers to standard output, the rest to standard error.

    Raises:
        WorkflowError: no picture was classified, or an argument is wrong.
    """
    if options.picture and options.picture.suffix != ".png":
        raise WorkflowError(f"{options.picture}: the sheet is a PNG file; give it a name that ends in .png.")
    paths = find(options.paths)
    name = options.model or params.load().evaluate.model
    model, dataset = load(name)
    shown: list[Answer] = []
    counts = {"sure": 0, "unsure": 0, "not classified": 0}

    def counted() -> Iterator[Answer]:
        for answer in answers(paths, model, dataset):
            is_classified = answer.picture.image is not None
            counts[("sure" if answer.is_sure else "unsure") if is_classified else "not classified"] += 1
            if is_classified and len(shown) < SHOWN:
                shown.append(answer)
            yield answer

    if options.csv:
        write_csv(counted(), sys.stdout)
    elif options.json:
        write_json(counted(), sys.stdout)
    else:
        write_table(counted(), sys.stdout, dataset.classes, paths)
    sys.stdout.flush()
    total = "1 file" if len(paths) == 1 else f"{len(paths):,} files"
    print(f"{name}, {total}: " + ", ".join(f"{count:,} {word}" for word, count in counts.items()), file=sys.stderr)
    if not shown:
        raise WorkflowError("nothing was classified; the reasons stand above.")
    if options.picture:
        draw(shown, options.picture, counts["sure"] + counts["unsure"])
        print(f"{options.picture}: what the network saw", file=sys.stderr)


def arguments() -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(prog="make predict FILES='...', or python -m mnistflow.commands.predict")
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="a picture, or a folder of pictures")
    parser.add_argument("--model", help="of params.yaml, a .keras file, or models:/mnistflow@champion (evaluate.model)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="the answers as CSV")
    form.add_argument("--json", action="store_true", help="the answers as JSON")
    parser.add_argument("--picture", type=Path, help="a PNG file to draw what the network saw")
    return parser.parse_args()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `... | head` ends this quietly
    cli.run(main, arguments())
