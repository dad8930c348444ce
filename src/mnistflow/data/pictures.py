"""Folders of pictures -> arrays.

pictures/NAME/ holds the pictures of the data set NAME, in one of three layouts:

CLASS/...                             a folder for each class; what lies deeper in it belongs to the class too
train/CLASS/..., test/CLASS/...       the same below folders for the parts; PARTS has their names
train.csv, test.csv                   tables with the columns file and label; the files where the tables say

fetch lists the pictures in data/raw/pictures.csv, with a hash of each, and preprocess decodes those in the list.
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
PARTS = {  # by the name of a folder, in capitals or not, or of a table
    "train": "training",
    "training": "training",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp")
NAMED = 20  # files of each kind that a message names
CHUNK = 64  # pictures that a process decodes at a time
ALONE = 500  # so few pictures are decoded sooner than other processes have started
TINT = 8  # difference of two channels up to which a pixel counts as grey: JPEG's rounding

Skipped = tuple[str, str]  # a path, and why it is no picture of the data set
Result = TypeVar("Result")


class Picture(NamedTuple):
    """A picture of a data set."""

    path: str  # in the data set's folder, with /
    label: str  # the name of its class
    part: str  # training, validation or test
    sha256: str = ""  # of the file


class Look(NamedTuple):
    """What a picture is like."""

    height: int  # pixels, as the picture is shown
    width: int
    is_colour: bool
    sha256: str


def look(content: bytes) -> Look:
    """What a picture file is like.

    Raises:
        PictureError: as `decode` does.
    """
    image, (height, width) = decoding.opened(content, 256)
    red, green, blue = (np.asarray(channel) for channel in image.convert("RGB").split())
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    is_colour = bool((spread > TINT).any())
    return Look(height, width, is_colour, hashlib.sha256(content).hexdigest())


def scan(folder: Path) -> tuple[list[Picture], list[Skipped]]:
    """The pictures of a data set by their path, without a look into the files, and the files that are none.

    Raises:
        WorkflowError: a table can't be read.
    """
    paths, skipped = _walk(folder)
    tables = [part for part in PARTS if (folder / f"{part}.csv").is_file()]
    if "train" in tables:
        pictures, wrong = _listed(folder, tables, paths)
        listed = {picture.path for picture in pictures} | {path for path, _ in wrong}
        skipped += wrong + [(path, "in no table") for path in paths if path not in listed]
        skipped = [each for each in skipped if each[0] not in {f"{part}.csv" for part in tables}]
        return sorted(pictures), sorted(skipped)
    heads = {path.partition("/")[0].lower() for path in paths if path.count("/") > 1}  # of folders with folders
    has_parts = any(PARTS.get(head) == "training" for head in heads)
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
    """The paths of all files that may be pictures, and the others."""
    paths: list[str] = []
    skipped: list[Skipped] = []

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        for name in [name for name in folders if name.startswith(".") or (Path(parent) / name).is_symlink()]:
            folders.remove(name)
            reason = "hidden" if name.startswith(".") else "a link to a folder"
            skipped.append((Path(parent, name).relative_to(folder).as_posix() + "/", reason))
        for name in names:
            file = Path(parent, name)
            path = file.relative_to(folder).as_posix()
            why = _why_not(file)
            if why is None:
                paths.append(path)
            else:
                skipped.append((path.encode("utf-8", "backslashreplace").decode(), why))
    return paths, skipped


def _why_not(file: Path) -> str | None:
    """Why a file can be no picture, by its name and size; None if it may be one."""
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


def _listed(folder: Path, tables: Sequence[str], paths: Iterable[str]) -> tuple[list[Picture], list[Skipped]]:
    """The pictures in the tables train.csv, test.csv."""
    there, pictures, skipped = set(paths), dict[str, Picture](), list[Skipped]()
    for part in tables:
        name = f"{part}.csv"
        try:
            with (folder / name).open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file)
                if not {"file", "label"} <= set(rows.fieldnames or ()):
                    columns = ", ".join(map(str, rows.fieldnames or ["none"]))
                    raise WorkflowError(f"{folder / name}: the columns file and label are expected, not {columns}.")
                for row in rows:
                    path, label = str(PurePosixPath(row["file"] or "")), (row["label"] or "").strip()
                    if path not in there:
                        skipped.append((path, f"in {name}, but no picture is there"))
                    elif not label:
                        skipped.append((path, f"in {name} without a label"))
                    elif path in pictures:
                        skipped.append((path, f"again in {name}"))
                    else:
                        pictures[path] = Picture(path, label, PARTS[part])
        except (UnicodeDecodeError, csv.Error) as error:
            raise WorkflowError(f"{folder / name} is no CSV table in UTF-8 ({error}).") from error
    return list(pictures.values()), skipped


def left_out(skipped: Sequence[Skipped]) -> list[str]:
    """The files that are not used, counted and named by reason, in lines."""
    reasons: dict[str, list[str]] = {}
    for path, reason in sorted(skipped):
        reasons.setdefault(reason, []).append(path)
    lines = [f"left out: {len(skipped):,} file{'s' * (len(skipped) != 1)}"] if skipped else []
    for reason, paths in sorted(reasons.items()):
        more = f" and {len(paths) - NAMED:,} more" if len(paths) > NAMED else ""
        lines.append(f"  {reason} ({len(paths):,}): {', '.join(paths[:NAMED])}{more}")
    return lines


def folder_of(name: str) -> Path:
    """The folder with the pictures of a data set; for an experiment in a copy of the project, the project's own.

    Raises:
        WorkflowError: it is not there.
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
    """A table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_table(path: Path) -> list[Picture]:
    """The pictures in pictures.csv.

    Raises:
        WorkflowError: it is missing.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            next(rows, None)
            return [Picture(path, sys.intern(label), sys.intern(part), digest) for path, label, part, digest in rows]
    except FileNotFoundError as error:
        raise WorkflowError(f"{path} is missing; `dvc repro fetch` makes it.") from error


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_classes(folder: Path, pictures: Iterable[Picture], classes: Sequence[str], name: str) -> None:
    """Check that datasets.yaml has a name for each class that has pictures.

    Raises:
        WorkflowError: it has not.
    """
    unknown = sorted({picture.label for picture in pictures} - set(classes))
    if unknown:
        more = ", ..." if len(unknown) > NAMED else ""
        raise WorkflowError(
            f"{folder} has pictures of {', '.join(unknown[:NAMED])}{more}, which are no classes of {name} in "
            "datasets.yaml; add them there, or move them away."
        )


