"""The lesson's page has a screen for each idea that applies, steps by keys, computes truly, and fits every screen."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import Project
from test_report import DIGITS, write_outputs

from mnistflow.commands import draw, lesson
from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import md5
from mnistflow.data import arrays
from mnistflow.data.arrays import Description
from mnistflow.evaluation import audit
from mnistflow.figures.lesson import KERNEL, PICTURE, convolve
from mnistflow.training import archive, history
from mnistflow.training.backend import keras, network
from mnistflow.training.history import Epoch

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

layers = keras.layers
SCREENS = [
    "start", "data", "numbers", "onehot", "dense", "kernel", "relu", "pooling", "dropout", "layers", "kernels", "maps",
    "loss", "overfitting", "crossentropy", "results", "errors", "book",
]  # fmt: skip
OVERFITTING = [Epoch(1, 0.5, 0.9, 0.4, 0.9, 0.1), Epoch(2, 0.2, 0.95, 0.3, 0.92, 0.1), Epoch(3, 0.1, 1, 0.5, 0.93, 0.1)]
DISPUTED = [[0, 0, 1, 1, 4], [20, 0, 6, 2, 1]]  # image, label, other, votes for both


def networks(name: str = "cnn", shape: tuple[int, ...] = (28, 28), classes: int = 10) -> lesson.Networks:
    """An untrained network of this project, beside the dense one."""
    keras.utils.set_random_seed(1)
    model = network(name).build(shape, classes)
    rates = {layer.name: layer.rate for layer in model.layers if isinstance(layer, layers.Dropout)}
    units = lesson.dense_units(network("dense").build(shape, classes))
    return lesson.Networks(draw.export(model), rates, {"name": "dense", "units": units})


def write(
    dataset: str = "mnist", explained: lesson.Networks | None = None, shape: tuple[int, ...] = (28, 28), **given: Any
) -> str:
    """The page on random images, in the current folder, where one of the models overfits."""
    write_outputs(shape=shape, **given)
    history.write(Path("models/dense/history.csv"), OVERFITTING)
    classes = given.get("classes", DIGITS)
    prepare = "digit" if len(shape) == 2 else None
    return lesson.render(Description(dataset, shape, classes, 10, prepare), explained or networks(shape=shape))


def screens(text: str) -> list[str]:
    return re.findall(r'<section class="screen[^"]*" id="(\w+)">', text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_a_screen_for_each_idea_and_the_same_outputs_give_the_same_page(folder: Path) -> None:
    text = write(disputed=DISPUTED)
    assert screens(text) == SCREENS
    again = lesson.render(Description("mnist", (28, 28), DIGITS, 10, "digit"), networks())
    assert again == text
    assert "src=" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)


def test_each_text_is_in_both_languages(folder: Path) -> None:
    texts = re.findall(r'<span lang="en">(.*?)</span><span lang="ko">(.*?)</span>', write(disputed=DISPUTED))
    assert len(texts) > 80
    for english, korean in texts:
        assert bool(english) == bool(korean)
        assert not re.search("[가-힣]", english)
        assert "교과서" not in korean
        # Numbers, symbols and names alone may be the same.
        assert re.search("[가-힣]", korean) or english == korean, english


def test_what_does_not_apply_is_absent(folder: Path) -> None:
    colour = (12, 11, 3)
    explained = networks("dense", colour, 3)._replace(dense=None)
    text = write("tiny", explained, colour, classes=["one", "two", "three"])
    absent = {"dense", "dropout", "kernels", "maps", "book"}
    assert screens(text) == [screen for screen in SCREENS if screen not in absent]
    for word in ("The chapter", "The book", "책에", "grey"):
        assert word not in re.sub("<style>.*?</style>|<script.*?</script>", "", text, flags=re.DOTALL)


def test_of_many_classes_the_first_are_shown(folder: Path) -> None:
    names = [f"class {label}" for label in range(30)]
    text = write("tiny", networks("compact", (20, 20), 30), (20, 20), classes=names)
    assert text.count('<div class="images">') == lesson.CLASSES
    assert "The first 12 are shown." in text


def test_names_can_not_end_the_script(folder: Path) -> None:
    names = ["</script><b>", "{{ 1 }}", "'\"&<!--"]
    text = write("tiny", networks("compact", (20, 20), 3), (20, 20), classes=names)
    assert text.count("</script>") == text.count("<script") == 3 + len(lesson.SCRIPTS)


def test_the_model_that_overfits_most_is_named() -> None:
    falls = [Epoch(1, 0.5, 0.9, 0.4, 0.9, 0.1), Epoch(2, 0.2, 0.95, 0.3, 0.92, 0.1)]
    assert lesson.overfitting({"good": falls, "bad": OVERFITTING}) == "bad"
    assert lesson.overfitting({"good": falls}) is None
    diverges = [Epoch(1, 0.5, 0.9, 0.4, 0.9, 0.1), Epoch(2, 0.6, 0.8, 0.6, 0.8, 0.1)]
    assert lesson.overfitting({"diverges": diverges}) is None


@pytest.mark.parametrize(("name", "expected"), [("cnn", ["pool"]), ("compact", ["pool1"]), ("dense", [])])
def test_pooling_before_relu_is_found_where_it_changes_nothing(name: str, expected: list[str]) -> None:
    """Not where batch normalization stands between: its factor may be negative."""
    assert lesson.pools_before_relu(networks(name).explained.layers) == expected


def test_the_dense_network_s_numbers() -> None:
    assert lesson.dense_units(network("dense").build((28, 28), 10)) == [784, 512, 10]
    assert lesson.dense_units(network("cnn").build((28, 28), 10)) == []
    heavy = lesson.heaviest(networks("cnn").explained.layers)
    assert heavy is not None
    assert (heavy["name"], heavy["units"], round(heavy["share"])) == ("hidden", 128, 98)


def test_a_layer_that_the_page_can_t_compute_is_answered_by_the_setting_that_chooses_it(folder: Path) -> None:
    model = keras.Sequential([layers.Input((8, 8, 1)), layers.DepthwiseConv2D(3, name="deep")])
    path = Path("models/unusual/model.keras")
    path.parent.mkdir(parents=True)
    archive.save(path, model)
    Path("dvc.lock").write_text(f"  md5: {md5(path)}\n")
    with pytest.raises(WorkflowError, match=r"the layer deep, of the kind DepthwiseConv2D; .* explain\.model"):
        lesson.load(["unusual"], "unusual")


def test_the_answer_is_the_audit_s(folder: Path) -> None:
    text = write(disputed=DISPUTED)
    answer = audit.answer(lesson.files.read_json(lesson.files.METRICS / "audit.json"))
    assert answer is not None
    assert f'<span lang="en">{answer.word}</span>' in text
    assert f"{answer.undisputed} of the {answer.errors} errors of {answer.model} are on labels that nobody" in text
    assert f"{answer.model}의 오류 {answer.errors}개 가운데 {answer.undisputed}개는" in text


# In a browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lesson") / "lesson.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        path.write_text(write(disputed=DISPUTED), encoding="utf-8")
    return path


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


def show(
    browser: "Chrome", page: Path, size: tuple[int, int] = (1920, 1080), scheme: str = "light", at: str = "en"
) -> Any:
    """Open the page; what runs a script in it."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get("about:blank")  # an address that differs after the # alone would not be loaded anew
    browser.get(f"{page.as_uri()}#{at}")
    return browser.execute_script


