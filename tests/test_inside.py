"""The pictures for a class are true: their numbers are those that arithmetic and Keras give."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from mnistflow import cells, figures, inside
from mnistflow.backend import keras

DIGITS = list("0123456789")
RANDOM = np.random.default_rng(0)


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def activations(maps: int = 5) -> dict[str, np.ndarray]:
    """What a small network with the CNN's layers might make of an image."""
    wide = RANDOM.normal(size=(24, 24, maps)).astype(np.float32)
    pooled = wide.reshape(12, 2, 12, 2, maps).max(axis=(1, 3))
    relu = np.maximum(pooled, 0)
    scaled = RANDOM.random((28, 28)).astype(np.float32)
    return {
        "scale": scaled,
        "channel": scaled[..., np.newaxis],
        "conv1": RANDOM.random((26, 26, 3)).astype(np.float32),
        "conv2": wide,
        "pool": pooled,
        "relu2": relu,
        "dropout1": relu,
        "flatten": relu.ravel(),
        "probabilities": np.eye(10, dtype=np.float32)[4],
    }


def test_the_example_can_be_checked_by_hand() -> None:
    assert inside.convolve(inside.PICTURE, inside.KERNEL).tolist() == [[1, 4, 1], [3, 3, -2], [4, 0, -4]]


def test_a_convolution_is_what_keras_calls_one() -> None:
    layer = keras.layers.Conv2D(1, 3, use_bias=False)
    image, kernel = RANDOM.random((6, 7)).astype(np.float32), RANDOM.random((3, 3)).astype(np.float32)
    layer.build((None, 6, 7, 1))
    layer.set_weights([kernel[..., np.newaxis, np.newaxis]])
    expected = np.asarray(layer(image[np.newaxis, ..., np.newaxis]))[0, ..., 0]
    np.testing.assert_allclose(inside.convolve(image, kernel), expected, rtol=1e-5)


def test_what_is_marked_as_kept_is_what_keras_keeps() -> None:
    values = RANDOM.normal(size=(7, 8)).astype(np.float32)
    kept = inside.kept(values)
    expected = np.asarray(keras.layers.MaxPooling2D(2)(values[np.newaxis, ..., np.newaxis])).ravel()
    assert sorted(values[kept]) == sorted(expected)
    assert not kept[6].any()  # an odd edge fills no tile
    assert inside.kept(np.zeros((2, 2))).tolist() == [[True, False], [False, False]]


def test_every_product_and_sum_is_shown() -> None:
    figure = inside.convolution(inside.PICTURE, inside.KERNEL).figure
    sums = [(ax.get_xlabel(), ax.get_title()) for ax in figure.axes if ax.get_xlabel()]
    assert len(sums) == 9
    assert sums[1] == ("0·(−1) + 2·1 + 1·(−1) + 3·1", "= 4")
    assert sums[8] == ("3·(−1) + 1·1 + 2·(−1) + 0·1", "= −4")
    for products, total in sums:
        assert eval(products.replace("·", "*").replace("−", "-")) == int(total[2:].replace("−", "-"))


def test_pooling_shows_tiles_and_their_largest() -> None:
    tiles, largest = inside.pooling(inside.convolve(inside.PICTURE, inside.KERNEL)).figure.axes
    assert texts(tiles) == ["1", "4", "1", "3", "3", "−2", "4", "0", "−4"]
    assert [text.get_text() for text in tiles.texts if text.get_weight() == "bold"] == ["4", "1", "4", "−4"]
    assert texts(largest) == ["4", "1", "4", "−4"]
    same = keras.layers.MaxPooling2D(2, padding="same")
    result = inside.convolve(inside.PICTURE, inside.KERNEL).astype(np.float32)
    assert np.asarray(same(result[np.newaxis, ..., np.newaxis])).ravel().tolist() == [4, 1, 4, -4]


