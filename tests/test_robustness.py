"""Corruptions and occlusion: they do what they say to images of any shape, and give the same bytes each time."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from mnistflow.core.errors import WorkflowError
from mnistflow.data.arrays import Images, Split
from mnistflow.data.background import background
from mnistflow.evaluation import occlusion, predictions, robustness
from mnistflow.evaluation.corruptions import FAMILIES, corrupted, moved

SHAPES = [(28, 28), (9, 40), (1, 1), (64, 48, 3)]
LEVELS = (1, 2, 3)


def strokes(shape: tuple[int, ...] = (28, 28), count: int = 40) -> Images:
    """Light bars of different lengths on a dark ground, not in the middle."""
    images = np.full((count, *shape), 10, np.uint8)
    for index, image in enumerate(images):
        image[shape[0] // 3 : shape[0] // 3 + 8, shape[1] // 4 : shape[1] // 2 + index % 5] = 240
    return images


def centre(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The centre of mass of each grey image: (n, 2)."""
    mass = images.astype(float)
    places = np.indices(mass.shape[1:]).reshape(2, -1)
    return np.asarray((mass.reshape(len(mass), -1) @ places.T) / mass.sum(axis=(1, 2))[:, np.newaxis])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_is_corrupted_and_the_same_each_time(shape: tuple[int, ...], family: str) -> None:
    images = strokes(shape)
    before = images.copy()
    for level in LEVELS:
        result = corrupted(images, family, level)
        assert (result.dtype, result.shape) == (np.uint8, images.shape)
        assert np.array_equal(result, corrupted(images, family, level))
        assert not np.array_equal(result, images) or min(shape[:2]) == 1  # one pixel can't move
    assert np.array_equal(images, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_higher_level_changes_more(family: str) -> None:
    images = strokes()
    changes = [np.abs(corrupted(images, family, level).astype(int) - images).mean() for level in LEVELS]
    assert changes == sorted(changes)
    assert changes[0] < 0.9 * changes[2]


def test_batches_differ_in_what_is_random() -> None:
    for family in ("noise", "shift", "rotation", "occlusion"):
        assert not np.array_equal(corrupted(strokes(), family, 2), corrupted(strokes(), family, 2, part=1)), family


def test_shifts_go_as_far_as_they_say_and_keep_the_ink() -> None:
    images = strokes()
    result = corrupted(images, "shift", 1)
    distance = np.abs(centre(result - 10.0) - centre(images - 10.0)).max(axis=1)
    assert set(distance.round(6)) == {2.0}  # 8% of 28; on the diagonals 1.6, in whole pixels 2
    assert np.array_equal(np.sort(result.reshape(40, -1)), np.sort(images.reshape(40, -1)))


def test_a_quarter_turn_is_exact_and_comes_back() -> None:
    pixels = np.random.default_rng(0).random((3, 7, 7, 2)).astype(np.float32)
    turned = moved(pixels, degrees=90)
    np.testing.assert_allclose(turned, np.rot90(pixels, -1, axes=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(moved(turned, degrees=np.full(3, -90.0)), pixels, atol=1e-5)


def test_shrunk_images_have_the_background_around_them() -> None:
    result = corrupted(np.full((2, 20, 20, 3), (200, 100, 50), np.uint8), "scale", 3)
    assert np.array_equal(result, np.full((2, 20, 20, 3), (200, 100, 50), np.uint8))
    ink = (strokes() > 100).sum(), (corrupted(strokes(), "scale", 3) > 100).sum()
    assert 0.15 < ink[1] / ink[0] < 0.35


def test_contrast_keeps_the_mean_and_occlusion_paints_a_square() -> None:
    images = strokes()
    low = corrupted(images, "contrast", 3)
    np.testing.assert_allclose(low.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=0.5)
    assert np.ptp(low) < 0.2 * np.ptp(images)
    noisy = np.random.default_rng(0).integers(50, 256, (30, 28, 28), dtype=np.uint8)
    noisy[:, [0, -1]], noisy[:, :, [0, -1]] = 0, 0
    covered = corrupted(noisy, "occlusion", 2) != noisy
    rows, columns = covered.any(axis=2).sum(axis=1), covered.any(axis=1).sum(axis=1)
    assert max(rows.max(), columns.max()) == 11
    assert (covered.sum(axis=(1, 2)) == rows * columns).all()


def test_the_background_is_the_border_s_median() -> None:
    images = np.zeros((2, 5, 6, 1), np.uint8)
    images[:, 1:-1, 1:-1] = 255
    images[1, 0] = 9
    images[1, :, 0] = 9
    images[1, -1] = 9
    assert background(images).tolist() == [[[[0.0]]], [[[9.0]]]]


def bright_half(images: Images) -> npt.NDArray[np.float32]:
    """A model: class 0 where the left half is the brighter one, as surely as it is so."""
    grey = images.reshape(*images.shape[:3], -1).mean(axis=3) / 255
    middle = images.shape[2] // 2
    odds = 20 * (grey[:, :, :middle].mean(axis=(1, 2)) - grey[:, :, middle:].mean(axis=(1, 2)))
    first = 1 / (1 + np.exp(-odds))
    return np.stack([first, 1 - first], axis=1).astype(np.float32)


def halves(count: int = 60, shape: tuple[int, ...] = (12, 12)) -> Split:
    """Images with ink on one side; label 0: on the left."""
    images, labels = np.zeros((count, *shape), np.uint8), (np.arange(count) % 2).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        left = 2 if label == 0 else shape[1] - 5
        image[3:9, left : left + 3] = 255
    return Split(images, labels)


def test_scores_count_right_answers_and_come_back_from_their_files(tmp_path: Path) -> None:
    split = halves()
    measured = robustness.measure(bright_half, split)
    assert (measured.images, measured.clean) == (60, 1.0)
    assert set(measured.families) == set(FAMILIES)
    # By hand: what is moved stays on its side at 8% of 12 pixels, and a mirror would be needed to change sides.
    assert measured.families["shift"][0] == measured.families["scale"][2] == measured.families["contrast"][2] == 1
    hidden = [
        (bright_half(corrupted(split.images, "occlusion", level)).argmax(axis=1) == split.labels).mean()
        for level in LEVELS
    ]
    assert measured.families["occlusion"] == hidden
    assert hidden[2] < 1
    assert measured.mean == pytest.approx(np.mean([value for each in measured.families.values() for value in each]))

    robustness.write("cnn", measured, tmp_path)
    assert robustness.read_all(["cnn"], tmp_path) == {"cnn": measured}
    assert len((tmp_path / "cnn.csv").read_text().splitlines()) == 2 + 3 * len(FAMILIES)
    with pytest.raises(WorkflowError, match=r"dense\.csv is missing; `dvc repro` makes it\."):
        robustness.read("dense", tmp_path)
    (tmp_path / "cnn.csv").write_text("corruption,level\n")
    with pytest.raises(WorkflowError, match="is damaged"):
        robustness.read("cnn", tmp_path)


def test_large_images_are_corrupted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = robustness.measure(bright_half, halves())
    monkeypatch.setattr(robustness, "PIXELS", 7 * 144)
    sizes = []

    def watched(images: Images) -> npt.NDArray[np.float32]:
        sizes.append(len(images))
        return bright_half(images)

    parts = robustness.measure(watched, halves())
    assert set(sizes) == {7, 4}
    for family in ("blur", "scale", "contrast"):  # nothing random
        assert parts.families[family] == whole.families[family]


def test_a_large_test_set_is_measured_on_a_fixed_part() -> None:
    chosen = robustness.subset(10_000)
    assert len(set(chosen)) == robustness.IMAGES
    assert np.array_equal(chosen, robustness.subset(10_000))
    assert robustness.subset(100).tolist() == list(range(100))


@pytest.mark.parametrize("shape", [(12, 12), (10, 30, 3), (1, 2)])
def test_evidence_is_where_the_model_looks(shape: tuple[int, ...]) -> None:
    images = np.zeros((3, *shape), np.uint8)
    middle = shape[1] // 2
    images[:, :, :middle], images[:, :, middle:] = 200, 90
    images[:, [0, -1]] = 0
    labels, predicted = np.array([1, 1, 1], np.uint8), np.array([0, 0, 0], np.uint8)
    found = occlusion.evidence(bright_half, images, labels, predicted)
    assert (found.dtype, found.shape) == (np.float32, (3, *shape[:2]))
    if shape[0] > 1:
        assert found[:, :, : middle - 2].mean() > 0 > found[:, :, middle + 2 :].mean()
    assert occlusion.evidence(bright_half, images[:0], labels[:0], predicted[:0]).shape == (0, *shape[:2])


def test_evidence_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A square of one pixel: the evidence of a pixel is what the odds lose without it. In parts, as of large images."""
    image = np.zeros((1, 4, 4), np.uint8)
    image[0, 1, 1], image[0, 2, 2] = 255, 51
    images, ones, zeros = np.repeat(image, 5, axis=0), np.ones(5, np.uint8), np.zeros(5, np.uint8)
    monkeypatch.setattr(occlusion, "PIXELS", 1)
    found = occlusion.evidence(bright_half, images, ones, zeros)
    expected = np.zeros((4, 4))
    expected[1, 1], expected[2, 2] = 20 / 8, -4 / 8
    np.testing.assert_allclose(found, np.repeat(expected[np.newaxis], 5, axis=0), atol=1e-5)


def test_the_most_confident_errors_are_explained(tmp_path: Path) -> None:
    split = halves(60)
    flipped = Split(split.images, (1 - split.labels).astype(np.uint8))
    flipped.images[:, 0, 0] = np.arange(60)
    predictions.write(tmp_path, flipped, bright_half(flipped.images), {"classes": ["a", "b"]})
    evaluation = predictions.read(tmp_path)
    order = evaluation.most_confident_errors(occlusion.MOST)
    found = occlusion.of_errors(bright_half, evaluation)
    assert len(found) == len(order) == occlusion.MOST
    assert (np.diff(evaluation.confidence[evaluation.errors[order]]) <= 0).all()
    np.save(tmp_path / occlusion.FILE, found)
    assert np.array_equal(occlusion.read(tmp_path), found)
    (tmp_path / occlusion.FILE).write_bytes(b"\x93NUMPY")
    with pytest.raises(WorkflowError, match="is damaged"):
        occlusion.read(tmp_path)
