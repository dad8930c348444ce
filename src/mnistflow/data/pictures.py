"""Folders of pictures -> arrays.

pictures/NAME/ holds the pictures of the data set NAME, in one of three layouts:

CLASS/...                             a folder for each class, which may have subfolders
train/CLASS/..., test/CLASS/...       the same below a folder for each part; PARTS has their names
train.csv, test.csv                   tables with the columns file (a path) and label

fetch lists the pictures and their hashes in data/raw/pictures.csv, and preprocess decodes the listed ones.
"""

import csv
import hashlib
import io
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import replacing, root
from mnistflow.data import arrays, decoding
from mnistflow.data.arrays import Labels
from mnistflow.data.decoding import PictureError, decode
from mnistflow.data.splits import Part

PICTURES = Path("pictures")
TABLE = "pictures.csv"
PARTS = {  # by the name of a folder, in any case, or of a table
    "train": "training",
    "training": "training",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp")
NAMED = 20  # files of a kind that a message names
CHUNK = 64  # pictures that a process decodes at a time
ALONE = 500  # pictures up to which one process is faster than several, which have to start first
TINT = 8  # largest difference of the channels of a grey pixel: JPEG's rounding

Skipped = tuple[str, str]  # a path, and why it is not used
Result = TypeVar("Result")


class Picture(NamedTuple):
    """A picture of a data set."""

    path: str  # relative to the data set's folder, with /
    label: str  # the name of its class
    part: str  # training, validation or test
    sha256: str = ""  # of the file


class Look(NamedTuple):
    """Properties of a picture."""

    height: int  # pixels, after EXIF orientation
    width: int
    is_colour: bool
    sha256: str


def look(content: bytes) -> Look:
    """The properties of a picture file.

    Raises:
        PictureError: as `decode` does.
    """
    image, (height, width) = decoding.opened(content, 256)
    red, green, blue = (np.asarray(channel) for channel in image.convert("RGB").split())
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    is_colour = bool((spread > TINT).any())
    return Look(height, width, is_colour, hashlib.sha256(content).hexdigest())


def scan(folder: Path) -> tuple[list[Picture], list[Skipped]]:
    """The pictures of a data set, sorted by path, and the skipped files. Picture files are not opened.

    Raises:
        WorkflowError: a table can't be read.
    """
    paths, skipped = _walk(folder)
    tables = [f"{part}.csv" for part in PARTS if (folder / f"{part}.csv").is_file()]
    if "train.csv" in tables:
        pictures, invalid = _read_tables(folder, tables, paths)
        listed = {picture.path for picture in pictures} | {path for path, _ in invalid}
        skipped += invalid + [(path, "in no table") for path in paths if path not in listed]
        return sorted(pictures), sorted((path, reason) for path, reason in skipped if path not in tables)
    parents = {path.partition("/")[0].lower() for path in paths if path.count("/") > 1}  # folders with subfolders
    has_parts = any(PARTS.get(name) == "training" for name in parents)
    pictures = []
    for path in paths:
        *folders, _ = path.split("/")
        part = PARTS.get(folders[0].lower()) if has_parts and folders else "training"
        classes = folders[1:] if has_parts else folders
        if part is None:
            skipped.append((path, f"beside train/; parts are called {', '.join(PARTS)}"))
        elif not classes:
            skipped.append((path, "in no class's folder"))
        else:
            pictures.append(Picture(path, classes[0], part))
    return sorted(pictures), sorted(skipped)


def _walk(folder: Path) -> tuple[list[str], list[Skipped]]:
    """The paths of all files that may be pictures, and the skipped ones."""
    paths, skipped = list[str](), list[Skipped]()

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=fail):
        for name in [name for name in folders if name.startswith(".") or (Path(parent) / name).is_symlink()]:
            folders.remove(name)
            reason = "hidden" if name.startswith(".") else "a link to a folder"
            skipped.append((Path(parent, name).relative_to(folder).as_posix() + "/", reason))
        for name in names:
            path = Path(parent, name).relative_to(folder).as_posix()
            if why := _reason_to_skip(folder / path):
                skipped.append((path.encode("utf-8", "backslashreplace").decode(), why))
            else:
                paths.append(path)
    return paths, skipped


