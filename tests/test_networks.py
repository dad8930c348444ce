"""The networks are the ones that are promised, and their files are the same every time."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mnistflow import networks
from mnistflow.core import params
from mnistflow.core.errors import WorkflowError
from mnistflow.training import archive
from mnistflow.training.backend import build, make_reproducible, network

# isort: split
import book  # bench/book.py, after Keras' settings

# A network without softmax.
LOGITS = """
from keras import Sequential, layers
def build(shape, classes):
    return Sequential([layers.Input(shape), layers.Flatten(), layers.Dense({units})])
"""
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "parameters"), [("dense", 407_050), ("cnn", 1_199_882), ("compact", 64_618), ("accurate", 284_202)]
)
def test_parameters_at_the_shape_that_is_trained(name: str, parameters: int) -> None:
    model = network(name).build((28, 28), 10)
    assert model.input_shape == (None, 28, 28)
    assert model.output_shape == (None, 10)
    assert model.count_params() == parameters


@pytest.mark.parametrize("name", params.networks())
@pytest.mark.parametrize(("shape", "classes"), [((64, 48, 3), 3), ((32, 32), 47)])
def test_networks_follow_shape_and_classes(name: str, shape: tuple[int, ...], classes: int) -> None:
    model = network(name).build(shape, classes)
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, classes)


@pytest.mark.parametrize(("name", "shape"), [("compact", (8, 8)), ("compact", (15, 64, 3)), ("cnn", (5, 5))])
def test_too_small_images_are_told_in_a_sentence(name: str, shape: tuple[int, ...]) -> None:
    size = "x".join(map(str, shape))
    with pytest.raises(WorkflowError, match=f"network {name} can't be built for images of {size}: "):
        build(name, shape, 3)


@pytest.mark.parametrize("name", params.networks())
def test_raw_pixels_become_probabilities(name: str) -> None:
    probabilities = network(name).build((28, 28), 10).predict(PIXELS, verbose=0)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_pooling_before_relu_is_the_book_s_function() -> None:
    ours, printed = network("cnn").build((28, 28), 10), book.cnn()
    printed.set_weights(ours.get_weights())
    expected = printed.predict(PIXELS[..., np.newaxis].astype(np.float32) / 255, verbose=0)
    np.testing.assert_allclose(ours.predict(PIXELS, verbose=0), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", params.networks())
def test_save_and_load_predict_the_same_from_the_same_bytes(name: str, tmp_path: Path) -> None:
    make_reproducible(1)
    model = network(name).build((28, 28), 10)
    archive.save(tmp_path / "one.keras", model)
    loaded = archive.load(tmp_path / "one.keras")
    np.testing.assert_array_equal(loaded.predict(PIXELS, verbose=0), model.predict(PIXELS, verbose=0))
    make_reproducible(1)
    archive.save(tmp_path / "two.keras", network(name).build((28, 28), 10))
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "two.keras").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one.keras", "two.keras"}


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with pytest.raises(WorkflowError, match=r"model\.keras is missing"):
        archive.load(path)
    archive.save(path, network("dense").build((28, 28), 10))
    whole = path.read_bytes()
    middle = len(whole) // 2
    for content in (b"", whole[:1000], whole[:-1], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        path.write_bytes(content)
        with pytest.raises(WorkflowError, match=r"model\.keras is damaged"):
            archive.load(path)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "has no attribute 'build'"),
        ("def build(shape, classes):\n    return None\n", "gives no Keras model"),
        (LOGITS.format(units="classes"), "probabilities that add up to 1"),
        (LOGITS.format(units="3"), "last layer gives 10 probabilities"),
    ],
)
def test_a_network_that_gives_no_probabilities_is_one_sentence(
    code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong.py").write_text(code)
    monkeypatch.setattr(networks, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mnistflow.networks.wrong", raising=False)
    with pytest.raises(WorkflowError, match=reason):
        build("wrong", (28, 28), 10)
