"""MLflow's own pages, in a real browser, as somebody sees them who opened the record of a `make repro`."""

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import mlflow
import pytest
from conftest import Project, answers, inside, runs, wait_for

from mnistflow.tracking import descriptions, store

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.slow

MODELS = ("dense", "compact")
UI = ("python", "-m", "mnistflow.tracking.ui")


@dataclass
class Pages:
    """MLflow's pages in a browser, and the runs that they show."""

    browser: "Chrome"
    address: str
    runs: dict[str, mlflow.entities.Run]  # of each model
    experiment: str

    def open(self, path: str) -> None:
        """Go to a page, in a window that is large enough for all charts: the pages draw those that are in sight."""
        self.browser.set_window_size(2400, 4000)
        self.browser.get("about:blank")  # the pages would take a change behind the # for a click, and not load anew
        separator = "&" if "?" in path else "?"
        self.browser.get(f"{self.address}#/{path}{separator}workflowType=machine_learning")

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression on the page."""
        return self.browser.execute_script(f"return {script}")

    def wait(self, condition: Callable[[], Any]) -> None:
        """Wait until a condition holds; fails with the page's text when it does not within half a minute."""
        until = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < until, self.evaluate("document.body.innerText")
            time.sleep(0.1)

    def wait_for(self, *texts: str) -> None:
        """Wait until the page shows all of these."""
        self.wait(lambda: all(text in self.evaluate("document.body.innerText") for text in texts))

    def wait_for_images(self, count: int, start: str) -> None:
        """Wait until so many images whose addresses begin with `start` are there, and drawn."""
        images = f"[...document.querySelectorAll('img[src^=\"{start}\"]')].filter(image => image.naturalWidth).length"
        self.wait(lambda: self.evaluate(images) >= count)


@pytest.fixture(scope="module")
def project(copy_of_repro: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose selected model is registered."""
    project = copy_of_repro(tmp_path_factory.mktemp("ui") / "project")
    project.run("python", "-m", "mnistflow.tracking.registry", PYTHONPATH="src")
    return project


@pytest.fixture(scope="module")
def ui(project: Project, browser: "Chrome") -> Iterator[Pages]:
    """The pages of `make ui`."""
    with inside(project) as client:
        store.connect()
        experiment = store.experiment_id()
        by_model = {run.data.tags["model"]: run for run in runs(client)}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    process = project.start(*UI, port, PYTHONPATH="src")
    address = f"http://127.0.0.1:{port}/"
    wait_for(lambda: answers(f"{address}health"), process)
    yield Pages(browser, address, by_model, experiment)
    browser.get("about:blank")  # the server would wait for its connections
    process.terminate()  # it alone; the server ends with it, or this would wait for its output
    output, _ = process.communicate(timeout=60)
    assert f"\n{address}#/experiments/{experiment}/runs?" in output
    assert "INFO" not in output
    assert "Warning" not in output


def test_the_table_shows_the_runs_with_the_columns_that_matter(ui: Pages) -> None:
    ui.open(f"experiments/{ui.experiment}/runs?viewStateShareKey=results")
    ui.wait_for(*MODELS)
    for column in [column for column in descriptions.COLUMNS if "dvc_experiment" not in column]:
        ui.wait(lambda: ui.evaluate(f"document.querySelector('.ag-header-cell[col-id=\"{column}\"]')"))  # noqa: B023
    for run in ui.runs.values():
        row = f"[...document.querySelectorAll('.ag-row[row-id=\"{run.info.run_id}\"]')]"
        shown = ui.evaluate(f"{row}.map(part => part.innerText).join('\\n').split('\\n')")
        assert {f"{run.data.metrics['test/accuracy']:g}", f"{run.data.metrics['test/errors']:g}"} <= set(shown)
        assert {"validation", run.data.tags["model"], run.data.tags["pipeline"]} <= set(shown)


def test_the_page_of_a_run_has_its_result_and_its_figures(ui: Pages) -> None:
    run = ui.runs["compact"]
    ui.open(f"experiments/{ui.experiment}/runs/{run.info.run_id}")
    ui.wait_for("Description", "Show more", "Parameters (", "test/accuracy", "learning_rate")
    ui.evaluate("[...document.querySelectorAll('button, a')].find(button => button.innerText == 'Show more').click()")
    commit = run.data.tags["mlflow.source.git.commit"]
    accuracy = f"{run.data.metrics['test/accuracy']:.2%} of the test images right"
    ui.wait_for(f"compact: {accuracy}", "trained on 250 images of tiny", f"git checkout {commit}\nmake repro")
    ui.wait_for_images(2, "get-artifact?")


def test_curves_and_files_of_a_run_are_drawn(ui: Pages) -> None:
    run = f"experiments/{ui.experiment}/runs/{ui.runs['compact'].info.run_id}"
    ui.open(f"{run}/model-metrics")
    ui.wait_for("accuracy", "learning_rate", "loss")
    points = "document.querySelectorAll('.js-plotly-plot .scatterlayer .points path').length"
    ui.wait(lambda: ui.evaluate(points) > 1)
    for path in ("loss.png", "evaluation/errors.png"):
        ui.open(f"{run}/artifacts/{path}")
        ui.wait_for("history.csv", path)
        ui.wait_for_images(1, "blob:")


def test_models_are_compared_by_the_same_metrics(ui: Pages) -> None:
    ids = quote(json.dumps([run.info.run_id for run in ui.runs.values()]))
    ui.open(f"compare-runs?runs={ids}&experiments={quote(json.dumps([ui.experiment]))}")
    ui.wait_for("Comparing 2 Runs", "Show diff only", *MODELS, "test/accuracy", "test/errors")
    shared = set.intersection(*(set(run.data.metrics) for run in ui.runs.values()))
    assert {"test/accuracy", "test/errors", "test/loss", "seconds", "parameters", "val_loss"} <= shared


def test_the_page_of_a_version_has_its_result_and_how_to_serve_it(ui: Pages) -> None:
    ui.open("models/mnistflow/versions/1")
    accuracy = f"{ui.runs['compact'].data.metrics['test/accuracy']:.2%} of the test images right"
    ui.wait_for("champion", f"compact: {accuracy}", descriptions.SERVE, "model_md5", "Outputs (2)")


def test_a_wrong_or_busy_port_is_one_sentence(project: Project) -> None:
    output = project.run(*UI, "80x", status=1, PYTHONPATH="src")
    assert output.startswith("error: the port is '80x'; ")
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        output = project.run(*UI, port, status=1, PYTHONPATH="src")
    assert output == f"error: port {port} can't be used (Address already in use); make ui PORT=... takes another.\n"


def test_a_record_that_is_read_only_is_shown(project: Project, tmp_path: Path) -> None:
    """Looking at a record needs no right to write it."""
    (tmp_path / "project").mkdir()
    shown = Project(tmp_path / "project")
    if subprocess.run(["mount", "--bind", project.folder, shown.folder], capture_output=True, check=False).returncode:
        pytest.skip("making a read-only folder takes a root that may mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", shown.folder], check=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        process = shown.start(*UI, port, PYTHONPATH="src")
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(f"{address}/health"), process)
        with inside(project) as client:
            run = runs(client)[0]
        assert answers(f"{address}/get-artifact?path=loss.png&run_uuid={run.info.run_id}")
        assert answers(f"{address}/api/2.0/mlflow/runs/get?run_id={run.info.run_id}")
        process.terminate()  # it alone; the server ends with it, or this would wait for its output
        process.communicate(timeout=60)
    finally:
        subprocess.run(["umount", "--lazy", shown.folder], check=True)
