"""Pictures of digits become images as MNIST has them, and what is none is refused."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import digits
from PIL import Image
from scipy import ndimage

from mnistflow.data import decoding, preparation
from mnistflow.data.preparation import NoInkError, digit

SIZE = (28, 28)


def in_form(index: int) -> Any:
    """A digit of scikit-learn's, in MNIST's form."""
    return digit(np.pad(digits().images[index], 30), SIZE)[0]


def corner(image: Any) -> Any:
    """The image with its ink in the upper left corner."""
    rows, columns = ndimage.find_objects((image > 0).astype(int))[0]
    moved = np.zeros_like(image)
    moved[: rows.stop - rows.start, : columns.stop - columns.start] = image[rows, columns]
    return moved


def photo(image: Any, seed: int = 0) -> Any:
    """Dark ink on paper in uneven light, with noise and a shadow: a digit 160 pixels high of 400x500."""
    random, (height, width) = np.random.default_rng(seed), (400, 500)
    ink = np.zeros((height, width))
    ink[80:304, 120:344] = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)) / 255
    y, x = np.mgrid[:height, :width]
    light = (130 + 0.15 * x + 0.1 * y) * np.where(y + 2 * x > 1000, 0.7, 1)
    return (light * (1 - 0.7 * ink) + random.normal(0, 5, ink.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("index", range(10))
def test_an_image_in_mnists_form_comes_through_unchanged(index: int) -> None:
    image = in_form(index)
    assert digit(image, SIZE)[0].tolist() == image.tolist()
    assert digit(image, SIZE)[1] == []
    inverted, done = digit(255 - image, SIZE)
    assert inverted.tolist() == image.tolist()
    assert done == ["inverted"]


@pytest.mark.parametrize("index", range(10))
@pytest.mark.parametrize("change", [lambda x: np.pad(x, 36), corner, lambda x: x.repeat(3, 0).repeat(3, 1), photo])
def test_place_size_and_light_do_not_count(change: Any, index: int) -> None:
    image, moves = in_form(index), [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    again = digit(change(image), SIZE)[0]
    # A centre of mass between two pixels may be rounded to the other one.
    assert max(np.corrcoef(np.roll(again, move, (0, 1)).ravel(), image.ravel())[0, 1] for move in moves) > 0.9


@pytest.mark.parametrize("index", range(10))
def test_the_ink_is_as_large_and_where_mnists_is(index: int) -> None:
    image = digit(photo(in_form(index)), SIZE)[0]
    rows, columns = ndimage.find_objects((image > 0).astype(int))[0]
    assert max(rows.stop - rows.start, columns.stop - columns.start) == 20
    assert image.max() > 240
    assert np.allclose(ndimage.center_of_mass(image), 14, atol=0.51)


def test_it_says_what_it_did() -> None:
    _, done = digit(photo(in_form(0)), SIZE)
    assert [words.split()[0] for words in done] == ["inverted", "background", "cropped", "scaled", "centred"]


def test_another_size() -> None:
    image, _ = digit(photo(in_form(0)), (32, 48))
    rows, columns = ndimage.find_objects((image > 0).astype(int))[0]
    assert image.shape == (32, 48)
    assert max(rows.stop - rows.start, columns.stop - columns.start) == 23


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("shape", [SIZE, (1, 1), (2, 3), (200, 3000)])
def test_nothing_written(level: int, shape: tuple[int, int]) -> None:
    with pytest.raises(NoInkError, match="no ink"):
        digit(np.full(shape, level, np.uint8), SIZE)


def test_noise_and_a_shadow_are_no_ink() -> None:
    with pytest.raises(NoInkError, match="no ink"):
        digit(photo(np.zeros(SIZE, np.uint8)), SIZE)


@pytest.mark.parametrize("shape", [(1, 2), (2, 2), (3, 3), (1, 500), (5, 2000)])
def test_any_picture_gives_an_image_or_a_reason(shape: tuple[int, int]) -> None:
    for seed in range(20):
        try:
            image, _ = digit(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8), SIZE)
        except NoInkError:
            continue
        assert image.shape == SIZE


def test_a_picture_of_another_data_set_is_resized(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    image, done = preparation.load(path.read_bytes(), (40, 60, 3), None)
    assert image.tolist() == pixels.tolist()
    assert done == []
    image, done = preparation.load(path.read_bytes(), (20, 20), None)
    assert image.shape == (20, 20)
    assert done == ["resized from 60x40"]


def test_a_large_jpeg_is_seen_as_in_training() -> None:
    file = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 600, 3)).astype(np.uint8)).save(file, "JPEG")
    image, done = preparation.load(file.getvalue(), (32, 48, 3), None)
    assert np.array_equal(image, decoding.decode(file.getvalue(), (32, 48, 3)))
    assert done == ["resized from 600x400"]


def test_what_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(in_form(0)).save(path)
    for content in (b"", b"text", path.read_bytes()[:100]):
        with pytest.raises(decoding.PictureError):
            preparation.load(content, SIZE, "digit")
