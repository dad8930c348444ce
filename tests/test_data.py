"""IDX files, sources, the catalog, the division of the training images, the arrays.

test_formats.py has the other formats, checksums that are missing, archives and the division of parts.
"""

import gzip
import hashlib
import json
import runpy
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HERE, Mirror, serve, tiny_entry
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from ruamel.yaml import YAML

from mnistflow.core.errors import WorkflowError
from mnistflow.data import arrays, catalog, formats, sources, splits
from mnistflow.data.arrays import Split
from mnistflow.data.catalog import File

RANDOM = np.random.default_rng(1)
CONTENT = b"\0\0\x08\x01\0\0\0\x03abc"  # an IDX file of three bytes
SHAPES = npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# IDX files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the examples of Hypothesis, each of which overwrites the one before."""
    return tmp_path_factory.mktemp("idx")


@given(values=npst.arrays(np.uint8, SHAPES))
@settings(max_examples=50, deadline=None)
def test_bytes_are_read_as_they_were_written(folder: Path, values: Any) -> None:
    formats.write_idx(folder / "file", values)
    read = formats.read_idx(folder / "file", (values.ndim,))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, values)
    with pytest.raises(WorkflowError, match=f"an IDX file of unsigned bytes with {values.ndim % 4 + 1} dim"):
        formats.read_idx(folder / "file", (values.ndim % 4 + 1,))


@given(code=st.sampled_from(sorted(formats.TYPES)), data=st.data())
@settings(max_examples=50, deadline=None)
def test_integers_of_every_type_are_read(folder: Path, code: int, data: Any) -> None:
    """Big-endian, as their authors define it; the type codes stand in the files of EMNIST and others."""
    kinds = {
        0x08: ("B", 0, 255),
        0x09: ("b", -128, 127),
        0x0B: ("h", -(2**15), 2**15 - 1),
        0x0C: ("i", -(2**31), 2**31 - 1),
    }
    letter, low, high = kinds[code]
    values = data.draw(st.lists(st.integers(low, high), max_size=9))
    content = struct.pack(f">HBBI{len(values)}{letter}", 0, code, 1, len(values), *values)
    (folder / "file").write_bytes(content)
    assert formats.read_idx(folder / "file", (1,)).tolist() == values


@given(values=npst.arrays(np.uint8, SHAPES), data=st.data())
@settings(max_examples=50, deadline=None)
def test_a_file_that_is_cut_off_or_too_long_is_one_sentence(folder: Path, values: Any, data: Any) -> None:
    path = folder / "file"
    formats.write_idx(path, values)
    content = path.read_bytes()
    length = data.draw(st.integers(0, len(content) + 3).filter(lambda length: length != len(content)))
    path.write_bytes((content + b"more")[:length])
    with pytest.raises(WorkflowError, match=r"file(:| begins with) .*(promises|dimensions begins with 0000080\d).*\.$"):
        formats.read_idx(path, (values.ndim,))


