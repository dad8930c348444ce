"""Fetching from folders and servers, good and bad; decoding, good and bad."""

import gzip
import struct
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from conftest import TEST, TRAIN, Mirror, describe_tiny, serve
from hypothesis import given, settings
from hypothesis import strategies as st

from mnistflow import datasets
from mnistflow.workspace import WorkflowError

IMAGES = datasets.images_file("train")
LABELS = datasets.labels_file("train")


@pytest.fixture(autouse=True)
def _tiny_in_the_table(tiny_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets.DATASETS, "tiny", describe_tiny(tiny_files))


def fetch(tmp_path: Path, *sources: str) -> Path:
    datasets.fetch("tiny", sources, tmp_path, tmp_path / "downloads", tmp_path / "raw")
    return tmp_path / "raw"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_is_a_source(tmp_path: Path, tiny_files: Path) -> None:
    raw = fetch(tmp_path, str(tiny_files))
    assert names(raw) == names(tiny_files)
    assert all((raw / name).read_bytes() == (tiny_files / name).read_bytes() for name in names(raw))


def test_a_folder_is_relative_to_the_project(tmp_path: Path, tiny_files: Path) -> None:
    (tmp_path / "beside").symlink_to(tiny_files)
    project = tmp_path / "project"
    project.mkdir()
    datasets.fetch("tiny", ["../beside"], project, tmp_path / "downloads", tmp_path / "raw")
    assert names(tmp_path / "raw") == names(tiny_files)


def test_a_server_is_a_source_and_is_asked_once(tmp_path: Path, mirror: Mirror) -> None:
    mirror.requests.clear()
    fetch(tmp_path, mirror.url)
    assert len(mirror.requests) == 4
    raw = fetch(tmp_path, mirror.url)
    assert len(mirror.requests) == 4
    assert len(datasets.read_part(raw, "train")[1]) == TRAIN


def test_a_kept_file_that_was_damaged_is_fetched_again(tmp_path: Path, mirror: Mirror) -> None:
    fetch(tmp_path, mirror.url)
    kept = tmp_path / "downloads" / IMAGES
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    mirror.requests.clear()
    fetch(tmp_path, mirror.url)
    assert mirror.requests == [f"/{IMAGES}"]


def test_a_wrong_checksum_names_file_source_and_both_hashes(
    tmp_path: Path, tiny_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    for name in names(tiny_files):
        (bad / name).write_bytes((tiny_files / name).read_bytes())
    (bad / LABELS).write_bytes(b"something else")
    raw = fetch(tmp_path, str(bad), str(tiny_files))
    warning = capsys.readouterr().err
    for part in (LABELS, str(bad), datasets.DATASETS["tiny"].sha256[LABELS], datasets._sha256(bad / LABELS)):
        assert part in warning
    assert (raw / LABELS).read_bytes() == (tiny_files / LABELS).read_bytes()


class Trouble(BaseHTTPRequestHandler):
    """A mirror with one bad day per path."""

    def do_GET(self) -> None:
        trouble = self.path.split("/")[1]
        if trouble == "busy":
            self.send_error(503)
        elif trouble == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
        elif trouble == "half":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 500)
        elif trouble == "html":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Please log in</html>")
        elif trouble == "hang":
            time.sleep(3)
        elif trouble in ("trickle", "flood"):
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):  # whoever asked has gone
                for _ in range(300 if trouble == "trickle" else 10_000):
                    self.wfile.write(b"x" if trouble == "trickle" else b"x" * 1000)
                    time.sleep(0.01 if trouble == "trickle" else 0)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def trouble() -> Iterator[str]:
    yield from serve(Trouble)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("busy", "HTTP 503"),
        ("loop", "too many redirects"),
        ("half", "the connection broke half-way"),
        ("html", "wrong checksum"),
        ("hang", "no answer"),
        ("trickle", "not complete after 1 s"),
        ("flood", "more than 500,000 bytes"),
    ],
)
def test_a_bad_mirror_gives_way_to_the_next_source(
    tmp_path: Path,
    tiny_files: Path,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: str,
    reason: str,
) -> None:
    monkeypatch.setattr(datasets, "TIMEOUT", 0.5)
    monkeypatch.setattr(datasets, "PATIENCE", 1)
    monkeypatch.setattr(datasets, "LARGEST", 500_000)
    raw = fetch(tmp_path, trouble + path, str(tiny_files))
    assert names(raw) == names(tmp_path / "downloads") == names(tiny_files)
    assert reason in capsys.readouterr().err


def test_a_folder_that_somebody_asked_for_is_missed(
    tmp_path: Path, tiny_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for mine, reason in (
        ("nowhere", "no such folder"),
        ("ftp://x/", "neither a folder nor"),
        ("http://[::1", "://[::1"),
    ):
        arguments = ([mine, str(tiny_files)], tmp_path, tmp_path / "downloads" / mine[:3], tmp_path / "raw", mine)
        datasets.fetch("tiny", *arguments)
        assert reason in capsys.readouterr().err
    datasets.fetch("tiny", [f"file://{tiny_files}"], tmp_path, tmp_path / "new", tmp_path / "raw")
    assert capsys.readouterr().err == ""


def test_with_no_source_left_one_sentence_says_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError) as raised:
        fetch(tmp_path, "nowhere", "http://127.0.0.1:1/")
    sentence = str(raised.value)
    assert "\n" not in sentence
    for part in (IMAGES, "nowhere: no such folder", "http://127.0.0.1:1/: can't be reached", "MNISTFLOW_SOURCE"):
        assert part in sentence
    assert not (tmp_path / "raw").exists()
    assert not any((tmp_path / "downloads").iterdir())


