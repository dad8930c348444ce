"""The lesson's pictures are true: their numbers are those that arithmetic and Keras give, for any network."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from mnistflow.data import arrays
from mnistflow.data.arrays import Split
from mnistflow.figures import cells, lesson, style
from mnistflow.figures.lesson import Convolution, Picture, Pooling

DIGITS = list("0123456789")
RANDOM = np.random.default_rng(0)
EXAMPLE = lesson.convolve(lesson.PICTURE, lesson.KERNEL)
ALL = ["numbers.png", "convolution.png", "pooling.png", "kernels.png", "layers.png", "pooled.png"]


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def by_file(pictures: list[Picture]) -> dict[str, Picture]:
    return {picture.file: picture for picture in pictures}


def activations(maps: int = 5) -> dict[str, np.ndarray]:
    """What a small network with the layers of the book's CNN might make of an image."""
    wide = RANDOM.normal(size=(24, 24, maps)).astype(np.float32)
    pooled = lesson.tile_maxima(wide, 2)
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


def image(*shape: int) -> Any:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def test_the_example_can_be_checked_by_hand() -> None:
    assert EXAMPLE.tolist() == [[0, 2, 3, -1], [1, 4, 0, -4], [3, 3, -3, -3], [4, -1, -3, -1]]


def test_a_convolution_is_that_of_keras() -> None:
    from mnistflow.training.backend import keras

    layer = keras.layers.Conv2D(1, 3, use_bias=False)
    picture, kernel = RANDOM.random((6, 7)).astype(np.float32), RANDOM.random((3, 3)).astype(np.float32)
    layer.build((None, 6, 7, 1))
    layer.set_weights([kernel[..., np.newaxis, np.newaxis]])
    expected = np.asarray(layer(picture[np.newaxis, ..., np.newaxis]))[0, ..., 0]
    np.testing.assert_allclose(lesson.convolve(picture, kernel), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [2, 3])
def test_the_marked_maxima_are_those_that_keras_passes_on(size: int) -> None:
    from mnistflow.training.backend import keras

    values = RANDOM.normal(size=(7, 8)).astype(np.float32)
    expected = np.asarray(keras.layers.MaxPooling2D(size)(values[np.newaxis, ..., np.newaxis]))[0, ..., 0]
    np.testing.assert_array_equal(lesson.tile_maxima(values, size), expected)
    assert sorted(values[lesson.maxima(values, size)]) == sorted(expected.ravel())
    assert not lesson.maxima(values, size)[6].any()  # an edge that fills no tile
    assert lesson.maxima(np.zeros((2, 2))).tolist() == [[True, False], [False, False]]


def test_every_product_and_sum_is_shown() -> None:
    figure = lesson.convolution_example(lesson.PICTURE, lesson.KERNEL).figure
    sums = [(ax.get_xlabel(), ax.get_title()) for ax in figure.axes if ax.get_xlabel()]
    assert len(sums) == 16
    assert sums[5] == ("0·(−1) + 2·1 + 1·(−1) + 3·1", "= 4")
    assert sums[15] == ("1·(−1) + 0·1 + 0·(−1) + 0·1", "= −1")
    for products, total in sums:
        assert eval(products.replace("·", "*").replace("−", "-")) == int(total[2:].replace("−", "-"))


def test_the_pooling_example_is_that_of_keras() -> None:
    from mnistflow.training.backend import keras

    values = np.maximum(EXAMPLE, 0)
    tiles, largest, mean = lesson.pooling_example(values).figure.axes
    assert texts(tiles) == [str(value) for value in values.ravel()]
    assert [text.get_text() for text in tiles.texts if text.get_weight() == "bold"] == ["3", "4", "0", "4"]
    assert texts(largest) == ["4", "3", "4", "0"]
    assert texts(mean) == ["1.75", "0.75", "2.5", "0"]
    image = values.astype(np.float32)[np.newaxis, ..., np.newaxis]
    for kind, expected in (
        (keras.layers.MaxPooling2D, [4, 3, 4, 0]),
        (keras.layers.AveragePooling2D, [1.75, 0.75, 2.5, 0]),
    ):
        assert np.asarray(kind(2)(image)).ravel().tolist() == expected


def test_relu_before_max_pooling_gives_what_it_gives_after_it() -> None:
    before, after = lesson.tile_maxima(np.maximum(EXAMPLE, 0), 2), np.maximum(lesson.tile_maxima(EXAMPLE, 2), 0)
    assert before.tolist() == after.tolist() != lesson.tile_maxima(EXAMPLE, 2).tolist()
    assert (lesson.tile_means(np.maximum(EXAMPLE, 0), 2) != np.maximum(lesson.tile_means(EXAMPLE, 2), 0)).any()