@given(content=st.binary(max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_an_array_or_one_sentence(folder: Path, content: bytes) -> None:
    (folder / "file").write_bytes(content)
    try:
        read = formats.read_idx(folder / "file", (1, 2, 3, 4))
    except WorkflowError as error:
        assert str(error).startswith(str(folder / "file"))
    else:
        assert len(content) == 4 + 4 * read.ndim + read.nbytes


def test_real_numbers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "floats").write_bytes(struct.pack(">HBBIf", 0, 0x0D, 1, 1, 0.5))
    with pytest.raises(WorkflowError, match="floats begins with 00000d01; an IDX file"):
        formats.read_idx(tmp_path / "floats", (1,))


def test_the_digits_are_a_data_set_of_the_form_of_mnist(tmp_path: Path) -> None:
    formats.write_digits(tmp_path)
    parts = formats.read(catalog.load("digits", HERE / "datasets.yaml"), tmp_path)
    assert {name: split.images.shape for name, split in parts.items()} == {
        "training": (1497, 28, 28),
        "test": (300, 28, 28),
    }
    images = np.concatenate([split.images for split in parts.values()])
    assert images.max() == 255
    assert len({image.tobytes() for image in images}) == 1797


# Sources


def fetch(folder: Path, file: File, *locations: str) -> bytes:
    """Fetch one file; returns its content."""
    sources.fetch({"role": file}, locations, folder / "downloads", folder / "output")
    return (folder / "output/role").read_bytes()


def put(folder: Path, content: bytes, name: str = "train-images-idx3-ubyte.gz") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


PACKED = gzip.compress(CONTENT, mtime=1)
PUBLISHED = File(name="train-images-idx3-ubyte.gz", sha256=sha256(PACKED), unpacked=sha256(CONTENT))


def others() -> dict[str, bytes]:
    """Packings of that content which others make: names of files, and what is in them."""
    anew = gzip.compress(CONTENT, compresslevel=1, mtime=2)
    assert anew != PACKED
    return {
        "train-images-idx3-ubyte.gz": anew,
        "train-images-idx3-ubyte": anew,  # whatever its name says
        "train-images.idx3-ubyte": CONTENT,
        "train-images.idx3-ubyte.gz": PACKED,
        "train-images-idx3-ubyte/train-images-idx3-ubyte": CONTENT,  # as some archives unpack it
    }


def test_a_file_that_a_browser_unpacked_and_did_not_rename(tmp_path: Path) -> None:
    put(tmp_path / "in", CONTENT)
    assert fetch(tmp_path, PUBLISHED, str(tmp_path / "in")) == CONTENT


def test_a_folder_of_an_unknown_user_is_a_reason_like_another(tmp_path: Path) -> None:
    put(tmp_path / "in", CONTENT)
    assert fetch(tmp_path, PUBLISHED, "~nobody-here/in", str(tmp_path / "in")) == CONTENT


@pytest.mark.parametrize("name", others())
def test_a_folder_s_file_counts_by_its_content(tmp_path: Path, name: str) -> None:
    put((tmp_path / "in" / name).parent, others()[name], Path(name).name)
    assert fetch(tmp_path, PUBLISHED, str(tmp_path / "in")) == CONTENT
    assert not (tmp_path / "downloads").exists()


def test_a_right_file_beside_a_wrong_one_is_found(tmp_path: Path) -> None:
    put(tmp_path / "in", b"\x1f\x8b damaged")
    put(tmp_path / "in", CONTENT, "train-images.idx3-ubyte")
    assert fetch(tmp_path, PUBLISHED, f"file://{tmp_path}/in") == CONTENT


def test_a_folder_is_found_from_the_project_and_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "here/in", PACKED)
    (tmp_path / "here").joinpath("copy").mkdir()
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path / "here")
    assert fetch(tmp_path, PUBLISHED, "in") == CONTENT
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    assert fetch(tmp_path, PUBLISHED, "~/in") == CONTENT


def test_wrong_content_is_refused_with_both_hashes(tmp_path: Path) -> None:
    other = gzip.compress(b"other", mtime=1)
    put(tmp_path / "in", other)
    with pytest.raises(WorkflowError) as error:
        fetch(tmp_path, PUBLISHED, str(tmp_path / "in"), str(tmp_path / "nowhere"))
    assert str(error.value) == (
        f"train-images-idx3-ubyte.gz (role) could not be fetched ({tmp_path}/in: train-images-idx3-ubyte.gz has "
        f"SHA-256 {sha256(other)}, not {sha256(PACKED)}; {tmp_path}/nowhere: no such folder); set MNISTFLOW_SOURCE to "
        "a folder or an address that has it, or list one under `sources` in datasets.yaml."
    )


def test_a_mirror_gives_what_it_has_and_the_next_source_the_rest(
    tmp_path: Path, mirror: Mirror, tiny_files: Path
) -> None:
    extra = put(tmp_path / "extra", b"extra", "extra")
    files = {
        "test_labels": File(name="test_labels", sha256=sha256((tiny_files / "test_labels").read_bytes())),
        "extra": File(name="extra", sha256=sha256(b"extra")),
    }
    mirror.requests.clear()
    for again in (False, True):
        sources.fetch(files, [mirror.url, str(extra)], tmp_path / "downloads", tmp_path / "output")
        assert (tmp_path / "output/test_labels").read_bytes() == (tiny_files / "test_labels").read_bytes()
        assert (tmp_path / "output/extra").read_bytes() == b"extra"
        # What was downloaded once is not downloaded again.
        assert mirror.requests == ["/test_labels", "/extra", *(["/extra"] if again else [])]


