"""A folder of pictures becomes a data set: `python -m mnistflow.commands.dataset FOLDER`, or `make dataset FOLDER=...`.

The pictures are checked and copied to pictures/NAME/, and datasets.yaml gets an entry. FOLDER is only read. Where
FOLDER is pictures/NAME itself, nothing is copied.
"""

import argparse
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from mnistflow.commands import repro
from mnistflow.core import cli, params
from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import cache, write_text
from mnistflow.data import arrays, pictures
from mnistflow.data.catalog import CATALOG, Dataset
from mnistflow.data.decoding import PictureError
from mnistflow.data.pictures import PICTURES, Look, Picture, Skipped

TEST = 0.15  # share of the pictures, where there is no test part
VALIDATION = 0.1  # share of the training pictures
SMALLEST, LARGEST, CAP = 20, 1024, 96  # pixels: what the networks here need; what they can bear; largest default
STEPS = 60  # at least so many an epoch
SHOWN = 20  # classes in the output
NAME = r"[A-Za-z][A-Za-z0-9_-]{0,39}"


class Options(NamedTuple):
    """What the user chose; None where it is detected from the pictures."""

    name: str | None
    size: list[int] | None  # height, width
    colour: bool | None
    test: float | None


class Checked(NamedTuple):
    """The pictures that can be decoded, what they are like, and the files that are none."""

    pictures: list[Picture]
    looks: list[Look]
    skipped: list[Skipped]


def main(folder: Path | None, options: Options) -> None:
    """Copy the pictures, add the entry, and tell what was done, whole or not at all."""
    if folder is None:
        raise WorkflowError("no folder is named; `make dataset FOLDER=~/flowers` takes the pictures in that one.")
    source = folder.expanduser().resolve()
    name = check(folder, source, options)
    target = PICTURES / name
    is_there = source == target.resolve()
    staging = cache() / "import"
    with repro.alone():
        shutil.rmtree(staging, ignore_errors=True)  # of an import that was killed
        try:
            checked = examine(source, None if is_there else staging)
            entry, lines = describe(name, source, checked, options)
            text = f"{CATALOG.read_text(encoding='utf-8').rstrip()}\n\n{entry}"
            params.parse(Dataset, YAML(typ="safe", pure=True).load(text)[name], f"{CATALOG}, {name}")
            if not is_there:
                write_tables(source, staging, checked.pictures)
                PICTURES.mkdir(exist_ok=True)
                staging.replace(target)
            write_text(CATALOG, text)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    print("\n".join(lines))
    print(f"{CATALOG} has {name} now, and {target} its pictures. Next: make repro DATASET={name}")


def check(folder: Path, source: Path, options: Options) -> str:
    """The name of the new data set.

    Raises:
        WorkflowError: there is no such folder, the name can't be one or is taken, or an option is not allowed.
    """
    if not source.is_dir():
        raise WorkflowError(f"{folder} is no folder; give the one that has a folder of pictures for each class.")
    if Path.cwd().resolve().is_relative_to(source):
        raise WorkflowError(f"{folder} has this project in it; give the folder that has the pictures alone.")
    name = options.name or re.sub(r"[^A-Za-z0-9_-]+", "_", source.name).strip("_-")[:40]
    if not re.fullmatch(NAME, name):
        raise WorkflowError(
            f"{name!r} can't name a data set; choose --name with 1 to 40 letters of a to z, digits, - and _, a letter "
            "first."
        )
    if name in (params.read_yaml(CATALOG) or {}):
        raise WorkflowError(
            f"{CATALOG} has {name} already; choose another --name, or remove that entry and {PICTURES / name} first."
        )
    if source != (PICTURES / name).resolve() and (PICTURES / name).exists():
        raise WorkflowError(
            f"{PICTURES / name} is there already, without an entry in {CATALOG}; `make dataset "
            f"FOLDER={PICTURES / name}` adds one, or move the folder away."
        )
    if options.size and not all(SMALLEST <= side <= LARGEST for side in options.size):
        raise WorkflowError(f"--size {options.size[0]} {options.size[1]}: {SMALLEST} to {LARGEST} pixels are allowed.")
    if options.test is not None and not 0 < options.test < 1:
        raise WorkflowError(f"--test {options.test:g}: a share between 0 and 1 is allowed.")
    return name