def now(run: Any) -> str:
    shown: list[str] = run(
        "return [...document.querySelectorAll('.screen')].filter((each) => each.getClientRects().length)"
        ".map((each) => each.id)"
    )
    (screen,) = shown
    return screen


def press(browser: "Chrome", *keys: str) -> None:
    from selenium.webdriver import ActionChains

    for key in keys:
        ActionChains(browser, duration=0).send_keys(key).perform()


@pytest.mark.slow
def test_keys_step_through_the_screens(window: "Chrome", page: Path) -> None:
    from selenium.webdriver import Keys

    run = show(window, page)
    assert now(run) == "start"
    seen = ["start"]
    for key in (Keys.ARROW_RIGHT, " ", Keys.PAGE_DOWN) * 6:
        press(window, key)
        if now(run) != seen[-1]:
            seen.append(now(run))
    assert seen == SCREENS
    press(window, Keys.ARROW_LEFT)
    assert now(run) == SCREENS[-2]
    assert run("return location.hash") == f"#en-{SCREENS[-2]}"
    press(window, Keys.HOME)
    assert now(run) == "start"
    press(window, Keys.END)
    assert now(run) == SCREENS[-1]
    window.find_element("id", "back").click()
    assert now(run) == SCREENS[-2]


@pytest.mark.slow
def test_where_a_screen_is_higher_than_the_window_keys_scroll_first(window: "Chrome", page: Path) -> None:
    from selenium.webdriver import Keys

    run = show(window, page, (390, 844), at="en-layers")
    offsets = []
    while now(run) == "layers":
        offsets.append(run("return scrollY"))
        press(window, Keys.PAGE_DOWN)
        window.execute_async_script("setTimeout(arguments[0], 200)")
    assert len(offsets) > 1
    assert offsets == sorted(set(offsets))
    assert now(run) == "kernels"
    assert run("return scrollY") == 0
    press(window, Keys.ARROW_UP)
    assert now(run) == "layers"


