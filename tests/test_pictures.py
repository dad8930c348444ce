"""Pictures: decoding, the layouts of a folder, the command that makes a folder a data set."""

import csv
import io
import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HERE, kill, wait_for
from PIL import Image

from mnistflow.commands import dataset
from mnistflow.commands.dataset import Options
from mnistflow.core.errors import WorkflowError
from mnistflow.data import arrays, catalog, decoding, pictures
from mnistflow.data.decoding import PictureError
from mnistflow.data.pictures import Picture

RANDOM = np.random.default_rng(1)
NOTHING = Options(None, None, None, None)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def colours(height: int = 20, width: int = 30) -> np.ndarray[Any, Any]:
    """A smooth image (height, width, 3), red to the right and green to the bottom."""
    down, right = np.mgrid[0:height, 0:width]
    return np.stack([right * 255 // width, down * 255 // height, np.full_like(right, 80)], axis=-1).astype(np.uint8)


def near(one: Any, other: Any, difference: float) -> bool:
    return bool(np.abs(one.astype(int) - other.astype(int)).mean() < difference)


# Decoding


@pytest.mark.parametrize(("kind", "options", "difference"), [
    ("PNG", {}, 0.1), ("BMP", {}, 0.1), ("WEBP", {"lossless": True}, 0.1),
    ("JPEG", {"quality": 95}, 6), ("GIF", {}, 16),
])  # fmt: skip
def test_a_picture_of_the_right_size_keeps_its_pixels(kind: str, options: Any, difference: float) -> None:
    image = decoding.decode(encoded(Image.fromarray(colours()), kind, **options), (20, 30, 3))
    assert image.shape == (20, 30, 3)
    assert image.dtype == np.uint8
    assert near(image, colours(), difference)


def test_grey_pictures_keep_their_pixels_too_and_come_in_colour_if_asked() -> None:
    grey = RANDOM.integers(0, 256, (28, 28)).astype(np.uint8)
    content = encoded(Image.fromarray(grey))
    assert np.array_equal(decoding.decode(content, (28, 28)), grey)
    assert np.array_equal(decoding.decode(content, (28, 28, 3)), np.repeat(grey[..., None], 3, axis=2))


def test_16_bits_become_8() -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    assert decoding.decode(encoded(Image.fromarray(values)), (1, 4)).tolist() == [[0, 1, 128, 255]]


def test_one_bit_palette_and_alpha() -> None:
    bits = Image.fromarray(np.array([[True, False]]))
    assert decoding.decode(encoded(bits), (1, 2)).tolist() == [[255, 0]]
    palette = Image.fromarray(colours()).quantize(64)
    assert near(decoding.decode(encoded(palette), (20, 30, 3)), colours(), 12)
    clear = np.dstack([colours(), np.zeros((20, 30), np.uint8)])
    clear[:, 15:, 3] = 255
    image = decoding.decode(encoded(Image.fromarray(clear)), (20, 30, 3))
    assert (image[:, :15] == 255).all()  # white where it is transparent
    assert np.array_equal(image[:, 15:], colours()[:, 15:])
    see_through = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    see_through.putpalette([255, 0, 0, 0, 0, 255])
    assert decoding.decode(encoded(see_through, transparency=0), (1, 2, 3)).tolist() == [[[255] * 3, [0, 0, 255]]]
    half = Image.fromarray(np.array([[[10, 128], [10, 255]]], np.uint8), "LA")
    assert decoding.decode(encoded(half), (1, 2)).tolist() == [[132, 10]]


def test_cmyk() -> None:
    image = decoding.decode(encoded(Image.fromarray(colours()).convert("CMYK"), "JPEG", quality=95), (20, 30, 3))
    assert near(image, colours(), 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    upright = Image.fromarray(colours())
    stored = upright.transpose(back[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, "PNG", exif=exif)
    assert np.array_equal(decoding.decode(content, (20, 30, 3)), colours())
    assert pictures.look(content)[:2] == (20, 30)


def test_the_first_frame_of_a_gif() -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    content = encoded(red, "GIF", save_all=True, append_images=[blue])
    assert decoding.decode(content, (8, 8, 3))[0, 0].tolist() == [255, 0, 0]


def test_the_aspect_ratio_is_kept_and_black_fills_the_rest() -> None:
    image = decoding.decode(encoded(Image.new("RGB", (200, 100), "white")), (28, 28, 3))
    assert (image[7:21] == 255).all()
    assert not image[:7].any()
    assert not image[21:].any()
    line = decoding.decode(encoded(Image.new("L", (5000, 1), 255)), (28, 28))
    assert line.sum() == 28 * 255  # still one row


def test_reduction_is_antialiased_also_of_large_jpegs() -> None:
    board = np.kron(np.indices((400, 400)).sum(axis=0) % 2, np.ones((1, 1))).astype(np.uint8) * 255
    for content in (encoded(Image.fromarray(board)), encoded(Image.fromarray(board), "JPEG", quality=95)):
        assert abs(decoding.decode(content, (28, 28)).astype(int) - 127).max() < 12


def bomb() -> bytes:
    """A PNG file of a few bytes that says it has 10,000 x 10,000 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "empty"),
    (b"<html>", "no PNG, JPEG, BMP, GIF or WebP"),
    (encoded(Image.new("L", (9, 9)), "TIFF"), "no PNG, JPEG, BMP, GIF or WebP"),
    (encoded(Image.fromarray(colours(90, 90)), "JPEG")[:400], "corrupt"),
    (encoded(Image.fromarray(RANDOM.integers(0, 256, (90, 90)).astype(np.uint8)))[:-3000], "corrupt"),
    (encoded(Image.fromarray(colours(90, 90)), "WEBP")[:100], "corrupt|no PNG"),
    (encoded(Image.fromarray(colours(90, 90)), "BMP")[:300], "corrupt"),
    (bomb(), "more than 89 million pixels"),
])  # fmt: skip
def test_what_can_not_be_decoded_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decoding.decode(content, (28, 28, 3))
    with pytest.raises(PictureError, match=reason):
        pictures.look(content)


def test_damage_anywhere_never_crashes() -> None:
    random = np.random.default_rng(3)
    for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP"):
        whole = encoded(Image.fromarray(colours()), kind)
        for _ in range(60):
            damaged = bytearray(whole)
            for place in random.integers(0, len(whole), 4):
                damaged[place] ^= int(random.integers(1, 256))
            with suppress(PictureError):
                assert decoding.decode(bytes(damaged), (28, 28, 3)).shape == (28, 28, 3)


# Arrays


def listed(folder: Path, count: int, size: int = 8) -> list[Picture]:
    folder.mkdir(parents=True)
    result = []
    for index in range(count):
        path = f"{index:05}.png"
        Image.new("L", (size, size), index % 256).save(folder / path)
        result.append(Picture(path, "a", "training", pictures.sha256(folder / path)))
    return result


@pytest.mark.parametrize("count", [70, pictures.ALONE + 70])  # here, and in processes
def test_pictures_are_decoded_in_order_and_bad_ones_left_out(tmp_path: Path, count: int) -> None:
    rows = listed(tmp_path / "source", count)
    bad = rows[5]._replace(path="bad.png")
    (tmp_path / "source/bad.png").write_bytes(b"\x89PNG")
    rows[5] = bad._replace(sha256=pictures.sha256(tmp_path / "source/bad.png"))
    labels = np.arange(count).astype(np.uint16)
    skipped = pictures.save(tmp_path / "data", tmp_path / "source", rows, labels, (8, 8))
    assert [path for path, _ in skipped] == ["bad.png"]
    split = arrays.load(tmp_path / "data")
    good = np.delete(np.arange(count), 5)
    assert np.array_equal(split.labels, good)
    assert np.array_equal(split.images[:, 3, 3], good % 256)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["images.npy", "labels.npy"]


def test_a_picture_that_changed_since_fetch_stops(tmp_path: Path) -> None:
    rows = listed(tmp_path / "source", 3)
    Image.new("L", (8, 8), 99).save(tmp_path / "source/00001.png")
    with pytest.raises(WorkflowError, match="00001.png has changed"):
        pictures.save(tmp_path / "data", tmp_path / "source", rows, np.zeros(3, np.uint8), (8, 8))
    (tmp_path / "source/x.png").touch()
    empty = [Picture("x.png", "a", "training", pictures.sha256(tmp_path / "source/x.png"))]
    with pytest.raises(WorkflowError, match="none of the 1 training pictures"):
        pictures.save(tmp_path / "training", tmp_path / "source", empty, np.zeros(1, np.uint8), (8, 8))


# Folders


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has what the command needs of a project."""
    folder = tmp_path / "project"
    (folder / "pictures").mkdir(parents=True)
    for name in ("params.yaml", "datasets.yaml"):
        shutil.copyfile(HERE / name, folder / name)
    monkeypatch.chdir(folder)
    return folder


def fill(folder: Path, classes: dict[str, int], colour: bool = True, size: tuple[int, int] = (40, 30)) -> None:
    """A folder per class with so many different pictures, 40 wide and 30 high."""
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            shade = (index, 200, 100) if colour else (index,) * 3
            Image.new("RGB", size, shade).save(folder / name / f"{index}.png")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_becomes_a_data_set(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = {"장미": 30, "yes": 20, "1e3": 6, "a: b #c": 4, "گل‌ها": 5}
    fill(tmp_path / "my flowers", classes)
    before, catalog_before = content(tmp_path / "my flowers"), (project / "datasets.yaml").read_text()
    dataset.main(tmp_path / "my flowers", NOTHING)
    assert content(tmp_path / "my flowers") == content(project / "pictures/my_flowers") == before
    assert (project / "datasets.yaml").read_text().startswith(catalog_before)  # comments stay
    entry = catalog.load("my_flowers")
    assert entry.classes == sorted(classes)
    assert (entry.size, entry.colour, entry.test, entry.count) == ([30, 40], True, 0.15, 65)
    assert entry.shape() == (30, 40, 3)
    assert entry.params["split.validation"] == 6
    assert entry.params["evaluate.target_accuracy"] == 0
    output = capsys.readouterr().out
    for words in ("--size", "--colour no", "--test", "make repro DATASET=my_flowers", "장미", "held out"):
        assert words in output
    assert not (project / ".cache/import").exists()


def test_options_win_over_what_is_detected(project: Path, tmp_path: Path) -> None:
    fill(tmp_path / "in", {"a": 8, "b": 8}, colour=False, size=(900, 600))
    dataset.main(tmp_path / "in", NOTHING)
    entry = catalog.load("in")
    assert (entry.size, entry.colour) == ([64, 96], False)
    dataset.main(tmp_path / "in", Options("other", [50, 60], True, 0.25))
    entry = catalog.load("other")
    assert (entry.size, entry.colour, entry.test) == ([50, 60], True, 0.25)


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "valid", "Testing")])
def test_parts_above_the_classes(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, str, str]
) -> None:
    for part, count in zip(names, (9, 2, 3), strict=True):
        fill(tmp_path / "in" / part, {"a": count, "b": count})
    fill(tmp_path / "in", {"unsorted": 2})
    dataset.main(tmp_path / "in", NOTHING)
    entry = catalog.load("in")
    assert entry.test is None
    assert "split.validation" not in entry.params
    found, skipped = pictures.scan(project / "pictures/in")
    counts = {part: sum(each.part == part for each in found) for part in arrays.PARTS}
    assert counts == {"training": 18, "validation": 4, "test": 6}
    assert not skipped  # only what is used was copied
    assert "unsorted/0.png" in capsys.readouterr().out
    with pytest.raises(WorkflowError, match="--test is for folders without a test part"):
        dataset.main(tmp_path / "in", Options("again", None, None, 0.2))


def test_a_class_may_be_called_train(project: Path, tmp_path: Path) -> None:
    fill(tmp_path / "in", {"bus": 5, "train": 5})
    dataset.main(tmp_path / "in", NOTHING)
    assert catalog.load("in").classes == ["bus", "train"]


def test_tables_beside_the_pictures(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "in", {"all": 20})
    rows = [[f"all/{index}.png", "odd/even"[4 * (index % 2) :]] for index in range(14)]
    extra = [["all/99.png", "odd"], ["../x.png", "odd"], ["all/3.png", "odd"], ["all/19.png", ""]]
    for name, chosen in (("train", rows[:10] + extra), ("test", rows[10:])):
        with (tmp_path / f"in/{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["file", "label"], *chosen])
    dataset.main(tmp_path / "in", NOTHING)
    output = capsys.readouterr().out
    for words in ("all/99.png", "../x.png", "in no table (5)", "without a label", "again in train.csv"):
        assert words in output
    entry = catalog.load("in")
    assert (entry.classes, entry.test, entry.count) == (["even", "odd/even"], None, 14)
    found, skipped = pictures.scan(project / "pictures/in")
    assert len(found) == 14
    assert not skipped
    (tmp_path / "in/train.csv").write_text("name,class\n")
    with pytest.raises(WorkflowError, match=r"train.csv: the columns file and label are expected, not name, class"):
        dataset.main(tmp_path / "in", Options("again", None, None, None))


def test_what_is_no_picture_is_named_and_counted(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    fill(folder, {"a": 5, "b": 5})
    (folder / "a/corrupt.png").write_bytes((folder / "a/1.png").read_bytes()[:60])
    (folder / "a/empty.jpg").touch()
    (folder / "a/.hidden.png").touch()
    (folder / ".git").mkdir()
    (folder / "a/link.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "a/pipe.png")  # to open it would wait for ever
    (folder / "linked").symlink_to(folder / "a")
    for index in range(25):
        (folder / f"note{index}.txt").touch()
    (folder / "stray.png").write_bytes((folder / "a/1.png").read_bytes())
    dataset.main(folder, NOTHING)
    output = capsys.readouterr().out
    assert "left out: 33 files" in output
    for name in ("corrupt.png", "empty.jpg", ".hidden.png", ".git/", "link.png", "pipe.png", "linked/", "stray.png"):
        assert name in output
    assert "by its name (25)" in output
    assert "and 5 more" in output
    assert catalog.load("in").count == 10


@pytest.mark.slow
def test_thousands_of_classes(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "in", {f"class {index}": 3 for index in range(1500)}, size=(2, 2))
    dataset.main(tmp_path / "in", NOTHING)
    assert len(catalog.load("in").classes) == 1500
    output = capsys.readouterr().out
    assert "... 1,480 more" in output
    assert len(output.splitlines()) < 40


def test_pictures_in_the_project_are_not_copied(project: Path) -> None:
    fill(project / "pictures/mine", {"a": 5, "b": 5})
    (project / "pictures/mine/a/bad.png").write_bytes(b"x")
    before = content(project / "pictures")
    dataset.main(Path("pictures/mine"), NOTHING)
    assert content(project / "pictures") == before
    assert catalog.load("mine").count == 10


@pytest.mark.parametrize(("classes", "options", "words"), [
    ({"a": 5}, NOTHING, "only pictures of a"),
    ({}, NOTHING, "no picture that can be decoded"),
    ({"a": 9, "b": 2}, NOTHING, r"1 of 2 classes have fewer than 3 training pictures: b \(2\)"),
    ({"a": 5, "b": 5}, Options("mnist", None, None, None), "has mnist already"),
    ({"a": 5, "b": 5}, Options("a.b", None, None, None), "'a.b' can't name a data set"),
    ({"a": 5, "b": 5}, Options("there", None, None, None), "pictures/there is there already"),
    ({"a": 5, "b": 5}, Options(None, [2, 30], None, None), "20 to 1024 pixels"),
    ({"a": 5, "b": 5}, Options(None, None, None, 1.5), "--test 1.5: a share between 0 and 1"),
])  # fmt: skip
def test_a_refused_folder_leaves_nothing_behind(
    project: Path, tmp_path: Path, classes: dict[str, int], options: Options, words: str
) -> None:
    (tmp_path / "in").mkdir()
    fill(tmp_path / "in", classes)
    fill(project / "pictures/there", {"x": 1})
    before = content(project)
    with pytest.raises(WorkflowError, match=words):
        dataset.main(tmp_path / "in", options)
    (project / ".cache/repro.lock").unlink(missing_ok=True)
    assert content(project) == before


def test_folders_that_are_none(project: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match="nowhere is no folder"):
        dataset.main(tmp_path / "nowhere", NOTHING)
    with pytest.raises(WorkflowError, match="has this project in it"):
        dataset.main(tmp_path, NOTHING)


def test_a_full_disk_leaves_nothing_behind(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "in", {"a": 5, "b": 5})
    before = content(project)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "datasets.yaml")

    monkeypatch.setattr(dataset, "write_tables", full)
    with pytest.raises(OSError, match="No space"):
        dataset.main(tmp_path / "in", NOTHING)
    (project / ".cache/repro.lock").unlink()
    assert content(project) == before


@pytest.mark.slow
def test_a_killed_import_leaves_nothing_that_counts(project: Path, tmp_path: Path) -> None:
    """Killed in the middle; its processes end too, and the next import works."""
    fill(tmp_path / "in", {"a": 900, "b": 900}, size=(300, 300))
    before = (project / "datasets.yaml").read_bytes()
    environment = os.environ | {"PYTHONPATH": str(HERE / "src")}
    command = [sys.executable, "-m", "mnistflow.commands.dataset", str(tmp_path / "in")]
    start = partial(subprocess.Popen, command, env=environment, start_new_session=True, text=True, stderr=-1)
    process = start()
    wait_for((project / ".cache/import").exists, process)
    os.kill(process.pid, signal.SIGKILL)  # it alone, not its processes
    process.communicate()  # returns when the last of them has closed its standard error
    assert (project / "datasets.yaml").read_bytes() == before
    assert not (project / "pictures/in").exists()
    shutil.rmtree(project / ".cache/import")
    process = start()
    wait_for((project / ".cache/import").exists, process)
    kill(process, signal.SIGINT)
    assert not (project / ".cache/import").exists()
    dataset.main(tmp_path / "in", NOTHING)
    assert catalog.load("in").count == 1800


def test_command_line(project: Path, tmp_path: Path) -> None:
    fill(tmp_path / "in", {"a": 5, "b": 5})
    environment = os.environ | {"PYTHONPATH": str(HERE / "src")}
    options = ["--name", "n", "--size", "30", "40", "--colour", "no", "--test", "0.4"]
    command = [sys.executable, "-m", "mnistflow.commands.dataset", str(tmp_path / "in"), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    entry = catalog.load("n")
    assert (entry.size, entry.colour, entry.test) == ([30, 40], False, 0.4)
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr.startswith("error: datasets.yaml has n already")
    assert again.stderr.count("\n") == 1


def test_classes_that_the_entry_does_not_have() -> None:
    found = [Picture("lily/1.png", "lily", "training")]
    with pytest.raises(WorkflowError, match="pictures of lily, which are no classes of flowers"):
        pictures.check_classes(Path("pictures/flowers"), found, ["rose"], "flowers")
