"""Files of every format -> arrays, sources without a checksum or with an archive, and how parts are divided."""

import gzip
import hashlib
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnistflow.commands import repro
from mnistflow.core import params
from mnistflow.core.errors import WorkflowError
from mnistflow.data import catalog, formats, sources, splits
from mnistflow.data.catalog import Dataset, File
from mnistflow.data.splits import Part

RANDOM = np.random.default_rng(1)
GREY = RANDOM.integers(0, 256, (12, 5, 7)).astype(np.uint8)
COLOUR = RANDOM.integers(0, 256, (12, 5, 7, 3)).astype(np.uint8)
LABELS = np.arange(12).astype(np.uint8) % 3
ABC = ["a", "b", "c"]


def entry(kind: str, **values: Any) -> Dataset:
    files = {role: {"name": role} for role in catalog.FILES[kind][0]}
    return Dataset.model_validate({"format": kind, "classes": ABC, "files": files} | values)


# IDX


def write_idx(folder: Path, images: Any, labels: Any) -> None:
    for part in ("train", "test"):
        formats.write_idx(folder / f"{part}_images", images)
        formats.write_idx(folder / f"{part}_labels", labels)


@pytest.mark.parametrize(("images", "shape"), [(GREY, (5, 7)), (COLOUR, (5, 7, 3)), (GREY[..., None], (5, 7))])
def test_idx_of_any_shape(tmp_path: Path, images: Any, shape: tuple[int, ...]) -> None:
    write_idx(tmp_path, images, LABELS)
    parts = formats.read(entry("idx"), tmp_path)
    assert list(parts) == ["training", "test"]
    assert parts["test"].images.shape == (12, *shape)
    assert np.array_equal(parts["test"].images.ravel(), images.ravel())


@pytest.mark.parametrize("images", [GREY, COLOUR])
def test_transposed_idx(tmp_path: Path, images: Any) -> None:
    write_idx(tmp_path, images.swapaxes(1, 2), LABELS)
    assert np.array_equal(formats.read(entry("idx", transposed=True), tmp_path)["training"].images, images)


def test_labels_that_begin_at_another_number(tmp_path: Path) -> None:
    write_idx(tmp_path, GREY, LABELS + 1)
    assert np.array_equal(formats.read(entry("idx", first_label=1), tmp_path)["training"].labels, LABELS)
    with pytest.raises(WorkflowError, match="train_labels: label 3 at position 2 is out of range; .* 0 to 2"):
        formats.read(entry("idx"), tmp_path)
    with pytest.raises(WorkflowError, match="label 1 at position 0 .* 2 to 4"):
        formats.read(entry("idx", first_label=2), tmp_path)


def test_more_than_256_classes(tmp_path: Path) -> None:
    write_idx(tmp_path, GREY, LABELS)
    labels = np.array([299, *range(11)])
    header = struct.pack(">HBBI", 0, 0x0C, 1, 12)
    (tmp_path / "train_labels").write_bytes(header + labels.astype(">i4").tobytes())
    split = formats.read(entry("idx", classes=[str(label) for label in range(300)]), tmp_path)["training"]
    assert split.labels.dtype == np.uint16
    assert split.labels.tolist() == labels.tolist()


@pytest.mark.parametrize(("content", "words"), [
    (b"", "begins with nothing"),
    (b"<html>", "begins with 3c68746d; an IDX file of unsigned bytes with 3 or 4 dimensions begins with 00000803"),
    (struct.pack(">HBBIII", 0, 8, 3, 12, 5, 7) + b"x", "12 x 5 x 7 = 420 bytes, but 1 follow"),
    (struct.pack(">HBBIII", 0, 9, 3, 1, 1, 2) + b"xx", "int8"),
    (struct.pack(">HBBIII", 0, 8, 3, 0, 5, 7), "0 images, but .* holds 12 labels"),
])  # fmt: skip
def test_damaged_idx(tmp_path: Path, content: bytes, words: str) -> None:
    write_idx(tmp_path, GREY, LABELS)
    (tmp_path / "train_images").write_bytes(content)
    with pytest.raises(WorkflowError, match=words):
        formats.read(entry("idx"), tmp_path)


