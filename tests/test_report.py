"""The report is one page that is whole, says what the outputs say, and looks right in a browser."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import pytest
from conftest import TEST, Project, describe_tiny
from ruamel.yaml import YAML

from mnistflow import datasets, report
from mnistflow.workspace import WorkflowError

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

MODELS = ("dense", "cnn", "compact")
INPUTS = ("models", "evaluation", "metrics", "inside")
SECTIONS = (
    "Results",
    "Curves",
    "Confusion",
    "Calibration",
    "Was the book right?",
    "Errors",
    "Inside the network",
    "Parameters",
    "Provenance",
    "How to reproduce",
)


def write(project: Project) -> Path:
    """Make the page as `make report` does."""
    output = project.run("python", "-m", "mnistflow.report", *INPUTS, "report.html", PYTHONPATH="src")
    assert output == "report.html: open it in a browser\n"
    return project.folder / "report.html"


@pytest.fixture(scope="module")
def page(repro: Project) -> Path:
    return write(repro)


@pytest.fixture
def outputs(repro: Project, tiny_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A copy of what the page is made from, in a current folder of its own that is no Git repository."""
    for name in INPUTS:
        shutil.copytree(repro.folder / name, tmp_path / name)
    for name in ("params.yaml", "dvc.lock", "requirements.lock"):
        shutil.copy2(repro.folder / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setitem(datasets.DATASETS, "tiny", describe_tiny(tiny_files))
    return {name: Path(name) for name in INPUTS}


def render(outputs: dict[str, Path]) -> str:
    return report.render(*outputs.values())


@pytest.fixture
def opened(browser: "Chrome", page: Path) -> Iterator["Chrome"]:
    browser.get_log("browser")  # type: ignore[no-untyped-call]
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.get("about:blank")


def show(browser: "Chrome", page: Path, width: int, scheme: str) -> None:
    """Open the page as a screen of this width and colour scheme does, with everything unfolded and loaded."""
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


def brightness(browser: "Chrome", element: str, color: str) -> float:
    """From 0, black, to 255, white."""
    text = browser.execute_script(
        f"return getComputedStyle(document.querySelector({element!r})).getPropertyValue({color!r})"
    )
    return float(np.mean([int(number) for number in re.findall(r"\d+", text)[:3]]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_complaint(opened: "Chrome", page: Path, width: int, scheme: str) -> None:
    show(opened, page, width, scheme)
    assert opened.get_log("browser") == []  # type: ignore[no-untyped-call]
    assert opened.title == "mnistflow: cnn on tiny"
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    assert opened.execute_script("return performance.getEntriesByType('resource').map(each => each.name)") == []
    broken = "return [...document.images].filter(each => !each.naturalWidth || !each.alt).length"
    assert opened.execute_script(broken) == 0

    headings = opened.execute_script("return [...document.querySelectorAll('h2')].map(each => each.textContent)")
    assert tuple(headings) == SECTIONS
    targets = opened.execute_script(
        "return [...document.querySelectorAll('nav a')].map(each => document.querySelector(each.hash)?.textContent)"
    )
    assert tuple(targets) == SECTIONS
    assert opened.execute_script("return document.querySelectorAll('svg').length") == 2 * len(MODELS)
    assert opened.execute_script("return document.querySelectorAll('table.confusion').length") == len(MODELS)
    assert opened.execute_script("return document.querySelectorAll('.lesson img').length") == 6

    paper, ink = (brightness(opened, "body", each) for each in ("background-color", "color"))
    assert (paper > 200 and ink < 60) if scheme == "light" else (paper < 40 and ink > 200)


def test_it_is_one_file_that_asks_for_nothing(page: Path) -> None:
    text = page.read_text()
    assert len(text) < 5_000_000
    for address in re.findall(r"""(?:src|href|srcset|data|action)\s*=\s*["']?([^"'\s>]*)""", text):
        assert address.startswith(("#", "data:")), address
    assert not re.search(r"<script|@import|url\(|<link(?! rel=.icon)", text)
    assert "default-src 'none'" in text


def test_it_says_what_the_outputs_say(repro: Project, page: Path) -> None:
    text = page.read_text()
    for model in MODELS:
        metrics = json.loads(repro.read(f"metrics/{model}.json"))
        row = re.search(rf'<th scope="row">{model}</th><td>{metrics["parameters"]:,}</td>.*', text)
        assert row
        for value in (f"{metrics['accuracy']:.2%}", f"<td>{metrics['errors']}</td>", f"{metrics['loss']:.4f}"):
            assert value in row[0]
    audit = json.loads(repro.read("metrics/audit.json"))
    assert audit["verdict"].replace("'", "&#39;") in text
    for caption in json.loads(repro.read("inside/captions.json")):
        assert caption["title"] in text
    assert f"of {TEST} test images right" in text


def test_its_provenance_is_that_of_dvc_lock_and_git(repro: Project, page: Path) -> None:
    text = page.read_text()
    assert repro.run("git", "rev-parse", "HEAD").strip() in text
    assert "not committed" not in text
    stages = YAML(typ="safe").load(repro.read("dvc.lock"))["stages"].values()
    md5s = {out["path"]: out["md5"] for stage in stages for out in stage["outs"]}
    for path in ("data/raw", "data/arrays/training", "data/arrays/test", "models/cnn/model.keras"):
        assert re.search(rf"{path}</th><td [^>]*>MD5 {md5s[path]}<", text)
    assert report.md5(repro.folder / "dvc.lock") in text
    assert json.loads(repro.read("models/cnn/training.json"))["training_sha256"] in text
    for package in ("python", "keras", "dvc", "mlflow"):
        assert f"{package}==" in text
    assert str(repro.folder) not in text


def test_the_same_outputs_give_the_same_page_on_the_models_runs(repro: Project, page: Path) -> None:
    before = page.read_bytes()
    assert write(repro).read_bytes() == before
    assert repro.run("git", "status", "--porcelain") == ""
    client = mlflow.MlflowClient(f"sqlite:///{repro.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mnistflow")
    assert experiment is not None
    for model in MODELS:
        tag = f"tags.model_md5 = '{report.md5(repro.folder / f'models/{model}/model.keras')}'"
        (run,) = client.search_runs([experiment.experiment_id], tag)
        names = [artifact.path for artifact in client.list_artifacts(run.info.run_id)]
        assert names.count("report.html") == 1
        stored = Path(str(run.info.artifact_uri).removeprefix("file://").replace("%20", " "), "report.html")
        assert stored.read_bytes() == before


def test_a_store_without_the_models_is_one_sentence(repro: Project, tmp_path: Path) -> None:
    arguments = (*INPUTS, str(tmp_path / "report.html"))
    store = f"sqlite:///{tmp_path / 'empty.db'}"
    said = repro.run(
        "python", "-m", "mnistflow.report", *arguments, status=1, PYTHONPATH="src", MLFLOW_TRACKING_URI=store
    )
    assert "error: the record has no run of the model " in said
    assert "Traceback" not in said


def test_a_changed_file_is_not_passed_over(repro: Project) -> None:
    readme = repro.read("README.md")
    try:
        (repro.folder / "README.md").write_bytes(readme + b"\nmore\n")
        assert "with changes that are not committed" in write(repro).read_text()
    finally:
        (repro.folder / "README.md").write_bytes(readme)


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "</style>{{ 1 }}"]
)
def test_words_from_the_data_are_only_words(
    outputs: dict[str, Path], hostile: str, browser: "Chrome", tmp_path: Path
) -> None:
    for model in MODELS:
        path = outputs["evaluation"] / model / "report.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": [hostile] * 10}))
    captions = json.loads((outputs["inside"] / "captions.json").read_text())
    captions[0] |= {"title": hostile, "caption": hostile}
    (outputs["inside"] / "captions.json").write_text(json.dumps(captions))
    params = YAML().load(Path("params.yaml"))
    params["fetch"]["sources"]["tiny"] = [hostile, "https://me:secret@host/x"]
    YAML().dump(params, Path("params.yaml"))
    text = render(outputs)
    assert hostile not in text
    assert "secret" not in text
    (tmp_path / "page.html").write_text(text)
    browser.get((tmp_path / "page.html").as_uri())
    assert browser.execute_script("return document.querySelector('table.confusion th').textContent") == hostile
    assert browser.execute_script("return document.querySelectorAll('script, img[src=x]').length") == 0
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]