def test_digits_need_no_source_and_are_the_same_every_time(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        datasets.fetch("digits", [], tmp_path, tmp_path / "downloads", tmp_path / folder)
    for name in names(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    for part, count in (("train", 1497), ("t10k", 300)):
        images, labels = datasets.read_part(tmp_path / "one", part)
        assert images.shape == (count, 28, 28)
        assert images.max() == 255
        assert set(labels) == set(range(10))


def test_every_dataset_that_is_downloaded_has_four_checksums() -> None:
    for name, dataset in datasets.DATASETS.items():
        assert len(dataset.classes) == 10
        assert name == "digits" or [len(value) for value in dataset.sha256.values()] == [64] * 4


def test_decoding_gives_back_what_was_encoded(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    datasets.write_idx(tmp_path / "x.gz", values)
    # Against the definition of the format, not against our own writer.
    content = gzip.decompress((tmp_path / "x.gz").read_bytes())
    assert content[:16] == bytes([0, 0, 8, 3]) + struct.pack(">III", 5, 28, 28)
    assert content[16:] == values.tobytes()
    np.testing.assert_array_equal(datasets.read_idx(tmp_path / "x.gz", 3), values)


def pack(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content))
    return path


HEADER = bytes([0, 0, 8, 1])
HEADER3 = bytes([0, 0, 8, 3])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "begins with nothing"),
        (b"\0\0\x08", "begins with 000008"),
        (bytes([0, 0, 9, 1, 0, 0, 0, 0]), "begins with 00000901"),
        (bytes([0, 0, 8, 3, 0, 0, 0, 0]), "begins with 00000803"),
        (HEADER + struct.pack(">I", 5) + b"1234", "promises 5 = 5 bytes, but 4 follow"),
        (HEADER + struct.pack(">I", 2) + b"1234", "promises 2 = 2 bytes, but more follow"),
        (HEADER + struct.pack(">I", 2**32 - 1) + b"1234", "but 4 follow"),
    ],
)
def test_bad_idx_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = pack(tmp_path / "labels.gz", content)
    with pytest.raises(WorkflowError, match=sentence) as raised:
        datasets.read_idx(path, 1)
    assert str(path) in str(raised.value)


def test_what_is_no_whole_gzip_file_is_named(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.gz", HEADER + struct.pack(">I", 100) + bytes(100))
    whole = path.read_bytes()
    flipped = whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:]
    for content in (whole[:-3], whole[:12], flipped, b"plain text"):
        path.write_bytes(content)
        with pytest.raises(WorkflowError, match="not a whole gzip file"):
            datasets.read_idx(path, 1)
    path.unlink()
    with pytest.raises(WorkflowError, match="is missing"):
        datasets.read_idx(path, 1)


def test_files_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    datasets.write_idx(tmp_path / IMAGES, np.zeros((3, 28, 28), np.uint8))
    datasets.write_idx(tmp_path / LABELS, np.array([1, 2], np.uint8))
    with pytest.raises(WorkflowError, match="3 images, but .* 2 labels"):
        datasets.read_part(tmp_path, "train")
    datasets.write_idx(tmp_path / LABELS, np.array([1, 10, 2], np.uint8))
    with pytest.raises(WorkflowError, match="label 10 at position 1 is out of range"):
        datasets.read_part(tmp_path, "train")
    datasets.write_idx(tmp_path / IMAGES, np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(WorkflowError, match="images of 8x8 pixels"):
        datasets.read_part(tmp_path, "train")


def test_the_tiny_files_decode(tiny_files: Path) -> None:
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        images, labels = datasets.read_part(tiny_files, part)
        assert (images.shape, labels.shape) == ((count, 28, 28), (count,))


@settings(max_examples=3000, deadline=None)
@given(
    st.binary(max_size=40)
    | st.tuples(st.sampled_from([HEADER, bytes([0, 0, 8, 3])]), st.binary(max_size=40)).map(b"".join)
)
def test_any_bytes_are_decoded_or_refused_with_a_sentence(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pack(Path(folder, "x.gz"), content)
        for dimensions in (1, 3):
            try:
                values = datasets.read_idx(path, dimensions)
            except WorkflowError as error:
                assert str(error).startswith(str(path))
            else:
                assert values.size == len(content) - 4 - 4 * dimensions


def test_a_header_that_promises_gigabytes_costs_nothing(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.gz", HEADER3 + struct.pack(">III", 2**32 - 1, 2**20, 2**20) + bytes(100))
    tracemalloc.start()
    with pytest.raises(WorkflowError, match="but 100 follow"):
        datasets.read_idx(path, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