@pytest.mark.parametrize(("shape", "side"), [((28, 28), 10), ((40, 30, 3), 8), ((6, 9), 10)])
def test_the_numbers_are_those_of_the_marked_part(shape: tuple[int, ...], side: int) -> None:
    pixels = image(*shape)
    whole, part = lesson.image_as_numbers(pixels, "4").figure.axes
    frame = whole.patches[0]
    column, row = (round(at + 0.5) for at in frame.get_xy())
    height, width = (min(side, length) for length in shape[:2])
    assert (frame.get_height(), frame.get_width()) == (height, width)
    cut = pixels[row : row + height, column : column + width].reshape(height * width, -1)
    assert texts(part) == ["\n".join(map(str, numbers)) for numbers in cut]


def test_every_kernel_has_its_map() -> None:
    kernels, maps = RANDOM.normal(size=(3, 3, 1, 11)), RANDOM.random((26, 26, 11))
    picture = lesson.learned_kernels(kernels, maps)
    shown = [ax.images[0].get_array() for ax in picture.figure.axes]
    assert len(shown) == 22
    np.testing.assert_array_equal(shown[6], kernels[..., 0, 3])
    np.testing.assert_array_equal(shown[7], maps[..., 3])
    assert picture.figure.axes[0].images[0].norm(0.0) == 0.5  # white is zero
    assert picture.caption.en.startswith("The 11 kernels")
    assert "channels" not in picture.caption.en


def test_kernels_of_colour_and_in_number_are_told_in_the_caption() -> None:
    kernels, maps = RANDOM.normal(size=(7, 7, 3, 40)), RANDOM.random((26, 26, 40)) - 0.5
    maps[..., 5] = -1
    picture = lesson.learned_kernels(kernels, maps)
    assert len(picture.figure.axes) == 64
    np.testing.assert_array_equal(picture.figure.axes[0].images[0].get_array(), kernels[:, :, 0, 0])
    assert picture.caption.en.startswith("The first 32 of the 40 kernels")
    assert "each of the 3 channels" in picture.caption.en
    assert "An empty map" in picture.caption.en


def test_layers_that_change_nothing_are_left_out_and_maps_keep_their_columns() -> None:
    outputs = activations(maps=12)
    picture = lesson.layer_outputs(image(28, 28), outputs, DIGITS)
    axes = picture.figure.axes
    headings = [words[0].splitlines() for ax in axes if (words := texts(ax))]
    assert [heading for heading in headings if heading[0] in outputs] == [
        ["scale", "28 × 28"],
        ["conv1", "26 × 26 × 3"],
        ["conv2", "24 × 24 × 12"],
        ["pool", "12 × 12 × 12"],
        ["relu2", "12 × 12 × 12"],
        ["probabilities", "10"],
    ]
    shown = [ax.images[0].get_array() for ax in axes if ax.images]
    best = int(outputs["conv2"].max(axis=(0, 1)).argmax())
    for index, name in ((1 + 3, "conv2"), (1 + 3 + 8, "pool"), (1 + 3 + 16, "relu2")):
        np.testing.assert_array_equal(shown[index], outputs[name][..., best])
    (bars,) = (ax for ax in axes if len(texts(ax)) == 10)
    assert texts(bars) == ["0.0%"] * 4 + ["100.0%"] + ["0.0%"] * 5
    assert "the blue is gone" in picture.caption.en
    assert "10 probabilities" in picture.caption.en


def test_a_dense_network_s_caption_speaks_of_no_maps() -> None:
    outputs = {"scale": RANDOM.random((28, 28)), "hidden": RANDOM.random(512), "probabilities": np.full(3, 1 / 3)}
    picture = lesson.layer_outputs(image(28, 28), outputs, list("abc"))
    assert "map" not in picture.caption.en
    assert not any("map" in word for ax in picture.figure.axes for word in texts(ax))


def test_the_most_probable_of_many_classes_are_shown() -> None:
    probabilities = np.arange(100) / np.arange(100).sum()
    outputs = {"scale": RANDOM.random((28, 28)), "probabilities": probabilities}
    picture = lesson.layer_outputs(image(28, 28), outputs, [f"n{label}" for label in range(100)])
    ticks = [text.get_text() for text in picture.figure.axes[-1].get_xticklabels()]
    assert ticks == [f"n{label}" for label in range(99, 87, -1)]
    assert picture.caption.en.endswith("100 probabilities that add up to 1. The 12 largest are shown.")


