"""The served model takes arrays and pictures, and answers what is neither with one sentence."""

import base64
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Project, client_of, digits, runs, serving
from PIL import Image

from mnistflow.data.preparation import digit

pytestmark = pytest.mark.slow
IMAGES = digits().images[:8]


def in_base64(image: Any, format: str = "PNG") -> str:
    file = BytesIO()
    Image.fromarray(image).save(file, format)
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def server(repro: Project) -> Iterator[str]:
    """The address of a server of a logged model."""
    repro.record()
    model_id = runs(client_of(repro), "tags.model = 'compact'")[0].outputs.model_outputs[0].model_id
    command = ("mlflow", "models", "serve", "--model-uri", f"models:/{model_id}", "--env-manager", "local")
    with serving(repro, "ping", *command) as address:
        yield address


def ask(server: str, inputs: Any) -> tuple[int, Any]:
    """The status and the body of the answer."""
    body = json.dumps({"inputs": inputs}).encode()
    request = urllib.request.Request(server + "invocations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_pictures_get_the_answers_of_their_prepared_images(server: str) -> None:
    prepared = np.stack([digit(image, (28, 28))[0] for image in IMAGES])
    status, expected = ask(server, prepared.tolist())
    assert status == 200
    paper = [255 - np.pad(image, 40) for image in IMAGES]
    pictures = [in_base64(image) for image in paper[:-1]]
    pictures += ["data:image/png;base64,\n" + in_base64(paper[-1])]
    status, got = ask(server, pictures)
    assert status == 200
    assert got["predictions"]["class"] == expected["predictions"]["class"]
    assert np.allclose(got["predictions"]["probabilities"], expected["predictions"]["probabilities"], atol=1e-5)
    assert ask(server, [in_base64(paper[0], "JPEG")])[0] == 200


def test_arrays_are_answered_as_they_are(server: str) -> None:
    status, got = ask(server, IMAGES.tolist())
    assert status == 200
    assert np.shape(got["predictions"]["probabilities"]) == (8, 10)


RAW = IMAGES.astype(float)
# Rows of different lengths do not get past MLflow, which refuses them in its own words.
WRONG = {
    "scaled": ((RAW / 255).tolist(), "image 0 has values from 0 to 0.9"),
    "standardised": (((RAW / 255 - 0.1307) / 0.3081).tolist(), "image 0 has values from -0.42"),
    "one scaled among raw ones": ([*RAW[:3].tolist(), (RAW[3] / 255).tolist()], "image 3 has values"),
    "inverted": ((255 - RAW).tolist(), "image 0 has a light border"),
    "no image": ([], r"the input has the shape (0,)"),
    "another size": (RAW[:, :20].tolist(), "the input has the shape (8, 20, 28)"),
    "of different sizes": ([RAW[0].tolist(), RAW[1, :20].tolist()], "Invalid input."),
    "an image without a batch": (RAW[0].tolist(), "the input has the shape (28, 28)"),
    "a number": (7, "the input has the shape ()"),
    "nothing": ([None], "the input is no array of numbers"),
    "no base64": ([in_base64(IMAGES[0]), "no base64!"], "picture 1 is no base64"),
    "base64 of no picture": ([base64.b64encode(b"text").decode()], "picture 0 can't be classified"),
    "half a picture": ([in_base64(IMAGES[0])[:120]], "picture 0 can't be classified"),
    "an empty string": ([""], "picture 0 can't be classified"),
    "a blank picture": ([in_base64(np.full((50, 50), 255, np.uint8))], "picture 0 can't be classified: no ink"),
    "pictures and arrays": ([in_base64(IMAGES[0]), RAW[0].tolist()], "Invalid input."),
    "pictures and numbers": ([in_base64(IMAGES[0]), 7], "picture 1 is no base64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_refused_in_one_sentence(server: str, name: str) -> None:
    inputs, sentence = WRONG[name]
    status, answer = ask(server, inputs)
    assert status == 400, answer
    assert answer["message"].startswith(sentence)
    assert answer["message"].endswith(".")
    assert len(answer["message"]) < 300


def test_the_documented_command(server: str, tmp_path: Path) -> None:
    Image.fromarray(255 - IMAGES[0]).save(tmp_path / "seven.png")
    page = (Path(__file__).parent.parent / "docs/predict.md").read_text()
    (command,) = (block for block in page.split("```") if "curl" in block)
    command = command.replace("http://127.0.0.1:5001/", server)
    answer = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert len(json.loads(answer)["predictions"]["class"]) == 1