@pytest.mark.slow
def test_the_switch_changes_the_language_of_the_same_screen(window: "Chrome", page: Path) -> None:
    run = show(window, page, at="en-pooling")
    title = "return document.querySelector('.now h2').innerText"
    assert run(title) == "Pooling: one number for each tile"
    window.find_element("css selector", ".top a[lang=ko]").click()
    assert now(run) == "pooling"
    assert run("return document.documentElement.lang") == "ko"
    assert run(title) == "풀링: 칸마다 수 하나만"
    assert not re.search("[A-Za-z]{4}", run("return document.querySelector('.now').innerText").replace("ReLU", ""))


@pytest.mark.slow
def test_the_kernel_moves_by_mouse_keys_and_clicks_and_its_sums_are_right(window: "Chrome", page: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    run = show(window, page, at="en-kernel")
    expected = convolve(PICTURE, KERNEL)

    def shown() -> tuple[int, int, str]:
        """The place of the frame in the picture, which is that in the result too, and the words below."""
        places = run(
            "return ['kernel-picture', 'kernel-result'].map((id) => {"
            "const mark = document.querySelector(`#${id} .frame`);"
            "return [mark.getAttribute('y') / 60, mark.getAttribute('x') / 60]; })"
        )
        assert places[0] == places[1]
        words = run("return document.getElementById('kernel-sum').textContent").replace("−", "-")
        products, total = words.split(" = ")
        row, column = places[0]
        assert eval(products.replace("·", "*")) == int(total) == expected[row, column]
        return row, column, words

    result = run("return [...document.querySelectorAll('#kernel-result text')].map((each) => each.textContent)")
    assert [int(text.replace("−", "-")) for text in result] == expected.ravel().tolist()
    for row, column in np.ndindex(4, 4):
        selector = f"#kernel-result rect[data-row='{row}'][data-column='{column}']"
        run("document.querySelector(arguments[0]).dispatchEvent(new MouseEvent('click', {bubbles: true}))", selector)
        assert shown()[:2] == (row, column)
    board = window.find_element("id", "kernel-picture")
    side = board.size["width"]
    ActionChains(window).move_to_element(board).click_and_hold().move_by_offset(
        -side // 2 + 9, -side // 2 + 9
    ).release().perform()
    assert shown()[:2] == (0, 0)
    press(window, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)  # the picture has the focus: no step
    assert shown()[:2] == (1, 2)
    assert now(run) == "kernel"
    run("[...document.querySelectorAll('#choices button')].at(1).click()")
    total = convolve(PICTURE, np.array([[-1, -1], [1, 1]]))[1, 2]
    assert run("return document.querySelector('#kernel-sum b').textContent") == str(total) == "0"


@pytest.mark.slow
def test_pooling_says_the_largest_and_the_mean_of_the_chosen_tile(window: "Chrome", page: Path) -> None:
    run = show(window, page, at="en-pooling")
    for (row, column), words in {
        (0, 0): ["max(0, 2, 1, 4) = 4", "(0 + 2 + 1 + 4) / 4 = 1.75"],
        (2, 1): ["max(3, 3, 4, 0) = 4", "(3 + 3 + 4 + 0) / 4 = 2.5"],
    }.items():
        selector = f"#pool-tiles rect[data-row='{row}'][data-column='{column}']"
        run("document.querySelector(arguments[0]).dispatchEvent(new MouseEvent('click', {bubbles: true}))", selector)
        assert run("return document.getElementById('pool-sum').innerText").split("\n") == words


@pytest.mark.slow
def test_arrow_keys_move_the_frame_of_what_has_the_focus(window: "Chrome", page: Path) -> None:
    from selenium.webdriver import Keys

    run = show(window, page, at="en-numbers")
    first = run("return document.getElementById('part').textContent")
    run("document.getElementById('whole').focus()")
    press(window, Keys.ARROW_DOWN, Keys.ARROW_LEFT)
    assert run("return document.getElementById('part').textContent") != first
    assert run("return corner") == [9, 7]
    assert now(run) == "numbers"
    run("location.hash = '#en-pooling'")
    window.execute_async_script("setTimeout(arguments[0], 50)")
    run("document.getElementById('pool-tiles').focus()")
    press(window, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert run("return document.getElementById('pool-sum').innerText").startswith("max(3, 0, 0, 0) = 3")
    assert now(run) == "pooling"


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "ko"])
def test_on_a_phone_what_changes_is_in_sight(window: "Chrome", page: Path, language: str) -> None:
    changes = {"numbers": "part", "onehot": "hot", "kernel": "kernel-sum", "pooling": "pool-sum"}
    changes["kernels"] = "kernel-map"
    run = show(window, page, (390, 844), at=language)
    for screen, element in changes.items():
        run("location.hash = arguments[0]", f"{language}-{screen}")
        window.execute_async_script("setTimeout(arguments[0], 50)")
        bottom = "return document.querySelector(arguments[0]).getBoundingClientRect()[arguments[1]]"
        assert run(bottom, f"#{element}", "bottom") <= run(bottom, ".steps", "top"), screen


