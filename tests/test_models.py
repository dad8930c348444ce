"""The networks are the ones that are promised, and their files are the same every time."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from mnistflow import models
from mnistflow.backend import keras, make_reproducible
from mnistflow.params import ModelName
from mnistflow.workspace import WorkflowError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize(("name", "parameters"), [("dense", 407_050), ("cnn", 1_199_882), ("compact", 29_610)])
def test_parameters_at_the_shape_that_is_trained(name: str, parameters: int) -> None:
    model = models.MODELS[name]()
    assert model.input_shape == (None, 28, 28)
    assert model.output_shape == (None, 10)
    assert model.count_params() == parameters


def test_every_model_has_its_settings() -> None:
    assert set(models.MODELS) == set(get_args(ModelName))


@pytest.mark.parametrize("name", models.MODELS)
def test_raw_pixels_become_probabilities(name: str) -> None:
    probabilities = models.MODELS[name]().predict(PIXELS, verbose=0)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_pooling_before_relu_is_the_book_s_function() -> None:
    layers = keras.layers
    book = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    ours = models.cnn()
    book.set_weights(ours.get_weights())
    expected = book.predict(PIXELS[..., np.newaxis].astype(np.float32) / 255, verbose=0)
    np.testing.assert_allclose(ours.predict(PIXELS, verbose=0), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", models.MODELS)
def test_save_and_load_predict_the_same_from_the_same_bytes(name: str, tmp_path: Path) -> None:
    make_reproducible(1)
    model = models.MODELS[name]()
    models.save(tmp_path / "one.keras", model)
    loaded = models.load(tmp_path / "one.keras")
    np.testing.assert_array_equal(loaded.predict(PIXELS, verbose=0), model.predict(PIXELS, verbose=0))
    make_reproducible(1)
    models.save(tmp_path / "two.keras", models.MODELS[name]())
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "two.keras").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one.keras", "two.keras"}


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with pytest.raises(WorkflowError, match=r"model\.keras is missing"):
        models.load(path)
    models.save(path, models.dense())
    whole = path.read_bytes()
    middle = len(whole) // 2
    for content in (b"", whole[:1000], whole[:-1], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        path.write_bytes(content)
        with pytest.raises(WorkflowError, match=r"model\.keras is damaged"):
            models.load(path)
