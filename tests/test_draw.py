"""The page to draw on computes what Keras and the preparation compute, and works by hand, by keys and with files."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import TEST, Project, digits
from PIL import Image
from test_preparation import photo

from mnistflow.commands import draw
from mnistflow.core.errors import WorkflowError
from mnistflow.data import arrays, decoding, preparation
from mnistflow.data.arrays import Description, Split
from mnistflow.training import archive
from mnistflow.training.backend import keras

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

layers = keras.layers
COMMAND = ("python", "-m", "mnistflow.commands.draw")
TITLES = {"en": "Draw, and look inside the network", "ko": "직접 그리고, 신경망 속을 들여다보기"}


def network(*middle: Any, shape: tuple[int, ...] = (12, 11, 3), classes: int = 10) -> Any:
    """A network with these layers between pixels and probabilities; its numbers are random, also its statistics."""
    end = (layers.Flatten(), layers.Dense(classes, activation="softmax"))
    model = keras.Sequential([layers.Input(shape, dtype="uint8"), layers.Rescaling(1 / 255), *middle, *end])
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.1, 0.6, each.shape) - 0.2 * (each.ndim > 1) for each in model.get_weights()])
    return model


def description(shape: tuple[int, ...], classes: list[str] | None = None, prepare: str | None = None) -> Description:
    return Description("tiny", shape, classes or list("0123456789"), 50, prepare)


def write(folder: Path, model: Any, dataset: Description, shown: draw.Examples | None = None) -> Path:
    path = folder / "page.html"
    path.write_text(draw.render("tried", model, dataset, shown), encoding="utf-8")
    return path


# Without a browser


def test_layers_are_exported_with_the_places_of_their_weights() -> None:
    model = network(layers.Conv2D(4, (3, 2), strides=2, padding="same", activation="relu", name="conv"))
    exported, weights = draw.export(model)
    conv = exported[1]
    assert (conv["kind"], conv["shape"], conv["activation"]) == ("Conv2D", [6, 6, 4], "relu")
    assert (conv["window"], conv["strides"], conv["padding"]) == ([3, 2], [2, 2], "same")
    for (start, length), values in zip(conv["arrays"], model.get_layer("conv").get_weights(), strict=True):
        assert weights[start : start + length].tolist() == values.ravel().tolist()
    assert sum(length for each in exported for _, length in each["arrays"]) == weights.size


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}, {"scale": False, "center": False}])
def test_batch_normalization_becomes_a_factor_and_a_shift(options: dict[str, bool]) -> None:
    model = network(layers.BatchNormalization(name="norm", **options))
    exported, weights = draw.export(model)
    factor, shift = (weights[start : start + length] for start, length in exported[1]["arrays"])
    values = np.random.default_rng(1).random((2, 12, 11, 3), np.float32)
    expected = np.asarray(model.get_layer("norm")(values))
    np.testing.assert_allclose(values * factor + shift, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (lambda: layers.DepthwiseConv2D(3, name="deep"), "the layer deep, of the kind DepthwiseConv2D; only Activ"),
        (lambda: layers.Conv2D(3, 3, groups=3, name="parts"), "the layer parts: its groups is 3; 1 is expected"),
        (lambda: layers.Dense(3, activation="tanh", name="tall"), "the layer tall: its activation is tanh; one of lin"),
        (lambda: layers.ReLU(max_value=6, name="six"), "the layer six: its max_value is 6"),
        (lambda: layers.BatchNormalization(axis=1, name="rows"), "the layer rows: its axis is 1, not the last"),
    ],
)
def test_a_layer_that_the_page_can_t_compute_is_named(layer: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(WorkflowError, match=f"the page can't compute {sentence}"):
        draw.export(network(layer()))


def chain(between: Callable[[Any], Any], after: Callable[[Any], Any] = lambda x: x) -> Any:
    """A functional model with an operation between two layers, or after them."""
    pixels = layers.Input((4,))
    numbers = layers.Dense(4, name="one")(pixels)
    return keras.Model(pixels, after(layers.Dense(4, name="two")(between(numbers))))


def test_a_network_that_is_no_chain_of_layers_is_refused() -> None:
    assert [each["name"] for each in draw.export(chain(lambda x: x))[0]] == ["one", "two"]
    shared = layers.Dense(4, name="shared")
    for model, name in (
        (chain(keras.ops.sin), "the layer two: it does not take what the layer before it gives"),
        (chain(lambda x: shared(shared(x))), "the layer two: it does not"),
        (chain(lambda x: x, keras.ops.sin), "what follows the last layer"),
        (chain(lambda x: layers.Add(name="sum")([x, x])), "the layer sum, of the kind Add"),
    ):
        with pytest.raises(WorkflowError, match=f"the page can't compute {name}"):
            draw.export(model)


def test_a_model_from_an_archive_is_exported_as_the_one_that_was_saved(tmp_path: Path) -> None:
    for model in (network(layers.Conv2D(3, 3), layers.BatchNormalization()), chain(lambda x: x)):
        archive.save(tmp_path / "model.keras", model)
        saved, loaded = draw.export(model), draw.export(archive.load(tmp_path / "model.keras"))
        assert loaded.layers == saved.layers
        assert loaded.weights.tolist() == saved.weights.tolist()


def test_examples_are_a_right_image_of_each_class_then_the_most_confident_errors() -> None:
    labels = np.array([0, 1, 1, 0, 2, 2], np.uint8)
    probabilities = np.eye(3)[[0, 0, 1, 2, 1, 0]] * np.array([[0.9], [0.8], [0.9], [0.95], [0.7], [0.99]])
    split = Split(np.zeros((6, 2, 2), np.uint8), labels)
    assert draw.choose(probabilities, split).tolist() == [0, 2, 5, 3, 1, 4]
    many = np.eye(30)[np.arange(60) % 30]
    split = Split(np.zeros((60, 2, 2), np.uint8), np.where(np.arange(60) < 30, np.arange(60), 0).astype(np.uint8))
    chosen = draw.choose(many, split)
    assert (len(chosen), (chosen < 30).sum()) == (24, 12)


def test_there_are_no_examples_where_the_test_set_is_the_validation_set() -> None:
    dataset = description((12, 11, 3))._replace(validation="test")
    assert draw.examples(network(), dataset) is None


def test_names_can_not_end_the_script() -> None:
    names = ["</script><b>", "{{ 1 }}", "'\"&<!--"]
    text = draw.render("tried", network(classes=3), description((12, 11, 3), names), None)
    assert text.count("</script>") == text.count("<script") == 3 + len(draw.SCRIPTS)
    (facts,) = re.findall(r'<script id="network" type="application/json">(.*)</script>', text)
    assert json.loads(facts)["classes"] == names


# With a browser


@pytest.fixture
def window(browser: "Chrome") -> Iterator["Chrome"]:
    """The browser; what it complains about fails the test."""
    browser.get_log("browser")  # type: ignore[no-untyped-call]
    yield browser
    complaints = browser.get_log("browser")  # type: ignore[no-untyped-call]
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.get("about:blank")
    assert complaints == []


@pytest.fixture(scope="module")
def page(repro: Project) -> Path:
    """The page that the command makes, where there is no test set."""
    shutil.move(repro.folder / "data/test", repro.folder / "away")
    try:
        output = repro.run(*COMMAND, PYTHONPATH="src")
    finally:
        shutil.move(repro.folder / "away", repro.folder / "data/test")
    assert re.search(r"^draw\.html: compact, 0\.\d MB; open it in a browser$", output, re.MULTILINE)
    return repro.folder / "draw.html"


def show(browser: "Chrome", page: Path, language: str = "en") -> Any:
    """Open the page; what runs a script in it, after the page has had its frames."""
    browser.get("about:blank")  # an address that differs after the # alone would not be loaded anew
    browser.get(f"{page.as_uri()}#{language}")

    def run(script: str, *arguments: Any) -> Any:
        browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        return browser.execute_script(script, *arguments)

    return run


def classify(run: Any, images: Any) -> Any:
    """The page's probabilities."""
    script = "return arguments[0].map((pixels) => Array.from(window.classify(Float32Array.from(pixels))))"
    return np.array(run(script, images.reshape(len(images), -1).tolist()))