def test_a_mirror_with_other_content_is_refused_and_leaves_nothing(tmp_path: Path, mirror: Mirror) -> None:
    with pytest.raises(WorkflowError) as error:
        fetch(tmp_path, File(name="test_labels", sha256="0" * 64), mirror.url)
    assert "test_labels (role) could not be fetched" in str(error.value)
    assert "does not match the known hash" in str(error.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


class Trouble(BaseHTTPRequestHandler):
    """A server in trouble; the first part of the address says in which, and `asked` notes it."""

    asked: list[str]

    def do_GET(self) -> None:
        kind, name = self.path.strip("/").split("/")
        self.asked.append(f"{kind}/{name}")
        if kind == "silent":
            time.sleep(1)
        if kind == "broken":
            self.send_error(500)
        elif kind in ("short", "slow"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(10 if kind == "slow" else 1):
                self.wfile.write(b"x")
                time.sleep(0.1 if kind == "slow" else 0)
        elif kind == "round":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
        self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()


@pytest.fixture(scope="module")
def troubled_server() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    for url in serve(type("Handler", (Trouble,), {"asked": asked})):
        yield url, asked


@pytest.fixture
def trouble(troubled_server: tuple[str, list[str]]) -> tuple[str, list[str]]:
    """The address of a server in trouble, and the list of what it is asked for."""
    troubled_server[1].clear()
    return troubled_server


@pytest.mark.parametrize(("kind", "words"), [
    ("silent", "no answer for 0.3 s"),
    ("slow", "not complete after 0.5 s"),
    ("broken", "HTTP 500"),
    ("short", "IncompleteRead"),
    ("round", "Exceeded 30 redirects"),
])  # fmt: skip
def test_a_server_in_trouble_gives_way_to_the_next_source(
    kind: str, words: str, tmp_path: Path, trouble: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not asked for further files, and nothing half-written stays."""
    monkeypatch.setattr(sources, "SILENCE", 0.3)
    monkeypatch.setattr(sources, "PATIENCE", 0.5 if kind == "slow" else 60)
    url, asked = trouble
    files = {role: File(name=role, sha256=sha256(role.encode())) for role in ("one", "two")}
    for role in files:
        put(tmp_path / "in", role.encode(), role)
    locations = [f"{url}{kind}/", str(tmp_path / "in")]
    sources.fetch(files, locations, tmp_path / "downloads", tmp_path / "output")
    assert {path.name: path.read_text() for path in (tmp_path / "output").iterdir()} == {"one": "one", "two": "two"}
    assert set(asked) == {f"{kind}/one"}
    with pytest.raises(WorkflowError, match=f"one .* could not be fetched .*: {words}"):
        sources.fetch(files, locations[:1], tmp_path / "downloads", tmp_path / "output")
    assert not list((tmp_path / "downloads").rglob("*"))


def test_without_a_source_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match=r"x \(role\) could not be fetched \(no sources\)"):
        fetch(tmp_path, File(name="x"))


def test_a_password_in_a_source_is_in_no_message(trouble: tuple[str, list[str]], tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    locations = [
        trouble[0].replace("://", "://me:secret@") + "broken/",
        trouble[0].replace("://", "://me:secret@") + "round/",
        f"http://me:secret@127.0.0.1:{port}/",
        "http://me:secret@127.0.0.1:no-port/",
    ]
    with pytest.raises(WorkflowError) as error:
        fetch(tmp_path, File(name="x", sha256="0" * 64), *locations)
    assert str(error.value).count("me:***@") >= len(locations)
    assert "secret" not in str(error.value)


def test_the_variable_s_source_comes_first(
    tmp_path: Path, tiny_files: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the stage itself; where the variable's source lacks a file, those of datasets.yaml follow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    own = tmp_path / "own"
    own.mkdir()
    for role in catalog.ROLES[:-1]:
        (own / role).write_bytes((tiny_files / role).read_bytes())
    values = params_of("tiny")
    (tmp_path / "datasets.yaml").write_text(json.dumps({"tiny": tiny_entry(tiny_files, mirror.url)}))
    (tmp_path / "params.yaml").write_text(json.dumps(values))
    main = runpy.run_path(str(HERE / "stages/fetch.py"))["main"]
    mirror.requests.clear()
    monkeypatch.setenv("MNISTFLOW_SOURCE", str(own))
    main()
    assert mirror.requests == [f"/{catalog.ROLES[-1]}"]
    for role in catalog.ROLES:
        assert (tmp_path / "data/raw" / role).read_bytes() == (tiny_files / role).read_bytes()
    monkeypatch.delenv("MNISTFLOW_SOURCE")
    mirror.requests.clear()
    main()
    assert mirror.requests == [f"/{role}" for role in catalog.ROLES[:-1]]


def params_of(dataset: str) -> Any:
    """The project's own params.yaml with another data set."""
    values = YAML(typ="safe").load(HERE / "params.yaml")
    values["fetch"]["dataset"] = dataset
    return values


# The catalog


@pytest.mark.parametrize(("content", "name", "sentence"), [
    ("a: {format: idx}\nb: 1\n", "c", "'c' is no data set in {}; known are a, b."),
    ("[a, b]\n", "a", "'a' is no data set in {}; known are none."),
    ("a: {format: scikit-learn, classes: [x, y], clases: [z]}\n", "a",
     "{}, a: unknown key clases; remove it or correct its name; did you mean classes? known are "),
    ("a: {format: tar, classes: [x, y]}\n", "a", "{}, a: format is 'tar'; 'idx', 'npz', "),
    ("a: {format: scikit-learn, classes: [x]}\n", "a", "{}, a: classes is a list of 1; a list of at least 2 is "),
    ("a: {format: scikit-learn, classes: [x, 7]}\n", "a", "{}, a: classes.1 is 7; a text, as \"7\", is expected."),
    ("a: 7\n", "a", "{}, a: it is 7; a section with the keys format, classes is expected."),
])  # fmt: skip
def test_a_mistake_in_the_catalog_is_one_sentence(tmp_path: Path, content: str, name: str, sentence: str) -> None:
    path = tmp_path / "datasets.yaml"
    path.write_text(content)
    with pytest.raises(WorkflowError) as error:
        catalog.load(name, path)
    assert str(error.value).startswith(sentence.format(path))
    assert "\n" not in str(error.value)


def test_disputes_come_by_their_index() -> None:
    rows = [[7, 1, 2, 0, 5], [3, 4, 9, 2, 2]]
    dataset = catalog.Dataset.model_validate({"format": "scikit-learn", "classes": ["x", "y"], "disputed": rows})
    assert [dispute.image for dispute in dataset.disputes()] == [3, 7]
    assert dataset.disputes()[0].other == 9


# Splits


LABELS = np.repeat(np.arange(3), [500, 90, 10]).astype(np.uint8)


def test_held_out_images_are_a_stratified_part_of_the_seed() -> None:
    RANDOM.shuffle(labels := LABELS.copy())
    training, held_out = splits.hold_out(labels, 60, 1, ["a", "b", "c"])
    assert np.array_equal(np.sort(np.concatenate([training, held_out])), np.arange(600))  # disjoint and complete
    assert np.all(np.diff(training) > 0)
    assert np.all(np.diff(held_out) > 0)
    assert np.bincount(labels[held_out]).tolist() == [50, 9, 1]
    again = splits.hold_out(labels, 60, 1, ["a", "b", "c"])[1]
    other = splits.hold_out(labels, 60, 2, ["a", "b", "c"])[1]
    assert np.array_equal(again, held_out)
    assert not np.array_equal(other, held_out)


def test_the_overview_has_counts_numbers_and_a_one_hot_vector() -> None:
    split = Split(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.array([1, 0], np.uint8))
    text = splits.overview("two", {"training": split, "test": split}, ["a", "bird"])
    assert text.startswith("two: 2 training, 2 test\n\nclass    training        test\na               1           1\n")
    assert "   4   5   6   7\n" in text
    assert "its class: bird\nas a one-hot vector: [0, 1]\n" in text
    colour = Split(np.stack([split.images] * 3, axis=-1), split.labels)
    assert "the first training image, its red channel:\n   0   1" in splits.overview(
        "c", {"training": colour}, ["a", "b"]
    )


# Arrays


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Split]:
    """A folder with a split, and that split."""
    images = RANDOM.integers(0, 256, (9, 5, 4, 3), dtype=np.uint8)
    split = Split(images, np.arange(9, dtype=np.uint16))
    arrays.save(tmp_path / "part", split)
    return tmp_path / "part", split


def test_a_split_is_loaded_as_it_was_saved_and_not_into_memory(saved: tuple[Path, Split]) -> None:
    folder, split = saved
    loaded = arrays.load(folder)
    for read, written in zip(loaded, split, strict=True):
        assert isinstance(read, np.memmap)
        assert not read.flags.writeable
        assert read.dtype == written.dtype
        np.testing.assert_array_equal(read, written)
    np.testing.assert_array_equal(np.load(folder / "images.npy"), split.images)  # a plain .npy file
    # Images that lie differently in memory are the same bytes in a file.
    before = arrays.sha256(folder)
    arrays.save(folder, Split(np.asfortranarray(split.images), split.labels))
    assert arrays.sha256(folder) == before


def test_the_hash_is_that_of_images_and_labels(saved: tuple[Path, Split]) -> None:
    folder, split = saved
    hashes = {arrays.sha256(folder)}
    changed = split.images.copy()
    changed[3, 2, 1, 0] ^= 1
    for other in (Split(changed, split.labels), Split(split.images, split.labels[::-1])):
        arrays.save(folder, other)
        hashes.add(arrays.sha256(folder))
    assert len(hashes) == 3


def test_images_are_taken_from_the_file_as_from_memory(saved: tuple[Path, Split]) -> None:
    folder, split = saved
    images = arrays.load(folder).images
    for indices in (np.array([8, 0, 0, 3]), np.array([], np.intp)):
        np.testing.assert_array_equal(arrays.take(images, indices), split.images[indices])
        np.testing.assert_array_equal(arrays.take(images[2:], indices[:0]), split.images[indices[:0]])
        np.testing.assert_array_equal(arrays.take(split.images, indices), split.images[indices])
    np.testing.assert_array_equal(arrays.take(images[2:], np.array([1, 0])), split.images[[3, 2]])


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(("change", "words"), [
    (lambda folder: (folder / "labels.npy").unlink(), "labels.npy is missing; `dvc repro preprocess` makes it"),
    (lambda folder: cut(folder / "images.npy", 300), "images.npy is damaged"),
    (lambda folder: cut(folder / "images.npy", 20), "images.npy is damaged"),
    (lambda folder: cut(folder / "images.npy", 0), "images.npy is damaged"),
    (lambda folder: (folder / "images.npy").write_text("<html>"), "images.npy is damaged"),
    (lambda folder: np.save(folder / "labels.npy", np.array([{}] * 9), allow_pickle=True), "labels.npy is damaged"),
    (lambda folder: np.save(folder / "labels.npy", np.arange(8)), r"labels int64 \(8,\); uint8 \(n, height, width\)"),
    (lambda folder: np.save(folder / "images.npy", np.zeros((9, 5, 4))), r"images are float64 \(9, 5, 4\)"),
])  # fmt: skip
def test_a_damaged_split_is_one_sentence(saved: tuple[Path, Split], change: Callable[[Path], Any], words: str) -> None:
    change(saved[0])
    with pytest.raises(WorkflowError, match=words):
        arrays.load(saved[0])


def test_a_file_that_shrinks_or_goes_after_it_was_opened_is_one_sentence(saved: tuple[Path, Split]) -> None:
    images = arrays.load(saved[0]).images
    path = saved[0] / "images.npy"
    cut(path, path.stat().st_size - 1)
    assert len(arrays.take(images, np.array([0]))) == 1
    with pytest.raises(WorkflowError, match=r"images\.npy has become shorter; delete it and run"):
        arrays.take(images, np.array([0, 8]))
    path.unlink()
    with pytest.raises(WorkflowError, match=r"images\.npy is gone; `dvc repro preprocess` makes it anew"):
        arrays.take(images, np.array([0]))


def test_the_description_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    described = arrays.Description("tiny", (5, 4, 3), ["a", "b"], "test", None)
    path.write_text(json.dumps(described._asdict()))
    assert arrays.describe(path) == described
    path.write_text("{")
    with pytest.raises(WorkflowError, match=r"dataset\.json is not JSON .*; delete it and run `dvc repro`"):
        arrays.describe(path)
    path.unlink()
    with pytest.raises(WorkflowError, match=r"dataset\.json is missing; `dvc repro` makes it"):
        arrays.describe(path)