def examine(source: Path, copy: Path | None) -> Checked:
    """Decode every picture once, and copy those that can be decoded to `copy`."""
    scanned, skipped = pictures.scan(source)
    outcomes = list(pictures.in_parallel(partial(_look, source, copy), scanned, "pictures"))
    checked = Checked([], [], skipped)
    for picture, outcome in zip(scanned, outcomes, strict=True):
        if isinstance(outcome, Look):
            checked.pictures.append(picture._replace(sha256=outcome.sha256))
            checked.looks.append(outcome)
        else:
            checked.skipped.append((picture.path, outcome))
    return checked


def _look(source: Path, copy: Path | None, first: int, batch: Sequence[Picture]) -> list[Look | str]:
    """Look at some pictures, from the number `first` on, and copy them; of each that can't be decoded, why."""
    results: list[Look | str] = []
    for picture in batch:
        content = (source / picture.path).read_bytes()
        try:
            results.append(pictures.look(content))
        except PictureError as error:
            results.append(str(error))
            continue
        if copy:
            (copy / picture.path).parent.mkdir(parents=True, exist_ok=True)
            (copy / picture.path).write_bytes(content)
    return results


def write_tables(source: Path, copy: Path, accepted: Sequence[Picture]) -> None:
    """Write the tables that the folder has, with the pictures that were copied."""
    if not (source / "train.csv").is_file():
        return
    for part, name in pictures.PARTS.items():
        rows = [[picture.path, picture.label] for picture in accepted if picture.part == name]
        if rows and (source / f"{part}.csv").is_file():
            text = pictures.csv_text([["file", "label"], *rows])
            (copy / f"{part}.csv").write_text(text, encoding="utf-8", newline="\n")


def describe(name: str, source: Path, checked: Checked, options: Options) -> tuple[str, list[str]]:
    """The entry for datasets.yaml, and what to tell the user, in lines.

    Raises:
        WorkflowError: the pictures are no data set: none, one class, or too few of a class.
    """
    accepted = checked.pictures
    skipped = pictures.left_out(checked.skipped)
    classes = sorted({picture.label for picture in accepted})
    if len(classes) < 2:
        layouts = "a folder of pictures for each class, or train.csv with the columns file and label, is expected"
        what = f"only pictures of {classes[0]}" if classes else "no picture that can be decoded"
        raise WorkflowError("\n".join([f"{source} has {what}; {layouts}.", *skipped]))
    counts = {part: Counter(each.label for each in accepted if each.part == part) for part in arrays.PARTS}
    has_test, has_validation = bool(counts["test"]), bool(counts["validation"])
    if has_test and options.test is not None:
        raise WorkflowError(f"--test is for folders without a test part, and {source} has one.")
    check_counts(counts["training"], classes, 1 + (not has_test) + (not has_validation))

    size = options.size or default_size(checked.looks)
    tinted = sum(look.is_colour for look in checked.looks)
    colour = tinted > 0 if options.colour is None else options.colour
    test = None if has_test else options.test or TEST
    held_out = sum(max(1, round(test * count)) for count in counts["training"].values()) if test else 0
    training = counts["training"].total() - held_out
    suitable = suitable_params(training, len(classes), has_validation)
    entry = write_entry(name, size, colour, classes, test, accepted, suitable)
    repeated = len(accepted) - len({each.sha256 for each in accepted})
    lines = [
        f"{name}: {len(accepted):,} pictures in {len(classes):,} classes, from {source}",
        *count_table({part: count for part, count in counts.items() if count}, classes),
        *skipped,
        f"size: {size[0]} x {size[1]} pixels, height x width"
        + ("" if options.size else ", by the pictures' median")
        + "; --size HEIGHT WIDTH makes it another",
        f"colour: {'yes' if colour else 'no'}; {tinted:,} of {len(accepted):,} pictures have colour; "
        f"--colour {'no' if colour else 'yes'} makes it another",
    ]
    if test:
        lines.append(
            f"test set: {test:.0%} of each class is held out, as there is no test part; --test 0.2 makes it another"
        )
    lines.append(f"params.yaml will have: {', '.join(f'{key} {value}' for key, value in suitable.items())}")
    if repeated:
        lines.append(
            f"equal files: {repeated:,} pictures are copies of others; a copy of a training picture in the test set "
            "makes the accuracy too good"
        )
    return entry, lines