def check(run: Any, images: Any, expected: Any) -> None:
    found = classify(run, images)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert np.abs(found - expected).max() < 1e-4


def bars(run: Any) -> list[tuple[str, str]]:
    """The names and the probabilities as they are shown."""
    rows = run(
        "return [...document.querySelectorAll('#bars li')].map((row) => [...row.children].map((e) => e.textContent))"
    )
    return [(name, share) for name, _, share in rows]


def text(run: Any, element: str) -> Any:
    """The words in an element, with an x for each multiplication sign."""
    return run("return document.getElementById(arguments[0]).textContent.replaceAll('×', 'x')", element)


def seen(run: Any, shape: tuple[int, ...]) -> Any:
    """The image that the network sees, as it is shown."""
    script = """
        const seen = document.getElementById('seen'), copy = new OffscreenCanvas(seen.width, seen.height);
        const context = copy.getContext('2d');
        context.drawImage(seen, 0, 0);
        return Array.from(context.getImageData(0, 0, seen.width, seen.height).data)"""
    pixels = np.array(run(script), np.uint8).reshape(*shape[:2], 4)
    return pixels[..., 0] if len(shape) == 2 else pixels[..., :3]


def open_file(browser: "Chrome", run: Any, path: Path) -> None:
    """Choose a file, and wait until it is shown or refused."""
    before = run("return steps.length")
    browser.find_element("id", "file").send_keys(str(path))
    until = time.monotonic() + 20
    while not run("return steps.length > arguments[0] || document.getElementById('message').textContent", before):
        assert time.monotonic() < until