@pytest.mark.slow
def test_maps_are_those_of_the_picture_that_one_picks_or_draws(window: "Chrome", page: Path) -> None:
    from selenium.webdriver import ActionChains

    run = show(window, page, at="en-maps")
    picture = "return document.getElementById('tiles').firstChild.toDataURL()"
    first = run(picture)
    window.find_elements("css selector", "#maps .picker button")[7].click()
    second = run(picture)
    assert first != second
    label, pixels = run("return [IMAGES[picked].label, [...IMAGES[picked].pixels]]")
    training = arrays.load(page.parent / "data/training")
    assert pixels == training.images[int((training.labels == label).argmax())].ravel().tolist()
    expected = run("return [...forward(Float32Array.from(arguments[0]))[FIRST]]", pixels)
    assert run("return [...activations[FIRST]]") == expected
    field = window.find_element("id", "draw-field")
    ActionChains(window).move_to_element_with_offset(field, -60, -60).click_and_hold().move_by_offset(
        120, 0
    ).move_by_offset(-60, 120).release().perform()
    window.execute_async_script("setTimeout(arguments[0], 300)")
    assert run(picture) not in (first, second)
    assert run("return document.querySelectorAll('#tiles canvas').length") == 32
    window.find_elements("css selector", "#stages button")[1].click()
    assert run("return document.querySelectorAll('#tiles canvas').length") == 64