# NPZ


def test_npz_of_keras(tmp_path: Path) -> None:
    with (tmp_path / "arrays").open("wb") as file:
        np.savez(file, x_train=GREY, y_train=LABELS, x_test=GREY[:3], y_test=LABELS[:3])
    parts = formats.read(entry("npz"), tmp_path)
    assert list(parts) == ["training", "test"]
    assert np.array_equal(parts["training"].images, GREY)


def test_npz_of_medmnist(tmp_path: Path) -> None:
    parts = {"train": COLOUR, "val": COLOUR[:4], "test": COLOUR[:3]}
    arrays = {f"{part}_images": images for part, images in parts.items()}
    arrays |= {f"{part}_labels": LABELS[: len(images), None] for part, images in parts.items()}
    with (tmp_path / "arrays").open("wb") as file:
        np.savez_compressed(file, **arrays)
    parts = formats.read(entry("npz"), tmp_path)
    assert {part: len(split.labels) for part, split in parts.items()} == {"training": 12, "validation": 4, "test": 3}
    assert parts["validation"].labels.shape == (4,)


GOOD = {"x_train": GREY, "y_train": LABELS, "x_test": GREY, "y_test": LABELS}


@pytest.mark.parametrize(("arrays", "words"), [
    ({"a": GREY}, "arrays has a; x_train"),
    (GOOD | {"x_train": GREY / 255}, "arrays, x_train is float64"),
    (GOOD | {"x_train": np.zeros((12, 5, 7, 2), np.uint8)}, "x_train is uint8 .12, 5, 7, 2."),
    (GOOD | {"x_train": np.zeros((12, 35), np.uint8)}, "x_train is uint8 .12, 35."),
    (GOOD | {"y_train": np.zeros((12, 14), np.uint8)}, "y_train is uint8 .12, 14.; one integer an image"),
    (GOOD | {"y_train": LABELS / 2}, "y_train is float64"),
    (GOOD | {"y_train": LABELS[:5]}, "12 images, but arrays, y_train holds 5 labels"),
    (GOOD | {"y_train": LABELS.astype(np.int64) - 1}, "label -1 at position 0"),
    (GOOD | {"y_train": np.array([None] * 12)}, "no .npz file of plain arrays"),
    (None, "no .npz file of plain arrays, or damaged"),
])  # fmt: skip
def test_wrong_npz(tmp_path: Path, arrays: Any, words: str) -> None:
    if arrays is None:
        (tmp_path / "arrays").write_bytes(b"<html>not here</html>")
    else:
        with (tmp_path / "arrays").open("wb") as file:
            np.savez(file, **arrays)
    with pytest.raises(WorkflowError, match=words):
        formats.read(entry("npz"), tmp_path)


# CSV


def write_csv(path: Path, images: Any, labels: Any, header: str | None = None) -> None:
    pixels = images.reshape(len(images), -1)
    names = header or ",".join(["label", *(f"pixel{index}" for index in range(pixels.shape[1]))])
    rows = [",".join(map(str, [label, *row])) for label, row in zip(labels, pixels, strict=True)]
    path.write_text("\n".join([names, *rows]) + "\n")


def test_csv(tmp_path: Path) -> None:
    square = GREY[:, :, :5]
    write_csv(tmp_path / "train_table", square, LABELS)
    parts = formats.read(entry("csv", test=0.2), tmp_path)
    assert list(parts) == ["training"]
    assert np.array_equal(parts["training"].images, square)
    assert np.array_equal(parts["training"].labels, LABELS)
    both = {role: {"name": role} for role in ("train_table", "test_table")}
    write_csv(tmp_path / "test_table", COLOUR, LABELS)
    write_csv(tmp_path / "train_table", COLOUR, LABELS)
    parts = formats.read(entry("csv", files=both, size=[5, 7], colour=True), tmp_path)
    assert np.array_equal(parts["test"].images, COLOUR)