def field(run: Any) -> Any:
    """The drawing as a picture in colour."""
    script = """
        const field = document.getElementById('field');
        const pixels = field.getContext('2d').getImageData(0, 0, field.width, field.height);
        return [field.height, field.width, Array.from(pixels.data)]"""
    height, width, values = run(script)
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def stroke(browser: "Chrome", *points: tuple[float, float], kind: str = "mouse") -> None:
    """Draw through points of the field, (0, 0) to (1, 1), with a real mouse or a finger."""
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    element = browser.find_element("id", "field")
    actions = ActionBuilder(browser, mouse=PointerInput(kind, kind), duration=10)  # type: ignore[no-untyped-call]
    for index, (x, y) in enumerate(points):
        place = round((x - 0.5) * element.size["width"]), round((y - 0.5) * element.size["height"])
        actions.pointer_action.move_to(element, *place)  # type: ignore[no-untyped-call]
        if index == 0:
            actions.pointer_action.pointer_down()  # type: ignore[no-untyped-call]
    actions.pointer_action.pointer_up()  # type: ignore[no-untyped-call]
    actions.perform()


SEVEN = ((0.3, 0.25), (0.7, 0.25), (0.5, 0.55), (0.4, 0.85))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compact", "dense"])
def test_all_test_images_get_keras_classes_and_probabilities(window: "Chrome", repro: Project, name: str) -> None:
    repro.run(*COMMAND, name, PYTHONPATH="src")
    run = show(window, repro.folder / "draw.html")
    test = arrays.load(repro.folder / "data/test")
    expected = archive.load(repro.folder / f"models/{name}/model.keras").predict(test.images, verbose=0)
    assert len(expected) == TEST
    check(run, np.asarray(test.images), expected)
    repro.run(*COMMAND, PYTHONPATH="src")


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [(3, 3, 2), (2, 3, 1), (5, 2, 3)])
def test_every_kind_of_layer_gives_keras_numbers(
    window: "Chrome", tmp_path: Path, padding: str, size: tuple[int, int, int]
) -> None:
    *window_size, stride = size
    for end in ([], [layers.GlobalAveragePooling2D()]):
        middle = [
            layers.Conv2D(5, window_size, stride, padding, activation="relu"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.5),
            layers.MaxPooling2D(2, 1, "same"),
            layers.Dense(4, use_bias=False),
            layers.Activation("relu"),
            layers.Reshape((-1, 2, 2)),
            layers.AveragePooling2D((2, 3), 2, "same"),
            layers.Softmax(),
        ]
        model = network(*middle, *end)
        images = np.random.default_rng(2).integers(0, 256, (20, 12, 11, 3), np.uint8)
        run = show(window, write(tmp_path, model, description((12, 11, 3))))
        every = keras.Model(model.inputs, [layer.output for layer in model.layers]).predict(images[:1], verbose=0)
        numbers = images[0].ravel().tolist()
        found = run("return forward(Float32Array.from(arguments[0])).map((each) => [...each])", numbers)
        for layer, values, expected in zip(model.layers, found, every, strict=True):
            np.testing.assert_allclose(values, expected.ravel(), rtol=1e-4, atol=1e-5, err_msg=layer.name)
        check(run, images, model.predict(images, verbose=0))