@pytest.mark.slow
def test_a_click_enlarges_a_picture_and_another_closes_it(window: "Chrome", page: Path) -> None:
    run = show(window, page, at="en-errors")
    window.find_element("css selector", "#errors img").click()
    width, height = run(
        "const b = document.querySelector('dialog img').getBoundingClientRect(); return [b.width, b.height]"
    )
    assert width > 1000
    assert height > 800
    press(window, "\ue00c")  # Escape
    assert not run("return document.querySelector('dialog').open")
    assert now(run) == "errors"


@pytest.mark.slow
@pytest.mark.parametrize("key", ["\ue007", " "], ids=["enter", "space"])
@pytest.mark.parametrize("screen", ["data", "relu", "dense", "maps", "loss", "errors"])
def test_a_key_enlarges_the_picture_that_has_the_focus_and_escape_closes_it(
    window: "Chrome", page: Path, screen: str, key: str
) -> None:
    run = show(window, page, at=f"en-{screen}")
    run("document.body.focus()")
    while not run("return document.activeElement.matches('.now .zoom')"):
        press(window, "\ue004")  # Tab
    focused = run("return document.activeElement")
    press(window, key)
    assert run("return document.querySelector('dialog img, dialog svg, dialog canvas').clientWidth") > 1000
    assert now(run) == screen
    press(window, "\ue00c")  # Escape
    assert not run("return document.querySelector('dialog').open")
    assert run("return document.activeElement") == focused


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize(
    ("size", "scheme"), [((390, 844), "dark"), ((1280, 720), "light"), ((1920, 1080), "dark"), ((1920, 1080), "light")]
)
def test_every_screen_fits_and_numbers_can_be_read_from_the_last_row(
    window: "Chrome", page: Path, language: str, size: tuple[int, int], scheme: str
) -> None:
    run = show(window, page, size, scheme, language)
    for screen in SCREENS:
        run("location.hash = arguments[0]", f"{language}-{screen}")
        window.execute_async_script("setTimeout(arguments[0], 50)")
        assert now(run) == screen
        assert run("return document.documentElement.scrollWidth") <= size[0], screen
        if size[0] > 600:
            assert run("const m = document.querySelector('main'); return m.scrollHeight - m.clientHeight") <= 0, screen
            assert run("return document.documentElement.scrollHeight") <= size[1], screen
        if size[0] == 1920:
            assert run(SMALL_NUMBERS) == [], screen
    paper = run("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


SMALL_NUMBERS = r"""
    const walk = document.createTreeWalker(document.querySelector('.now'), NodeFilter.SHOW_TEXT), small = [];
    while (walk.nextNode()) {
      const text = walk.currentNode.textContent.trim(), element = walk.currentNode.parentElement;
      if (!/\d/.test(text) || !element.getClientRects().length) continue;
      const scale = element.ownerSVGElement ? element.getScreenCTM().a : 1;
      const pixels = parseFloat(getComputedStyle(element).fontSize) * scale;
      if (pixels < 24 - 0.01) small.push(`${text}: ${pixels}`);
    }
    return small;"""


@pytest.mark.slow
def test_it_prints_a_screen_a_page_in_colour(window: "Chrome", page: Path) -> None:
    import base64

    show(window, page, scheme="dark")
    printed = window.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True, "printBackground": False})
    content = base64.b64decode(printed["data"])
    assert len(re.findall(rb"/Type\s*/Page\b", content)) == len(SCREENS)


@pytest.mark.slow
def test_the_command_writes_the_page_of_a_project(repro: Project) -> None:
    output = repro.run("python", "-m", "mnistflow.commands.lesson", PYTHONPATH="src")
    assert re.search(r"^lesson\.html: with compact, 0\.\d MB; open it in a browser$", output, re.MULTILINE)
    text = (repro.folder / "lesson.html").read_text(encoding="utf-8")
    assert "book" not in screens(text)
    assert "maps" in screens(text)