def test_outside_a_repository_it_says_so(outputs: dict[str, Path]) -> None:
    text = render(outputs)
    assert "none: not in a Git repository" in text
    assert "git checkout" not in text


def test_it_does_not_need_the_git_program(outputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError):
        subprocess.run(["git"], check=False)
    assert report.commit() is None


def test_what_the_book_did_is_named(outputs: dict[str, Path]) -> None:
    assert "these figures flatter" not in render(outputs)
    for path in outputs["metrics"].glob("*.json"):
        path.write_text(path.read_text().replace('"selected_on": "validation"', '"selected_on": "test"'))
    assert "these figures flatter" in render(outputs)


@pytest.mark.parametrize(
    "missing", ["metrics/audit.json", "inside/captions.json", "dvc.lock", "models/cnn/history.csv"]
)
def test_a_missing_output_is_one_sentence(outputs: dict[str, Path], missing: str) -> None:
    Path(missing).unlink()
    with pytest.raises(WorkflowError, match=rf"{re.escape(missing)} is missing; `dvc repro` makes it\."):
        render(outputs)


def test_charts_put_values_where_they_belong() -> None:
    chart = report.Chart("", (0, 10), (0, 1), ("", ""), {})
    assert (chart.x(0), chart.x(10)) == (46, 346)
    assert (chart.y(0), chart.y(1)) == (200, 12)
    assert chart.ticks((0, 1)) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert chart.ticks((0.5, 3.5), whole=True) == [1, 2, 3]
    rows = [{"confidence": 0.5, "accuracy": 1.0, "images": 1.0}, {"confidence": 0.9, "accuracy": 0.9, "images": 99.0}]
    small, large = report.calibration_chart("cnn", rows).lines["right"]
    assert small.radius < large.radius
    assert small.words == "1 images: 50.0% sure, 100.0% right"
