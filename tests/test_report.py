"""The report is one page that is whole, says what the outputs say, follows the data, and looks right in a browser."""

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pytest
from conftest import TEST, Project, runs
from PIL import Image
from ruamel.yaml import YAML

from mnistflow.commands import report
from mnistflow.core.errors import WorkflowError
from mnistflow.data import arrays
from mnistflow.data.arrays import Split
from mnistflow.data.catalog import Dispute
from mnistflow.evaluation import audit, comparisons, metrics, occlusion, predictions, robustness
from mnistflow.evaluation.corruptions import FAMILIES
from mnistflow.evaluation.robustness import Scores
from mnistflow.training import history
from mnistflow.training.history import Epoch

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

MODELS = ("dense", "compact")
SECTIONS = (
    "Results",
    "Data and networks",
    "Curves",
    "Confusion",
    "Calibration",
    "Robustness",
    "Shared errors",
    "Errors",
    "Inside the network",
    "Parameters",
    "Provenance",
    "How to reproduce",
)
DIGITS = list("0123456789")
SIZES = (("dense", 407_050, 194), ("cnn", 1_199_882, 60), ("compact", 29_610, 52), ("wide", 900_000, 50))
HOSTILE = ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "</style>{{ 1 }}"]


def write_outputs(
    classes: list[str] = DIGITS,
    *,
    shape: tuple[int, ...] = (8, 6),
    models: tuple[str, ...] = ("cnn", "dense"),
    images: int = 60,
    disputed: list[list[int]] = [],  # noqa: B006
    source: str = "https://example.org/tiny/",
    selected_on: str = "validation",
) -> None:
    """Write into the current folder all that the page is made from: random images, a tenth of them misclassified."""
    random = np.random.default_rng(0)
    settings = {
        "seed": 1,
        "epochs": 3,
        "batch_size": 10,
        "optimizer": "adam",
        "learning_rate": 0.001,
        "beta_2": 0.99,
        "schedule": "constant",
        "patience": 3,
    }
    params = {
        "fetch": {"dataset": "tiny"},
        "split": {"validation": 10, "seed": 1},
        "models": {name: {"network": "cnn", **settings} for name in models},
        "evaluate": {"model": models[0], "baseline": models[-1], "target_accuracy": 0.5},
        "explain": {"model": models[0], "label": 0},
    }
    roles = ("train_images", "train_labels", "test_images", "test_labels")
    entry = {
        "format": "idx",
        "classes": classes,
        "files": {role: {"name": f"{role}.gz", "sha256": str(number) * 64} for number, role in enumerate(roles)},
        "sources": [source],
        "disputed": disputed,
    }
    for name, content in (("params.yaml", params), ("datasets.yaml", {"tiny": entry})):
        with Path(name).open("w", encoding="utf-8") as file:
            YAML().dump(content, file)

    test = Split(
        random.integers(0, 256, (images, *shape), dtype=np.uint8), (np.arange(images) % len(classes)).astype(np.uint16)
    )
    rows = [Epoch(number, 0.5 / number, 0.9, 0.6 / number, 0.9, 0.001) for number in (1, 2, 3)]
    for name in models:
        predicted = test.labels.copy()
        predicted[::10] = (predicted[::10] + 1) % len(classes)
        probabilities = random.random((images, len(classes))).astype(np.float32) / len(classes)
        probabilities[np.arange(images), predicted] += 1
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        values = metrics.headline(probabilities, test.labels)
        values |= {"parameters": 1234, "best_epoch": 3, "selected_on": selected_on}
        predictions.write(
            Path("evaluation", name), test, probabilities, {"model": name, "classes": classes, "metrics": values}
        )
        evidence = random.normal(size=((images + 9) // 10, *shape[:2])).astype(np.float32)
        np.save(Path("evaluation", name, occlusion.FILE), evidence[: occlusion.MOST])
        robustness.write(name, Scores(images, 0.9, {family: [0.8, 0.7, 0.123] for family in FAMILIES}))
        Path("models", name).mkdir(parents=True)
        history.write(Path("models", name, "history.csv"), rows)
        Path("models", name, "summary.txt").write_text("layer, shape, parameters")
        Path("models", name, "training.json").write_text(json.dumps({"epochs": 3, "training_sha256": "c0ffee"}))
    evaluations = predictions.read_all(sorted(models))
    comparison = {
        "target_accuracy": 0.5,
        "target_met": True,
        "pairs": comparisons.pairs(evaluations, models[-1], models[0]),
    }
    audited = audit.audit(evaluations, [Dispute(*row) for row in disputed])
    for path, content in (("metrics/comparison.json", comparison), ("metrics/audit.json", audited)):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(json.dumps(content))
    for part in ("training", "validation"):
        arrays.save(arrays.DATA / part, test)
    for folder in ("data/overview", "inside", "plots"):
        Path(folder).mkdir()
    Image.new("RGB", (40, 20)).save("data/overview/samples.png")
    Image.new("RGB", (40, 20)).save("plots/robustness.png")
    Image.new("RGB", (40, 20)).save("inside/layers.png")
    captions = [{"file": "layers.png", "title": "A title", "caption": "A caption."}]
    Path("inside/captions.json").write_text(json.dumps(captions))

    outs = ["data/training", "data/overview", "metrics/cnn.json", *(f"models/{name}/model.keras" for name in models)]
    locked = {"stages": {path: {"outs": [{"path": path, "md5": f"md5 of {path}"}]} for path in outs}}
    with Path("dvc.lock").open("w") as file:
        YAML().dump(locked, file)
    Path("requirements.lock").write_text("")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder of its own, outside of any Git repository."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    return tmp_path / "here"


def headings(text: str) -> list[str]:
    """The titles of the sections, each of which is in the navigation."""
    titles: dict[str, str] = dict(re.findall(r'<h2 id="(\w+)">([^<]*)</h2>', text))
    assert re.findall(r'<li><a href="#(\w+)">([^<]*)</a></li>', text) == list(titles.items())
    return list(titles.values())


def test_each_model_has_a_row_with_its_metrics(folder: Path) -> None:
    write_outputs()
    text = report.render()
    assert re.findall(r'<tr(?: class="chosen")?><th scope="row">(\w+)</th><td>1,234', text) == ["dense", "cnn"]
    row = re.search(r'class="chosen"><th scope="row">cnn</th>.*', text)
    assert row
    values = predictions.read(Path("evaluation/cnn")).metrics
    for key in ("accuracy", "balanced_accuracy", "accuracy_low", "accuracy_high"):
        assert f"{values[key]:.2%}" in row[0]
    assert "<td>6</td>" in row[0]
    assert "3 of 3" in row[0]
    assert "cnn against dense: +0.00 points; 0 errors fixed, 0 introduced" in text
    assert "cnn classifies 90.00% of 60 test images correctly" in text


def test_a_smaller_network_with_more_right_answers_is_named() -> None:
    rows = {name: {"parameters": parameters, "errors": errors} for name, parameters, errors in SIZES}
    pairs = [{"model": name, "baseline": "cnn", "mcnemar_p": 0.3} for name in rows]
    (better,) = report.smaller_and_better(rows, "cnn", pairs)
    assert better == {"model": "compact", "times": 41, "more": 8, "p": 0.3}


def test_a_target_of_zero_is_none_and_no_checksum_is_made_up(folder: Path) -> None:
    write_outputs()
    text = report.render()
    assert "meets</b> the target of 50.00%" in text
    assert f"SHA-256 {'0' * 64}" in text
    comparison = Path("metrics/comparison.json")
    comparison.write_text(comparison.read_text().replace('"target_accuracy": 0.5', '"target_accuracy": 0'))
    entries = Path("datasets.yaml").read_text().replace(f"sha256: '{'0' * 64}'", f"md5: {'ab' * 16}")
    Path("datasets.yaml").write_text(entries.replace(f"      sha256: '{'1' * 64}'\n", ""))
    text = report.render()
    assert "the target of" not in text
    assert f"MD5 {'ab' * 16}" in text
    assert "train_labels.gz" not in text
    assert " None<" not in text


def test_sections_and_navigation_follow_the_data(folder: Path) -> None:
    write_outputs(disputed=[[10, 0, 1, 1, 4], [3, 3, 5, 2, 2]])
    text = report.render()
    assert "Was the book right?" in headings(text)
    assert "people: 1\u00a0×4, 0\u00a0×1" in text
    assert "1 of them are not shown" in text


def test_the_data_are_described_in_a_sentence(folder: Path) -> None:
    write_outputs()
    words = " ".join(report.render().split())
    assert "tiny has 10 classes and grey images of 8 × 6 pixels." in words
    assert "60 training images. 60 validation images choose the best epoch, and 60 test images measure" in words


def test_what_does_not_apply_is_absent(folder: Path) -> None:
    write_outputs(models=("cnn",))
    Path("inside/captions.json").write_text("[]")
    text = report.render()
    assert headings(text) == [each for each in SECTIONS if each not in ("Shared errors", "Inside the network")]
    assert "The chapter" not in text
    assert "dispute" not in text


def test_shared_errors_are_candidates_for_wrong_labels_where_nobody_was_asked(folder: Path) -> None:
    write_outputs()
    text = report.render()
    assert headings(text) == list(SECTIONS)
    assert "their labels may be wrong" in text


def test_confusions_of_many_classes_are_a_table_of_pairs(folder: Path) -> None:
    write_outputs([f"name {label}" for label in range(100)], images=300)
    text = report.render()
    assert '<table class="confusion">' not in text
    assert '<tr><th scope="row">name 0</th><td class="text">name 1</td><td>3</td></tr>' in text
    assert text.count('<table class="confusions">') == 2
    assert "Class by class, the 50 with the lowest F1" in text
    assert len(text) < 1_000_000


def images(text: str) -> list[Image.Image]:
    """The pictures of the galleries."""
    contents = re.findall(r'<a href="#(?:errors|disputed|shared)[^"]*"><img src="data:image/png;base64,([^"]*)"', text)
    return [Image.open(BytesIO(base64.b64decode(content))) for content in contents]


def test_grey_images_are_ink_on_paper_and_colour_ones_themselves(folder: Path) -> None:
    write_outputs(["a", "b", "c"], shape=(9, 7, 3), models=("cnn",))
    text = report.render()
    evaluation = predictions.read(Path("evaluation/cnn"))
    first = int(np.argsort(-evaluation.confidence[evaluation.errors], kind="stable")[0])
    np.testing.assert_array_equal(np.asarray(images(text)[0]), evaluation.error_images[first])
    assert "<body>" in text  # no `grey`, for which the dark page turns images around
    drawn = Image.open(BytesIO(base64.b64decode(report.picture(np.array([[0, 255]], np.uint8)).partition(",")[2])))
    assert np.asarray(drawn).tolist() == [[255, 0]]
    large = report.picture(np.zeros((300, 600, 3), np.uint8)).partition(",")[2]
    assert Image.open(BytesIO(base64.b64decode(large))).size == (128, 64)


def test_it_is_one_file_without_outside_addresses(folder: Path) -> None:
    write_outputs()
    text = report.render()
    for address in re.findall(r"""(?:src|href|srcset|data|action)\s*=\s*["']?([^"'\s>]*)""", text):
        assert address.startswith(("#", "data:")), address
    assert not re.search(r"<script|@import|url\(|<link(?! rel=.icon)", text)
    assert "default-src 'none'" in text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_words_from_the_data_are_only_words(folder: Path, hostile: str) -> None:
    write_outputs([hostile, "b", "c"], source=hostile)
    Path("inside/captions.json").write_text(json.dumps([{"file": "layers.png", "title": hostile, "caption": hostile}]))
    assert hostile not in report.render()


def test_a_source_s_password_is_hidden(folder: Path) -> None:
    write_outputs(source="https://user:secret@host/x")
    text = report.render()
    assert "https://user:***@host/x" in text
    assert "secret" not in text


def test_provenance_is_that_of_dvc_lock(folder: Path) -> None:
    write_outputs()
    text = report.render()
    for path in ("data/training", "models/cnn/model.keras"):
        assert f'{path}</th><td class="hash">MD5 md5 of {path}<' in text
    assert "data/overview" not in text
    assert "c0ffee" in text
    assert "SHA-256 " + "2" * 64 in text
    assert "mlflow==" in text
    assert str(folder) not in text


def test_the_same_outputs_give_the_same_page(folder: Path) -> None:
    write_outputs()
    assert report.render() == report.render()


def test_outside_a_repository_it_says_so(folder: Path) -> None:
    write_outputs()
    text = report.render()
    assert "none: not in a Git repository" in text
    assert "git checkout" not in text


def test_it_does_not_need_the_git_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert report.git_state([]) is None


def test_changed_inputs_and_results_of_this_machine_are_told_apart(folder: Path) -> None:
    write_outputs()
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    Path("metrics/cnn.json").write_text("{}")
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message", "start"]):
        subprocess.run(["git", *command], check=True)
    assert not re.search("not (all )?committed|on this machine and", report.render())
    Path("metrics/cnn.json").write_text('{"errors": 1}')
    text = report.render()
    assert "with results made on this machine" in text
    assert not re.search("not (all )?committed", text)
    Path("requirements.lock").write_text("changed")
    assert "with changes that are not committed: requirements.lock<" in report.render()


def test_choices_by_the_test_set_are_named(folder: Path) -> None:
    write_outputs(selected_on="test")
    assert "these figures flatter" in report.render()


def test_robustness_is_a_table_of_what_the_stage_measured(folder: Path) -> None:
    write_outputs()
    text = report.render()
    rows = re.findall(r'<th scope="row">(\w+)</th><td>90.00%</td><td>54.10%</td>((?:<td>54.1%</td>)+)</tr>', text)
    assert [(name, cells.count("<td>")) for name, cells in rows] == [("dense", 7), ("cnn", 7)]
    assert '<th scope="row">noise</th><td class="text">deviation 15%</td><td>80.00%</td><td>80.00%</td>' in text
    assert "random sample" not in text  # all test images are used
    robustness.write("cnn", Scores(20, 0.9, {family: [0.8, 0.7, 0.123] for family in FAMILIES}))
    assert "on 20 test images (a random sample of the 60, the same for all models) with 7 kinds" in report.render()
    assert text.count("<td>12.30%</td><td>12.30%</td>") == 7


def test_errors_are_shown_with_where_the_model_looked(folder: Path) -> None:
    write_outputs(shape=(9, 7, 3))
    text = report.render()
    galleries = re.findall(r'<ul class="gallery pairs">(.*?)</ul>', text, re.DOTALL)
    assert [gallery.count("<li>") for gallery in galleries] == [6, 6]
    contents = re.findall(r'<img src="data:image/png;base64,([^"]*)"', galleries[1])
    evaluation = predictions.read(Path("evaluation/cnn"))
    first = evaluation.error_images[evaluation.most_confident_errors(1)[0]]
    drawn = np.asarray(Image.open(BytesIO(base64.b64decode(contents[0]))))
    np.testing.assert_array_equal(drawn[:, :7], first)
    assert drawn.shape == (9, 15, 3)


@pytest.mark.parametrize(
    "missing",
    [
        "metrics/audit.json",
        "metrics/robustness/cnn.csv",
        "inside/captions.json",
        "dvc.lock",
        "models/cnn/history.csv",
        "evaluation/cnn/occlusion.npy",
    ],
)
def test_a_missing_output_is_one_sentence(folder: Path, missing: str) -> None:
    write_outputs()
    Path(missing).unlink()
    with pytest.raises(WorkflowError, match=rf"{re.escape(missing)} is missing; `dvc repro` makes it\."):
        report.render()


def test_charts_put_values_where_they_belong() -> None:
    chart = report.Chart("", (0, 10), (0, 1), ("", ""), {})
    assert (chart.x(0), chart.x(10)) == (46, 346)
    assert (chart.y(0), chart.y(1)) == (200, 12)
    assert chart.ticks((0, 1)) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert chart.ticks((0.5, 3.5), whole=True) == [1, 2, 3]
    rows = [{"confidence": 0.5, "accuracy": 1.0, "images": 1.0}, {"confidence": 0.9, "accuracy": 0.9, "images": 99.0}]
    small, large = report.calibration_chart("cnn", rows).lines["bins"]
    assert small.radius < large.radius
    assert small.words == "1 images: confidence 50.0%, accuracy 100.0%"
    epochs = [Epoch(number, 0.1, 0.9, loss, 0.9, 0.001) for number, loss in ((1, 0.3), (2, 0.2), (3, 0.4))]
    (best,) = report.loss_chart("cnn", epochs, 1).lines["best"]
    assert (best.x, best.y) == (2, 0.2)


# With a browser, and with what a whole pipeline made


@pytest.fixture
def window(browser: "Chrome") -> Iterator["Chrome"]:
    browser.get_log("browser")  # type: ignore[no-untyped-call]
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.get("about:blank")


def show(browser: "Chrome", page: Path, width: int, scheme: str) -> Any:
    """Open the page as a screen of this width and colour scheme does, unfolded and loaded; what runs a script in it."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    browser.execute_async_script(
        """
        const done = arguments[0], images = [...document.images];
        document.querySelectorAll("details").forEach(each => { each.open = true; });
        images.forEach(image => { image.loading = "eager"; });
        Promise.all(images.map(image => image.decode())).then(() => done());
        """
    )
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    return browser.execute_script


def brightness(browser: "Chrome", element: str, color: str) -> float:
    """From 0, black, to 255, white."""
    text = browser.execute_script(
        f"return getComputedStyle(document.querySelector({element!r})).getPropertyValue({color!r})"
    )
    return float(np.mean([int(number) for number in re.findall(r"\d+", text)[:3]]))


def write(project: Project) -> Path:
    """Make the page as `make report` does."""
    output = project.run("python", "-m", "mnistflow.commands.report", PYTHONPATH="src")
    assert output == "report.html: open it in a browser\n"
    return project.folder / "report.html"


@pytest.fixture(scope="module")
def page(repro: Project) -> Path:
    return write(repro)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_complaint(window: "Chrome", page: Path, width: int, scheme: str) -> None:
    run = show(window, page, width, scheme)
    assert window.title == "mnistflow: compact on tiny"
    assert run("return performance.getEntriesByType('resource').map(each => each.name)") == []
    assert run("return [...document.images].filter(each => !each.naturalWidth || !each.alt).length") == 0
    assert tuple(run("return [...document.querySelectorAll('h2')].map(each => each.textContent)")) == SECTIONS
    assert run("return document.querySelectorAll('svg').length") == 2 * len(MODELS)
    assert run("return document.querySelectorAll('table.confusion').length") == len(MODELS)
    assert run("return document.querySelectorAll('.lesson img').length") == 8
    paper, ink = (brightness(window, "body", each) for each in ("background-color", "color"))
    assert (paper > 200 and ink < 60) if scheme == "light" else (paper < 40 and ink > 200)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("names", [["a" * 200, "고양이 " * 20, "c"], [f"a long name {label}" for label in range(100)]])
def test_a_browser_shows_any_classes_in_colour(folder: Path, window: "Chrome", names: list[str], width: int) -> None:
    write_outputs(names, shape=(40, 90, 3), images=300)
    Path("page.html").write_text(report.render(), encoding="utf-8")
    run = show(window, folder / "page.html", width, "dark")
    assert run("return getComputedStyle(document.querySelector('.gallery img')).filter") == "none"


@pytest.mark.slow
def test_on_paper_nothing_is_cut_off(folder: Path, window: "Chrome") -> None:
    write_outputs(disputed=[[10, 0, 1, 1, 4]], models=("a-network-with-a-name", "cnn", "dense"))
    Path("page.html").write_text(report.render(), encoding="utf-8")
    run = show(window, folder / "page.html", 703, "light")  # the width of A4 without its margins
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    wide = (
        "return [...document.querySelectorAll('table, pre, img')].filter((e) => e.getBoundingClientRect().right > 704)"
    )
    assert run(f"{wide}.map((e) => e.outerHTML.slice(0, 200))") == []


@pytest.mark.slow
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_browser_runs_no_script_from_the_data(folder: Path, window: "Chrome", hostile: str) -> None:
    write_outputs([hostile, "b", "c"], source=hostile)
    Path("page.html").write_text(report.render(), encoding="utf-8")
    run = show(window, folder / "page.html", 1280, "light")
    assert run("return document.querySelector('table.confusion th').textContent") == hostile
    assert run("return document.querySelectorAll('script, img[src=x]').length") == 0


@pytest.mark.slow
def test_it_says_what_the_pipeline_s_outputs_say(repro: Project, page: Path) -> None:
    text = page.read_text()
    assert len(text) < 5_000_000
    assert f"of {TEST} test images correctly" in text
    for model in MODELS:
        values = json.loads(repro.read(f"metrics/{model}.json"))
        row = re.search(rf'<th scope="row">{model}</th><td>{values["parameters"]:,}</td>.*', text)
        assert row
        for value in (f"{values['accuracy']:.2%}", f"<td>{values['errors']}</td>", f"{values['loss']:.4f}"):
            assert value in row[0]
    for caption in json.loads(repro.read("inside/captions.json")):
        assert caption["title"] in text
    assert repro.run("git", "rev-parse", "HEAD").strip() in text
    assert "not committed" not in text
    stages = YAML(typ="safe").load(repro.read("dvc.lock"))["stages"].values()
    md5s = {out["path"]: out["md5"] for stage in stages for out in stage["outs"]}
    for path in ("data/raw", "data/training", "data/test", "models/compact/model.keras"):
        assert re.search(rf"{path}</th><td [^>]*>MD5 {md5s[path]}<", text)
    assert json.loads(repro.read("models/compact/training.json"))["training_sha256"] in text


@pytest.mark.slow
def test_the_models_runs_have_the_page(repro: Project, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repro.folder)  # the addresses of artifacts are relative to the project
    before = page.read_bytes()
    assert write(repro).read_bytes() == before
    assert repro.run("git", "status", "--porcelain") == ""
    client = mlflow.MlflowClient(f"sqlite:///{repro.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mnistflow")
    assert experiment is not None
    for model in MODELS:
        md5 = report.files.md5(repro.folder / f"models/{model}/model.keras")
        (run,) = client.search_runs([experiment.experiment_id], f"tags.model_md5 = '{md5}'")
        names = [artifact.path for artifact in client.list_artifacts(run.info.run_id)]
        assert names.count("report.html") == 1


@pytest.mark.slow
def test_a_new_store_gets_the_runs_with_the_page(
    repro: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{tmp_path / 'new.db'}"
    repro.run("python", "-m", "mnistflow.commands.report", PYTHONPATH="src", MLFLOW_TRACKING_URI=store)
    monkeypatch.chdir(repro.folder)
    client = mlflow.MlflowClient(store)
    recorded = runs(client)
    assert {run.data.tags["model"] for run in recorded} == set(MODELS)
    for run in recorded:
        assert "report.html" in [artifact.path for artifact in client.list_artifacts(run.info.run_id)]