@pytest.mark.parametrize(("text", "words"), [
    ("pixel0,pixel1\n1,2\n", "train_table begins with the columns pixel0, pixel1"),
    ("label,p\n1,300\n", "train_table, line 2: pixels from 0 to 255"),
    ("label,p\n1,x\n", "train_table is no table of whole numbers"),
    ("label,p\n1,2\n1\n", "train_table is no table of whole numbers"),
    ("label,p,q\n1,2,3\n", "2 pixel columns, which are no 1 x 1 image; set `size"),
    ("label,p\n7,2\n", "label 7 at position 0 is out of range"),
    ("label,p\n", "2 columns in its header"),
    ("label,p\n1,2,3\n", "2 columns in its header and 3 below"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_wrong_csv(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "train_table").write_text(text)
    with pytest.raises(WorkflowError, match=words):
        formats.read(entry("csv", test=0.2), tmp_path)


# Entries


@pytest.mark.parametrize(("values", "words"), [
    ({"format": "npz", "files": {}}, "files has nothing; expected of the format npz is arrays"),
    ({"format": "csv", "files": {"train_table": {"name": "x"}}}, "files has no test_table; `test`"),
    ({"format": "pictures"}, "size is missing"),
    ({"format": "pictures", "size": [5, 5], "classes": ["a", "b", "a"]}, "classes has 'a' twice"),
    ({"format": "pictures", "size": [0, 5]}, "greater than or equal to 1"),
])  # fmt: skip
def test_entries_that_are_refused(values: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Dataset.model_validate({"classes": ABC} | values)


def test_a_target_is_that_of_one_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("params.yaml", "datasets.yaml"):
        shutil.copy(name, tmp_path)
    (tmp_path / ".cache").mkdir()
    monkeypatch.chdir(tmp_path)
    own = Path("params.yaml").read_text()
    for name, target in (("digits", 0.9), ("kmnist", 0)):
        Path("params.yaml").write_text(repro.with_dataset(own, name))
        settings = params.load()
        assert (settings.fetch.dataset, settings.evaluate.target_accuracy) == (name, target)


@pytest.mark.parametrize("name", ["emnist_balanced", "emnist_letters", "pathmnist", "pathmnist_64", "mnist"])
def test_entries_of_the_project(name: str) -> None:
    dataset = catalog.load(name, Path(__file__).parent.parent / "datasets.yaml")
    assert len(dataset.classes) == {"emnist_balanced": 47, "emnist_letters": 26}.get(name, 9 if "path" in name else 10)


# Sources


def test_a_file_without_checksum_tells_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.idx1-ubyte").write_bytes(b"content")
    sources.fetch({"role": File(name="a-idx1-ubyte.gz")}, [str(tmp_path / "in")], tmp_path / "down", tmp_path / "out")
    assert (tmp_path / "out/role").read_bytes() == b"content"
    output = capsys.readouterr().out
    assert "not checked" in output
    assert hashlib.sha256(b"content").hexdigest() in output


def test_md5_and_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.npz").write_bytes(b"content")
    right = hashlib.md5(b"content").hexdigest()
    sources.fetch({"role": File(name="a.npz", md5=right)}, [str(tmp_path)], tmp_path / "down", tmp_path / "out")
    assert "not checked" not in capsys.readouterr().out
    with pytest.raises(WorkflowError, match=f"a.npz has MD5 {right}, not {'0' * 32}"):
        sources.fetch({"role": File(name="a.npz", md5="0" * 32)}, [str(tmp_path)], tmp_path / "down", tmp_path / "out")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"content" * 99)[:20])
    with pytest.raises(WorkflowError, match="b.gz is damaged"):
        sources.fetch({"role": File(name="b.gz")}, [str(tmp_path)], tmp_path / "down", tmp_path / "out")


def test_an_archive_has_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(tmp_path / "gzip.zip", "w") as archive:
        archive.writestr("gzip/a.gz", gzip.compress(b"content"))
    archive_md5 = hashlib.md5((tmp_path / "gzip.zip").read_bytes()).hexdigest()
    packed, down = File(name="gzip.zip", md5=archive_md5), tmp_path / "down"
    sources.fetch({"role": File(name="a.gz")}, [str(tmp_path)], down, tmp_path / "out", packed)
    assert (tmp_path / "out/role").read_bytes() == b"content"
    assert "not checked" not in capsys.readouterr().out  # the archive was
    with pytest.raises(WorkflowError, match=r"no file b.gz in gzip.zip"):
        sources.fetch({"role": File(name="b.gz")}, [str(tmp_path)], down, tmp_path / "out", packed)
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"other"))  # unpacked by hand
    sources.fetch({"role": File(name="a.gz")}, [str(tmp_path)], down, tmp_path / "out", packed)
    assert (tmp_path / "out/role").read_bytes() == b"other"
    assert "not checked" in capsys.readouterr().out