@pytest.mark.slow
@pytest.mark.parametrize(("padding", "pool"), [("same", 3), ("valid", 2)])
def test_pooling_at_the_border(window: "Chrome", tmp_path: Path, padding: str, pool: int) -> None:
    for kind in (layers.MaxPooling2D, layers.AveragePooling2D):
        model = network(kind(pool, 2, padding))
        images = np.random.default_rng(2).integers(0, 256, (20, 12, 11, 3), np.uint8)
        run = show(window, write(tmp_path, model, description((12, 11, 3))))
        check(run, images, model.predict(images, verbose=0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mouse", "touch"])
def test_drawing_changes_the_bars_and_can_be_undone_and_cleared(window: "Chrome", page: Path, kind: str) -> None:
    run = show(window, page)
    assert bars(run) == [(label, "") for label in "0123456789"]
    stroke(window, *SEVEN, kind=kind)
    first = bars(run)
    assert sum(float(share.removesuffix("%")) for _, share in first) == pytest.approx(100, abs=0.1)
    assert run("return document.querySelectorAll('#layers canvas').length") == 12
    stroke(window, (0.3, 0.85), (0.75, 0.85), kind=kind)
    assert bars(run) != first
    window.find_element("id", "undo").click()
    assert bars(run) == first
    window.find_element("id", "clear").click()
    assert bars(run)[0] == ("0", "")
    window.find_element("id", "undo").click()
    assert bars(run) == first


@pytest.mark.slow
def test_the_keyboard_draws(window: "Chrome", page: Path) -> None:
    from selenium.webdriver import Keys

    run = show(window, page)
    element = window.find_element("id", "field")
    element.send_keys(Keys.ARROW_UP * 3, " ", Keys.ARROW_DOWN * 6, " ", Keys.ARROW_LEFT)
    drawn = field(run)[..., 0] < 128
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    assert np.ptp(rows) > 3 * np.ptp(columns) > 0
    assert bars(run)[1][1]
    before = run("return Number(document.getElementById('brush').value)")
    element.send_keys("+")
    assert run("return Number(document.getElementById('brush').value)") > before
    element.send_keys(Keys.CONTROL, "z")
    assert not bars(run)[1][1]
    element.send_keys(" ", Keys.ARROW_DOWN)
    assert bars(run)[1][1]
    element.send_keys(Keys.DELETE)
    assert not bars(run)[1][1]
    assert (field(run) == 255).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines", [[SEVEN], [((0.1, 0.12), (0.2, 0.15), (0.1, 0.3))], [((0.5, 0.1), (0.5, 0.9)), SEVEN]]
)
def test_a_drawing_is_prepared_as_python_does(window: "Chrome", page: Path, lines: Any) -> None:
    run = show(window, page)
    for points in lines:
        stroke(window, *points)
    expected, done = preparation.digit(np.asarray(Image.fromarray(field(run)).convert("L")), (28, 28))
    assert np.abs(seen(run, (28, 28)).astype(int) - expected).max() <= 2
    assert text(run, "done") == " → ".join(done)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(2))
def test_a_picture_file_is_prepared_as_python_does(window: "Chrome", page: Path, tmp_path: Path, index: int) -> None:
    run, small = show(window, page), digits().images[index]
    pictures = {
        "in form": preparation.digit(small, (28, 28))[0],
        "scan": 255 - np.pad(small, 30),
        "large": np.asarray(Image.fromarray(np.pad(small, 15)).resize((1500, 1300))),
        "photo": photo(small, index),
    }
    for name, picture in pictures.items():
        path = tmp_path / f"{name}.png"
        Image.fromarray(picture).save(path)
        expected, done = preparation.load(path.read_bytes(), (28, 28), "digit")
        open_file(window, run, path)
        assert text(run, "done") == (" → ".join(done) or "as it is")
        assert np.abs(seen(run, (28, 28)).astype(int) - expected).max() <= 3, name


@pytest.mark.slow
def test_a_file_without_a_picture_or_ink_gets_a_sentence(window: "Chrome", page: Path, tmp_path: Path) -> None:
    run = show(window, page)
    (tmp_path / "notes.png").write_text("notes")
    open_file(window, run, tmp_path / "notes.png")
    assert text(run, "message") == "This browser can't open notes.png as a picture."
    Image.new("L", (60, 50), 255).save(tmp_path / "white.png")
    open_file(window, run, tmp_path / "white.png")
    assert text(run, "done") == "Nothing stands out from the background."
    assert bars(run)[0] == ("0", "")