def test_the_numbers_are_those_of_the_marked_part() -> None:
    image = RANDOM.integers(0, 256, (28, 28), dtype=np.uint8)
    whole, part = inside.as_numbers(image, "4").figure.axes
    square = whole.patches[0]
    column, row = (round(at + 0.5) for at in square.get_xy())
    assert texts(part) == [str(value) for value in image[row : row + 10, column : column + 10].ravel()]


def test_every_kernel_has_its_map() -> None:
    kernels, maps = RANDOM.normal(size=(3, 3, 11)), RANDOM.random((26, 26, 11))
    axes = inside.learned_kernels(kernels, maps).figure.axes
    shown = [ax.images[0].get_array() for ax in axes]
    assert len(shown) == 22
    np.testing.assert_array_equal(shown[6], kernels[..., 3])
    np.testing.assert_array_equal(shown[7], maps[..., 3])
    assert axes[0].images[0].norm(0.0) == 0.5  # white is zero


def test_layers_that_change_nothing_are_left_out_and_maps_keep_their_places() -> None:
    made = activations(maps=12)
    figure = inside.feature_maps(made, DIGITS).figure
    headings = [words[0].splitlines() for ax in figure.axes if (words := texts(ax))]
    assert [heading for heading in headings if heading[0] in made] == [
        ["scale", "28 x 28"],
        ["conv1", "26 x 26", "3 maps"],
        ["conv2", "24 x 24", "12 maps"],
        ["pool", "12 x 12", "12 maps"],
        ["relu2", "12 x 12", "12 maps"],
        ["probabilities", "10"],
    ]
    shown = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    best = int(made["conv2"].max(axis=(0, 1)).argmax())
    for place, name in ((1 + 3, "conv2"), (1 + 3 + 8, "pool"), (1 + 3 + 16, "relu2")):
        np.testing.assert_array_equal(shown[place], made[name][..., best])
    (bars,) = (ax for ax in figure.axes if len(texts(ax)) == 10)
    assert texts(bars) == ["0.0%"] * 4 + ["100.0%"] + ["0.0%"] * 5


@pytest.mark.parametrize("peak", [(0, 0), (11, 23), (23, 12)])
def test_what_is_kept_comes_out(peak: tuple[int, int]) -> None:
    made = activations()
    made["conv2"][*peak, 2] = 9
    made["pool"] = made["conv2"].reshape(12, 2, 12, 2, -1).max(axis=(1, 3))
    before, after, part, out = inside.what_pooling_keeps(made["conv2"], made["pool"]).figure.axes
    np.testing.assert_array_equal(before.images[0].get_array(), made["conv2"][..., 2])
    np.testing.assert_array_equal(after.images[0].get_array(), made["pool"][..., 2])
    cut, result = np.asarray(part.images[0].get_array()), np.asarray(out.images[0].get_array())
    assert cut.shape == (8, 8)
    assert result.max() == 9
    np.testing.assert_array_equal(cut.reshape(4, 2, 4, 2).max(axis=(1, 3)), result)
    dots = np.asarray(before.collections[0].get_offsets()).astype(int)
    assert sorted(made["conv2"][row, column, 2] for column, row in dots) == sorted(made["pool"][..., 2].ravel())


def test_numbers_are_written_as_a_class_writes_them() -> None:
    values = (3, -4, 0.254, -0.001, 1.26, -12.34)
    assert [cells.text(value) for value in values] == ["3", "−4", "0.25", "0.00", "1.3", "−12.3"]


def test_every_picture_is_the_same_bytes_again_and_has_words(tmp_path: Path) -> None:
    image, made = RANDOM.integers(0, 256, (28, 28), dtype=np.uint8), activations()
    names = ["T-shirt/top", "ankle boot", *DIGITS[2:]]
    for folder in ("once", "again"):
        pictures = inside.pictures(image, names[0], np.zeros((3, 3, 3)), made, names)
        for picture in pictures:
            figures.save(tmp_path / folder / picture.name, picture.figure)
    assert len({picture.name for picture in pictures}) == 6
    for picture in pictures:
        assert picture.title
        assert len(picture.caption) > 80
        assert (tmp_path / "once" / picture.name).read_bytes() == (tmp_path / "again" / picture.name).read_bytes()