# Parts


def keys(count: int) -> list[bytes]:
    return [hashlib.sha256(str(index).encode()).digest() for index in range(count)]


def test_the_test_set_is_a_stratified_share_and_stays_when_images_come() -> None:
    labels = np.repeat(np.arange(3), [200, 40, 4]).astype(np.uint8)
    training, test = splits.hold_out_test(keys(244), labels, 0.15, ABC)
    assert np.bincount(labels[test]).tolist() == [30, 6, 1]
    assert sorted([*training, *test]) == list(range(244))
    more = splits.hold_out_test([*keys(244), b"new"], np.append(labels, 0), 0.15, ABC)[1]
    assert len(set(test) ^ set(more)) <= 2


def test_equal_images_of_a_class_are_on_one_side() -> None:
    twice = [*keys(40), *keys(40)]
    training, test = splits.hold_out_test(twice, np.zeros(80, np.uint8), 0.26, ABC)  # 21 would part a pair
    assert {twice[index] for index in training}.isdisjoint({twice[index] for index in test})


def test_classes_with_too_few_images() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2], np.uint8)
    with pytest.raises(WorkflowError, match="class 'b' has one image; two are needed"):
        splits.hold_out_test(keys(6), labels, 0.3, ABC)
    with pytest.raises(WorkflowError, match="class 'b' has one training image; two are needed"):
        splits.hold_out(labels, 3, 1, ABC)
    for size in (2, 10, 70_000):
        with pytest.raises(
            WorkflowError, match=rf"params\.yaml is {size}, but from 3 to 9 of the 12 training images can"
        ):
            splits.hold_out(np.repeat(np.arange(3), 4), size, 1, ABC)
    for size in (3, 9):
        assert len(splits.hold_out(np.repeat(np.arange(3), 4), size, 1, ABC)[1]) == size


def test_own_validation_part_and_the_books_way() -> None:
    parts = {name: Part(GREY, LABELS) for name in ("training", "validation", "test")}
    divided, notes = splits.divide(parts, [], None, 5000, 1, ABC)
    assert {name: len(part.labels) for name, part in divided.items()} == {"training": 12, "validation": 12, "test": 12}
    assert "own validation part, 12 images" in notes[0]
    divided, notes = splits.divide(parts, [], None, "test", 1, ABC)
    assert divided["validation"] is divided["test"]
    assert not notes
    divided, notes = splits.divide({"training": parts["training"]}, keys(12), 0.25, 3, 1, ABC)
    assert {name: len(part.labels) for name, part in divided.items()} == {"training": 6, "validation": 3, "test": 3}
    assert "3 images, 25% of each class, are held out as the test set" in notes[0]