@pytest.mark.parametrize("peak", [(0, 0), (11, 23), (23, 12)])
def test_what_pooling_passes_on_comes_out(peak: tuple[int, int]) -> None:
    outputs = activations()
    outputs["conv2"][*peak, 2] = 9
    outputs["pool"] = lesson.tile_maxima(outputs["conv2"], 2)
    figure = lesson.pooled_map(outputs["conv2"], outputs["pool"], Pooling("conv2", "pool", 2)).figure
    before, after, part, result = figure.axes
    np.testing.assert_array_equal(before.images[0].get_array(), outputs["conv2"][..., 2])
    np.testing.assert_array_equal(after.images[0].get_array(), outputs["pool"][..., 2])
    cut, out = np.asarray(part.images[0].get_array()), np.asarray(result.images[0].get_array())
    assert cut.shape == (8, 8)
    assert out.max() == 9
    np.testing.assert_array_equal(lesson.tile_maxima(cut, 2), out)
    dots = np.asarray(before.collections[0].get_offsets()).astype(int)
    assert sorted(outputs["conv2"][row, column, 2] for column, row in dots) == sorted(outputs["pool"][..., 2].ravel())


@pytest.mark.parametrize(("shape", "size"), [((2, 2), 2), ((7, 11), 3), ((5, 40), 2)])
def test_pooling_of_any_size_can_be_drawn(shape: tuple[int, int], size: int, tmp_path: Path) -> None:
    before = RANDOM.normal(size=(*shape, 4))
    picture = lesson.pooled_map(before, lesson.tile_maxima(before, size), Pooling("a", "b", size))
    style.save(tmp_path / picture.file, picture.figure)
    assert f"each {size} × {size} tile" in picture.caption.en


def test_numbers_have_a_short_form() -> None:
    values = (3, -4, 0.254, -0.001, 1.26, -12.34)
    assert [cells.text(value) for value in values] == ["3", "−4", "0.25", "0.00", "1.3", "−12.3"]


def test_every_picture_is_the_same_bytes_again_and_has_a_caption(tmp_path: Path) -> None:
    pixels, outputs = image(28, 28), activations()
    names = ["T-shirt/top", "ankle boot", *DIGITS[2:]]
    parts = Convolution("conv1", np.zeros((3, 3, 1, 3))), Pooling("conv2", "pool", 2)
    for folder in ("once", "again"):
        pictures = lesson.pictures(pixels, 0, outputs, names, *parts)
        for picture in pictures:
            style.save(tmp_path / folder / picture.file, picture.figure)
    assert [picture.file for picture in pictures] == ALL
    for picture in pictures:
        assert all(picture.title)
        assert len(picture.caption.en) > 80
        assert re.search("[가-힣]", picture.caption.ko)
        # A machine may have no font for Korean, and one picture serves both languages.
        assert picture.figure.get_suptitle() == ""
        assert (tmp_path / "once" / picture.file).read_bytes() == (tmp_path / "again" / picture.file).read_bytes()


def explain(network: Any, shape: tuple[int, ...], classes: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the stage in the current folder on a network; return the files in inside/captions.json."""
    from mnistflow.core import files, params
    from mnistflow.training import archive

    monkeypatch.setattr(files, "check_locked", lambda path: None)
    monkeypatch.setattr(archive, "load", lambda path: network)
    settings = params.ExplainSettings(model="cnn", label=1)
    monkeypatch.setattr(params, "load", lambda: SimpleNamespace(explain=settings))
    arrays.save(arrays.DATA / "validation", Split(image(6, *shape), np.array([0, 0, 1, 2, 0, 1], np.uint8)))
    monkeypatch.setattr(arrays, "describe", lambda: SimpleNamespace(classes=classes))
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "stages")
    sys.modules.pop("explain", None)
    import explain as stage

    stage.main()
    assert Path("plots/layers.png").read_bytes() == Path("inside/layers.png").read_bytes()
    captions = json.loads(Path("inside/captions.json").read_text(encoding="utf-8"))
    assert all(row["title"] and row["caption"] and row["ko"]["title"] and row["ko"]["caption"] for row in captions)
    named = [row["file"] for row in captions]
    assert sorted(named) == sorted(path.name for path in Path("inside").glob("*.png"))
    return named


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("cnn", (28, 28), ALL),
        pytest.param("compact", (20, 26, 3), ALL, marks=pytest.mark.slow),
        ("dense", (7, 5, 3), [file for file in ALL if file not in ("kernels.png", "pooled.png")]),
    ],
)
def test_the_stage_explains_any_network(
    name: str, shape: tuple[int, ...], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnistflow.training import backend

    monkeypatch.chdir(tmp_path)
    network = backend.network(name).build(shape, 3)
    assert explain(network, shape, ["one", "two", "three"], monkeypatch) == expected


def test_a_pooling_whose_tiles_overlap_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mnistflow.training.backend import keras

    monkeypatch.chdir(tmp_path)
    layers = keras.layers
    network = keras.Sequential(
        [
            layers.Input((12, 12), dtype="uint8"),
            layers.Reshape((12, 12, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, name="first"),
            layers.MaxPooling2D(3, strides=1),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    assert explain(network, (12, 12), list("abc"), monkeypatch) == ALL[:-1]
