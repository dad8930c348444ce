"""Splits are disjoint, stratified and repeatable; the files that hold them are plain."""

from pathlib import Path

import numpy as np
import pytest

from mnistflow import splits
from mnistflow.splits import Split
from mnistflow.workspace import WorkflowError

LABELS = np.random.default_rng(0).choice(10, 2000, p=np.arange(1, 11) / 55).astype(np.uint8)


def test_the_two_sides_are_disjoint_and_complete() -> None:
    train, held_out = splits.hold_out(LABELS, 300, seed=1)
    assert (len(train), len(held_out)) == (1700, 300)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(2000))


def test_each_class_is_held_out_in_its_share() -> None:
    _, held_out = splits.hold_out(LABELS, 300, seed=1)
    expected = np.array(splits.class_counts(LABELS)) * 300 / 2000
    assert np.abs(np.array(splits.class_counts(LABELS[held_out])) - expected).max() <= 1


def test_the_seed_decides() -> None:
    first, again, other = (splits.hold_out(LABELS, 300, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_class_too_small_to_divide_is_an_error() -> None:
    with pytest.raises(WorkflowError, match="can't be held out"):
        splits.hold_out(np.array([0] * 50 + [1], np.uint8), 10, seed=1)


def test_a_split_is_read_memory_mapped_and_never_written(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    splits.save(tmp_path, Split(images, np.arange(4, dtype=np.uint8)))
    split = splits.load(tmp_path)
    assert isinstance(split.images, np.memmap)
    np.testing.assert_array_equal(split.images, images)
    with pytest.raises(ValueError, match="read-only"):
        split.images[0] = 0
    assert {path.name for path in tmp_path.iterdir()} == {"images.npy", "labels.npy"}


def test_damaged_files_are_named(tmp_path: Path) -> None:
    good = Split(np.zeros((4, 28, 28), np.uint8), np.arange(4, dtype=np.uint8))
    path = tmp_path / "images.npy"
    with pytest.raises(WorkflowError, match=r"images\.npy is missing"):
        splits.load(tmp_path)
    splits.save(tmp_path, good)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:20], b"", b"not numpy at all"):
        path.write_bytes(content)
        with pytest.raises(WorkflowError, match=r"images\.npy is damaged"):
            splits.load(tmp_path)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(WorkflowError, match=r"images\.npy is damaged"):
        splits.load(tmp_path)
    np.save(path, np.zeros((3, 28, 28), np.uint8))
    with pytest.raises(WorkflowError, match="uint8 .n, 28, 28. and uint8 .n,. are expected"):
        splits.load(tmp_path)


def test_one_hot_and_text() -> None:
    assert splits.one_hot(3) == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    rows = splits.as_text(np.arange(28 * 28, dtype=np.uint16).reshape(28, 28).astype(np.uint8)).splitlines()
    assert len(rows) == 28
    assert [int(value) for value in rows[1].split()] == list(range(28, 56))


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    split = Split(np.zeros((4, 28, 28), np.uint8), np.arange(4, dtype=np.uint8))
    for name, each in (("one", split), ("same", split), ("other", Split(split.images, split.labels[::-1]))):
        splits.save(tmp_path / name, each)
    assert splits.sha256(tmp_path / "one") == splits.sha256(tmp_path / "same") != splits.sha256(tmp_path / "other")


def test_images_on_disk_are_taken_as_those_in_memory_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    splits.save(tmp_path, Split(images, np.zeros(20, np.uint8)))
    mapped = splits.load(tmp_path).images
    for indices in ([3, 0, 19, 3], [], [7]):
        chosen = np.array(indices, np.intp)
        np.testing.assert_array_equal(splits.take(mapped, chosen), images[chosen])
        np.testing.assert_array_equal(splits.take(images, chosen), images[chosen])
    np.testing.assert_array_equal(splits.take(mapped[5:], np.array([0, 3])), images[[5, 8]])