def check_counts(counts: Counter[str], classes: Sequence[str], needed: int) -> None:
    """Check that each class has enough pictures for the parts that are taken from the training part.

    Raises:
        WorkflowError: some have not.
    """
    few = [name for name in classes if counts[name] < needed]
    if few:
        shown = ", ".join(f"{name} ({counts[name]})" for name in few[:SHOWN])
        raise WorkflowError(
            f"{len(few)} of {len(classes)} classes have fewer than {needed} training pictures: {shown}"
            f"{', ...' if len(few) > SHOWN else ''}; {needed} are needed, to train, to choose the best epoch and to "
            "test; add some, or leave the class out."
        )


def default_size(looks: Sequence[Look]) -> list[int]:
    """The pictures' median height and width, both reduced so that the longer one is at most CAP."""
    height, width = median(look.height for look in looks), median(look.width for look in looks)
    scale = min(1, CAP / max(height, width))
    return [max(28, round(scale * height)), max(28, round(scale * width))]


def suitable_params(training: int, classes: int, has_validation: bool) -> dict[str, Any]:
    """Values for params.yaml that suit a data set of so many training pictures."""
    held_out = 0 if has_validation else max(round(VALIDATION * training), classes)
    largest = min(max(8, (training - held_out) // STEPS), training - held_out)
    models = params.load().models
    small = {f"models.{key}.batch_size": largest for key, each in models.items() if each.batch_size > largest}
    validation = {} if has_validation else {"split.validation": held_out}
    return {**validation, **small, "evaluate.target_accuracy": 0}


def write_entry(
    name: str,
    size: Sequence[int],
    colour: bool,
    classes: Sequence[str],
    test: float | None,
    accepted: Sequence[Picture],
    suitable: dict[str, Any],
) -> str:
    """The entry as YAML."""
    quoted = [json.dumps(each, ensure_ascii=False) for each in classes]  # JSON is YAML, and quotes what needs it
    rows = [", ".join(quoted[first : first + 10]) for first in range(0, len(quoted), 10)]
    return "\n".join(
        [
            f"{name}: # `make dataset` wrote this entry; the pictures lie in {PICTURES / name}",
            "  format: pictures",
            f"  size: [{size[0]}, {size[1]}] # height and width that the pictures are brought to",
            f"  colour: {str(colour).lower()}",
            *([f"  test: {test:g} # share of each class that is held out as the test set"] if test else []),
            f"  count: {len(accepted)} # as imported",
            f"  sha256: {hashlib.sha256(pictures.table(accepted).encode()).hexdigest()}",
            "  classes: [" + ",\n    ".join(rows) + "]",
            "  params: # for params.yaml, when `make repro` chooses this data set",
            *(f"    {key}: {value}" for key, value in suitable.items()),
            "",
        ]
    )


def count_table(counts: dict[str, Counter[str]], classes: Sequence[str]) -> list[str]:
    """The pictures of each class and part, in lines; of many classes, those with the most and the fewest."""
    total = {name: sum(count[name] for count in counts.values()) for name in classes}
    shown = list(classes)
    if len(classes) > SHOWN:
        ranked = sorted(classes, key=lambda name: (-total[name], name))
        shown = [*ranked[: SHOWN // 2], *ranked[-SHOWN // 2 :]]
    width = max(map(len, [*shown, "class"]))
    lines = [f"  {'class':{width}}" + "".join(f"{part:>12}" for part in counts)]
    lines += [f"  {name:{width}}" + "".join(f"{count[name]:12,}" for count in counts.values()) for name in shown]
    if len(classes) > SHOWN:
        lines.insert(1 + SHOWN // 2, f"  ... {len(classes) - SHOWN:,} more")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m mnistflow.commands.dataset", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("folder", help="a folder of pictures for each class, maybe below train/ and test/")
    parser.add_argument("--name", help="of the data set (the folder's name)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="pixels (the pictures' median)")
    parser.add_argument("--colour", choices=("yes", "no"), help="(yes, if a picture has colour)")
    parser.add_argument("--test", type=float, metavar="SHARE", help=f"held out, without a test part ({TEST})")
    arguments = parser.parse_args()
    colour = None if arguments.colour is None else arguments.colour == "yes"
    cli.run(
        main,
        Path(arguments.folder) if arguments.folder else None,
        Options(arguments.name, arguments.size, colour, arguments.test),
    )