def parts(pictures: Sequence[Picture], classes: Sequence[str]) -> dict[str, Part]:
    """The parts of the list, each with its positions in the list as items.

    Raises:
        WorkflowError: there is no training picture.
    """
    numbers = {name: label for label, name in enumerate(classes)}
    labels = np.array([numbers[picture.label] for picture in pictures], np.min_scalar_type(len(classes) - 1))
    part_of = np.array([picture.part for picture in pictures])
    chosen = {part: np.flatnonzero(part_of == part) for part in arrays.PARTS}
    result = {part: Part(indices, labels[indices]) for part, indices in chosen.items() if len(indices)}
    if "training" not in result:
        raise WorkflowError(f"there is no picture to train with among the {len(pictures)} that fetch listed.")
    return result


def save(
    folder: Path, source: Path, pictures: Sequence[Picture], labels: Labels, shape: tuple[int, ...]
) -> list[Skipped]:
    """Decode pictures into images.npy in `folder`, and write labels.npy; returns those that can't be decoded.

    Processes write each image to its place in the file, so memory does not grow with the number of pictures.

    Args:
        folder: for the arrays.
        source: the folder that the pictures' paths start at.
        pictures: with their hashes.
        labels: (n,).
        shape: of an image.

    Raises:
        WorkflowError: a picture is not the one that fetch listed, or none can be decoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "images.npy"
    array = np.lib.format.open_memmap(target, "w+", np.uint8, (len(pictures), *shape))
    offset = array.offset
    del array
    reasons = list(in_parallel(partial(_decode_into, target, offset, source, shape), pictures, f"{folder.name} images"))
    bad = [index for index, reason in enumerate(reasons) if reason]
    if len(bad) == len(pictures):
        raise WorkflowError(f"{source}: none of the {len(bad)} {folder.name} pictures can be decoded; {reasons[0]}.")
    if bad:
        good = np.setdiff1d(np.arange(len(pictures)), bad)
        labels = labels[good]
        _keep(target, good)
    np.save(folder / "labels.npy", labels)
    return [(pictures[index].path, str(reasons[index])) for index in bad]


def _decode_into(
    target: Path, offset: int, source: Path, shape: tuple[int, ...], first: int, pictures: Sequence[Picture]
) -> list[str | None]:
    """Decode some pictures and write them into `target`; of each, why it can't be decoded, or None.

    Args:
        target: images.npy.
        offset: where its images begin.
        source: the folder that the pictures' paths start at.
        shape: of an image.
        first: the number of the first of these pictures.
        pictures: some that follow each other.
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
    # Not through a memory map: its pages would count as memory, and a full disk would kill the process.
    with target.open("r+b") as file:
        file.seek(offset + first * images[0].nbytes)
        file.write(images.data)
    return reasons


def _keep(path: Path, indices: Any) -> None:
    """Rewrite images.npy with these images alone."""
    images = np.load(path, mmap_mode="r")
    with replacing(path) as temporary, temporary.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(indices), *images.shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, len(indices), 1000):
            file.write(arrays.take(images, indices[first : first + 1000]).data)


def in_parallel(
    function: Callable[[int, Sequence[Picture]], list[Result]], pictures: Sequence[Picture], title: str
) -> Iterator[Result]:
    """The results of `function` for each picture, in order, with a progress bar in a terminal.

    `function` takes the number of a picture, and CHUNK pictures from there on; it runs in as many processes as there
    are processors, or here where the pictures are few.
    """
    starts = range(0, len(pictures), CHUNK)
    chunks = (pictures[start : start + CHUNK] for start in starts)
    with tqdm(total=len(pictures), unit="picture", desc=title, leave=False, disable=not sys.stderr.isatty()) as bar:
        if len(pictures) <= ALONE:
            for results in map(function, starts, chunks):
                bar.update(len(results))
                yield from results
            return
        # Spawned, because a fork of a process with threads, such as the bar's, can hang.
        context = multiprocessing.get_context("spawn")
        processes = ProcessPoolExecutor(min(os.cpu_count() or 1, 16), context, initializer=_prepare_process)
        try:
            for results in processes.map(function, starts, chunks):
                bar.update(len(results))
                yield from results
        except BrokenProcessPool as error:
            raise WorkflowError("a process that decodes pictures was killed; is there enough memory?") from error
        finally:
            processes.shutdown(cancel_futures=True)  # not by `with`, which would do all that was asked for


def _prepare_process() -> None:
    """Leave Ctrl-C to the main process, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
