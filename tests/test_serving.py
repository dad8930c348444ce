"""The served model answers raw images, and refuses what would get a sure wrong answer."""

from typing import Any

import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from mnistflow.data.arrays import Split
from mnistflow.tracking.serving import Classifier


class Constant:
    """Stands for a Keras model: the same answer for every image."""

    def predict(self, images: Any, verbose: int) -> Any:
        return np.full((len(images), 10), 0.1, np.float32)


def classifier(prepare: str | None = "digit") -> Classifier:
    return Classifier(Constant(), {"shape": [28, 28], "prepare": prepare})


def test_raw_images_are_answered_whatever_their_type(tiny: tuple[Split, Split]) -> None:
    images = np.asarray(tiny[1].images[:5])
    for given in (images, images.tolist(), images.astype(float)):
        answer = classifier().predict(given)
        assert answer["class"].shape == (5,)
        assert answer["probabilities"].shape == (5, 10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x / 255, "image 0 has values"),
        (lambda x: (x / 255 - 0.1307) / 0.3081, "image 0 has values"),
        (lambda x: np.concatenate([x[:2], x[2:] / 255]), "image 2 has values"),
        (lambda x: np.floor(x / 16), "image 0 has values from 0 to 15"),
        (lambda x: 15 - np.floor(x / 16), "image 0 has values from 0 to 15"),
        (lambda x: 1 - x / 255, "image 0 has values"),
        (lambda x: x / 127.5 - 1, "image 0 has values"),
        (lambda x: 255 - x, "image 0 has a light border"),
        (lambda x: 64 - np.floor(x / 4), "image 0 has a light border"),
        (lambda x: np.floor((255 - x) / 3), "image 0 has a light border"),  # a dim photo
        (lambda x: 200 - np.floor(x / 2), "image 0 has a light border"),  # grey paper
        (lambda x: x * 0 + 255, "image 0 has a light border"),
        (lambda x: x[:0], "the input has the shape (0, 28, 28)"),
        (lambda x: x[:, :20], "the input has the shape"),
        (lambda x: x.astype(str), "the input is no array of numbers"),
        (lambda x: [[1, 2], [3]], "the images are not all of one size"),
        (lambda x: x - 1.0, "image 0 has values from -1"),
        (lambda x: np.where(x > 9, np.nan, x), "image 0 has values"),
        (lambda x: x * 0, "image 0 has values from 0 to 0"),
    ],
)
def test_other_input_is_refused_in_a_sentence(tiny: tuple[Split, Split], change: Any, words: str) -> None:
    with pytest.raises(MlflowException) as error:
        classifier().predict(change(np.asarray(tiny[1].images[:3]).astype(float)))
    assert str(error.value.message).startswith(words)


def test_a_light_border_is_right_where_images_are_no_digits(tiny: tuple[Split, Split]) -> None:
    assert len(classifier(None).predict(255 - np.asarray(tiny[1].images[:3]))["class"]) == 3