def _reason_to_skip(file: Path) -> str | None:
    """Why a file is no picture, by its name and size; None if it may be one."""
    if file.name.startswith("."):
        return "hidden"
    if file.suffix.lower() not in SUFFIXES:
        return "no PNG, JPEG, BMP, GIF or WebP picture by its name"
    if not file.is_file():
        return "no file, or a link to none"
    try:
        str(file).encode()
    except UnicodeEncodeError:
        return "a name that is no UTF-8"
    return None if file.stat().st_size else "empty"


def _read_tables(folder: Path, tables: Sequence[str], paths: Iterable[str]) -> tuple[list[Picture], list[Skipped]]:
    """The pictures in train.csv, test.csv, and the rows that are not used."""
    existing, pictures, skipped = set(paths), dict[str, Picture](), list[Skipped]()
    for name in tables:
        try:
            with (folder / name).open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file)
                if not {"file", "label"} <= set(rows.fieldnames or ()):
                    columns = ", ".join(map(str, rows.fieldnames or ["none"]))
                    raise WorkflowError(f"{folder / name}: the columns file and label are expected, not {columns}.")
                for row in rows:
                    path, label = str(PurePosixPath(row["file"] or "")), (row["label"] or "").strip()
                    if path not in existing:
                        skipped.append((path, f"in {name}, but no picture is there"))
                    elif not label:
                        skipped.append((path, f"in {name} without a label"))
                    elif path in pictures:
                        skipped.append((path, f"again in {name}"))
                    else:
                        pictures[path] = Picture(path, label, PARTS[name.removesuffix(".csv")])
        except (UnicodeDecodeError, csv.Error) as error:
            raise WorkflowError(f"{folder / name} is no CSV table in UTF-8 ({error}).") from error
    return list(pictures.values()), skipped


def left_out(skipped: Sequence[Skipped]) -> list[str]:
    """Lines for the user on the skipped files, by reason."""
    reasons: dict[str, list[str]] = {}
    for path, reason in sorted(skipped):
        reasons.setdefault(reason, []).append(path)
    lines = [f"left out: {len(skipped):,} file{'s' * (len(skipped) != 1)}"] if skipped else []
    for reason, paths in sorted(reasons.items()):
        more = f" and {len(paths) - NAMED:,} more" if len(paths) > NAMED else ""
        lines.append(f"  {reason} ({len(paths):,}): {', '.join(paths[:NAMED])}{more}")
    return lines


def folder_of(name: str) -> Path:
    """The folder with the pictures of a data set. A copy of the project for an experiment uses the project's own.

    Raises:
        WorkflowError: it is missing.
    """
    for folder in (PICTURES / name, root() / PICTURES / name):
        if folder.is_dir():
            return folder
    raise WorkflowError(
        f"{PICTURES / name} is missing; copy the folder to there, or `dvc pull` where it was added with `dvc add`."
    )


def table(pictures: Iterable[Picture]) -> str:
    """The text of pictures.csv."""
    return csv_text([Picture._fields, *pictures])