@pytest.mark.slow
def test_other_data_sets_get_the_picture_in_their_shape_and_the_ten_most_probable_of_many_classes(
    window: "Chrome", tmp_path: Path
) -> None:
    names, shape = [f"a rather long name of class {label}" for label in range(30)], (20, 30, 3)
    model = network(shape=shape, classes=30)
    model.set_weights([each / 20 for each in model.get_weights()])  # no probability near 0
    run = show(window, write(tmp_path, model, description(shape, names)))
    stroke(window, *SEVEN)
    Image.fromarray(field(run)).save(tmp_path / "field.png")
    expected = decoding.decode((tmp_path / "field.png").read_bytes(), shape)
    assert np.abs(seen(run, shape).astype(int) - expected).max() <= 2
    picture = np.random.default_rng(3).integers(0, 256, (9, 8, 3), np.uint8).repeat(6, 0).repeat(6, 1)
    Image.fromarray(picture).save(tmp_path / "colours.png")
    open_file(window, run, tmp_path / "colours.png")
    expected = decoding.decode((tmp_path / "colours.png").read_bytes(), shape)
    assert np.abs(seen(run, shape).astype(int) - expected).max() <= 2
    probabilities = model.predict(seen(run, shape)[np.newaxis], verbose=0)[0]
    assert [name for name, _ in bars(run)] == [names[label] for label in np.argsort(-probabilities)[:10]]
    assert run("return document.documentElement.scrollWidth <= innerWidth")
    assert run("return document.getElementById('examples-section').hidden")


@pytest.mark.slow
def test_examples_are_validation_images_and_errors_are_marked(window: "Chrome", repro: Project, page: Path) -> None:
    run = show(window, page)
    validation = arrays.load(repro.folder / "data/validation")
    model = archive.load(repro.folder / "models/compact/model.keras")
    for index in range(run("return EXAMPLES.length")):
        script = "const { image, label, button } = EXAMPLES[arguments[0]]; button.click(); "
        image, label, is_wrong = run(f"{script} return [[...image], label, button.className === 'wrong']", index)
        pixels = np.array(image, np.uint8).reshape(28, 28)
        assert label in validation.labels[(validation.images == pixels).all(axis=(1, 2))]
        assert is_wrong == (model.predict(pixels[np.newaxis], verbose=0).argmax() != label)
        assert seen(run, (28, 28)).tolist() == pixels.tolist()
        assert ("Wrong: the label is" in text(run, "answer")) == is_wrong
    window.execute_async_script("const [done] = arguments; check().then(done)")
    assert "This page computes what Keras computes" in text(run, "checked")


@pytest.mark.slow
def test_an_unsure_answer_is_marked(window: "Chrome", tmp_path: Path) -> None:
    model = network(shape=(28, 28))
    model.set_weights([np.zeros_like(each) for each in model.get_weights()])
    run = show(window, write(tmp_path, model, description((28, 28), prepare="digit")), "ko")
    stroke(window, *SEVEN)
    assert text(run, "answer") == "0?10.00% · 확신 없음: 어느 클래스에도 속하지 않을 수 있음"


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light"), (1920, "dark")])
def test_it_fits_every_screen_in_both_languages(
    window: "Chrome", page: Path, language: str, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    run = show(window, page, language)
    assert run("return document.querySelector('h1').textContent") == TITLES[language]
    assert run("return document.documentElement.lang") == language
    assert run("return document.documentElement.scrollWidth") <= width
    assert run("return performance.getEntriesByType('resource').map((each) => each.name)") == []
    assert run("return WORDS.en && Object.keys(WORDS.en).join() === Object.keys(WORDS.ko).join()")
    missing = "return [...document.querySelectorAll('[data-word]')].filter((each) => !each.textContent).length"
    assert run(missing) == 0
    stroke(window, *SEVEN)
    rows = run("return [...document.querySelectorAll('#bars li')].map((each) => each.getBoundingClientRect())")
    assert len({row["height"] for row in rows}) == 1  # each probability is on one line
    assert rows[-1]["bottom"] <= 900  # in sight while one draws


@pytest.mark.slow
def test_the_command_names_what_it_can_t_compute(repro: Project, tmp_path: Path) -> None:
    model = network(layers.Reshape((28, 28, 1)), layers.DepthwiseConv2D(3, name="deep"), shape=(28, 28))
    archive.save(tmp_path / "deep.keras", model)
    output = repro.run(*COMMAND, str(tmp_path / "deep.keras"), status=1, PYTHONPATH="src")
    assert "error: the page can't compute the layer deep, of the kind DepthwiseConv2D; " in output
    assert "Traceback" not in output