def csv_text(rows: Iterable[Iterable[str]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_table(path: Path) -> list[Picture]:
    """The pictures in pictures.csv."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        next(rows)
        return [Picture(path, sys.intern(label), sys.intern(part), digest) for path, label, part, digest in rows]


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_classes(folder: Path, pictures: Iterable[Picture], classes: Sequence[str], name: str) -> None:
    """Check that datasets.yaml has each class that has pictures.

    Raises:
        WorkflowError: a class is missing there.
    """
    unknown = sorted({picture.label for picture in pictures} - set(classes))
    if unknown:
        more = ", ..." if len(unknown) > NAMED else ""
        raise WorkflowError(
            f"{folder} has pictures of {', '.join(unknown[:NAMED])}{more}, which are no classes of {name} in "
            "datasets.yaml; add them there, or move them away."
        )


def parts(pictures: Sequence[Picture], classes: Sequence[str]) -> dict[str, Part]:
    """The parts of a list of pictures, each with positions in the list as items.

    Raises:
        WorkflowError: there is no training picture.
    """
    numbers = {name: label for label, name in enumerate(classes)}
    labels = np.array([numbers[picture.label] for picture in pictures], np.min_scalar_type(len(classes) - 1))
    names = np.array([picture.part for picture in pictures])
    positions = {part: np.flatnonzero(names == part) for part in arrays.PARTS}
    result = {part: Part(indices, labels[indices]) for part, indices in positions.items() if len(indices)}
    if "training" not in result:
        raise WorkflowError(f"there is no picture to train with among the {len(pictures)} that fetch listed.")
    return result


def save(
    folder: Path, source: Path, pictures: Sequence[Picture], labels: Labels, shape: tuple[int, ...]
) -> list[Skipped]:
    """Decode pictures in the folder `source` into images of a shape; returns the pictures that can't be decoded.

    Writes images.npy and labels.npy into `folder`. Worker processes write the images, so memory does not grow with
    their number.

    Raises:
        WorkflowError: a picture has changed since fetch listed it, or none can be decoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "images.npy"
    offset = np.lib.format.open_memmap(target, "w+", np.uint8, (len(pictures), *shape)).offset
    reasons = list(in_parallel(partial(_decode_into, target, offset, source, shape), pictures, f"{folder.name} images"))
    bad = [index for index, reason in enumerate(reasons) if reason]
    if len(bad) == len(pictures):
        raise WorkflowError(f"{source}: none of the {len(bad)} {folder.name} pictures can be decoded; {reasons[0]}.")
    if bad:
        good = np.setdiff1d(np.arange(len(pictures)), bad)
        labels = labels[good]
        images = np.load(target, mmap_mode="r")
        chunks = (arrays.take(images, good[first : first + 1000]) for first in range(0, len(good), 1000))
        with replacing(target) as temporary:
            arrays.write_npy(temporary, (len(good), *shape), np.uint8, chunks)
    np.save(folder / "labels.npy", labels)
    return [(pictures[index].path, str(reasons[index])) for index in bad]


def _decode_into(
    target: Path, offset: int, source: Path, shape: tuple[int, ...], first: int, pictures: Sequence[Picture]
) -> list[str | None]:
    """Decode consecutive pictures; returns for each why it can't be decoded, or None.

    The images are written into the file `target`, whose images begin at the byte `offset`, from index `first` on.
    """
    images, reasons = np.zeros((len(pictures), *shape), np.uint8), list[str | None]()
    for image, picture in zip(images, pictures, strict=True):
        try:
            content = (source / picture.path).read_bytes()
        except FileNotFoundError:
            content = b""
        if hashlib.sha256(content).hexdigest() != picture.sha256:
            raise WorkflowError(f"{source / picture.path} has changed since fetch listed it; run `dvc repro` again.")
        try:
            image[:] = decode(content, shape)
        except PictureError as error:
            reasons.append(str(error))
        else:
            reasons.append(None)
    # Not through a memory map, whose pages count as memory, and in which a full disk kills the process.
    with target.open("r+b") as file:
        file.seek(offset + first * images[0].nbytes)
        file.write(images.data)
    return reasons


def in_parallel(
    function: Callable[[int, Sequence[Picture]], list[Result]], pictures: Sequence[Picture], title: str
) -> Iterator[Result]:
    """The results of `function` for each picture, in order, with a progress bar in a terminal.

    `function` takes the index of a picture, and up to CHUNK pictures from there on. It runs in a process per processor,
    or in this one where the pictures are few.
    """
    starts = range(0, len(pictures), CHUNK)
    chunks = (pictures[start : start + CHUNK] for start in starts)
    progress = tqdm(total=len(pictures), unit="picture", desc=title, leave=False, disable=not sys.stderr.isatty())
    with progress, _parallel_map(len(pictures)) as apply:
        for results in apply(function, starts, chunks):
            progress.update(len(results))
            yield from results


@contextmanager
def _parallel_map(count: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """A `map` that runs in several processes, where the pictures are many."""
    if count <= ALONE:
        yield map
        return
    # Spawned, because a fork of a process with threads, such as the progress bar's, can hang.
    context = multiprocessing.get_context("spawn")
    processes = ProcessPoolExecutor(min(os.cpu_count() or 1, 16), context, initializer=_prepare_process)
    try:
        yield processes.map
    except BrokenProcessPool as error:
        raise WorkflowError("a process that decodes pictures was killed; is there enough memory?") from error
    finally:
        processes.shutdown(cancel_futures=True)  # not by `with`, which would wait for all chunks


def _prepare_process() -> None:
    """Leave Ctrl-C to the main process, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
