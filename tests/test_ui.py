"""MLflow's own pages, in a real browser, as somebody sees them who opened the record of a `dvc repro`."""

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import mlflow
import pytest
from conftest import Project, answers, serving, wait_for

from mnistflow import evaluation, pages, registry, store
from mnistflow.workspace import md5

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

MODELS = ("dense", "cnn", "compact")


@dataclass
class Pages:
    """MLflow's pages in a browser, and what is behind them."""

    browser: "Chrome"
    address: str
    runs: dict[str, mlflow.entities.Run]  # of each model, the first
    experiment: str

    def open(self, path: str) -> None:
        """Go to a page, in a window that is wide enough for all columns."""
        self.browser.set_window_size(2400, 1200)
        self.browser.get("about:blank")  # the pages would take a change behind the # for a click, and not load anew
        separator = "&" if "?" in path else "?"
        self.browser.get(f"{self.address}#/{path}{separator}workflowType=machine_learning")

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression on the page."""
        return self.browser.execute_script(f"return {script}")

    def wait(self, condition: Callable[[], Any]) -> None:
        """Wait until a condition holds; fails with the page's text when it does not within a minute."""
        until = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < until, self.ask("document.body.innerText")
            time.sleep(0.1)

    def wait_for(self, *texts: str) -> None:
        """Wait until the page shows all of these."""
        self.wait(lambda: all(text in self.ask("document.body.innerText") for text in texts))

    def wait_for_images(self, count: int, where: str) -> None:
        """Wait until so many images with an address that begins like that are there, and drawn."""
        images = f"[...document.querySelectorAll('img[src^=\"{where}\"]')].filter(image => image.naturalWidth).length"
        self.wait(lambda: self.ask(images) >= count)


@pytest.fixture(scope="module")
def ui(repro: Project, browser: "Chrome") -> Iterator[Pages]:
    """The record of the project, in which its dense model is registered: of a copy, because it is ours alone."""
    shutil.copy(repro.folder / "mlflow.db", repro.folder / ".cache/ui.db")
    uri, before = f"sqlite:///{repro.folder / '.cache/ui.db'}", mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("DVC_ROOT", str(repro.folder))
        patch.chdir(repro.folder)
        store.connect()
        version = registry.register(md5(Path("models/dense/model.keras")), json.loads(repro.read("metrics/dense.json")))
        registry.promote(version, evaluation.read(Path("evaluation/dense")))
    client = store.client()
    experiment = client.get_experiment_by_name("mnistflow")
    assert experiment is not None
    runs = {name: client.search_runs([experiment.experiment_id], f"tags.model = '{name}'")[-1] for name in MODELS}
    mlflow.set_tracking_uri(before)
    command = (sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--backend-store-uri", uri)
    with serving(repro, "health", *command) as address:
        yield Pages(browser, address, runs, experiment.experiment_id)
        browser.get("about:blank")  # the server would wait for its connections


def test_the_table_shows_the_runs_with_the_columns_that_matter(ui: Pages) -> None:
    ui.open(f"experiments/{ui.experiment}/runs?viewStateShareKey=results")
    ui.wait_for(*MODELS)
    for column in [*pages.COLUMNS[:-2], "tags.`pipeline`"]:  # no run here is of an experiment
        ui.wait(lambda: ui.ask(f"document.querySelector('.ag-header-cell[col-id=\"{column}\"]')"))  # noqa: B023
    for run in ui.runs.values():
        row = f"[...document.querySelectorAll('.ag-row[row-id=\"{run.info.run_id}\"]')]"
        shown = ui.ask(f"{row}.map(part => part.innerText).join('\\n').split('\\n')")
        assert {f"{run.data.metrics['test_accuracy']:g}", f"{run.data.metrics['test_errors']:g}"} <= set(shown)
        assert {"validation", run.data.tags["model"], run.data.tags["pipeline"]} <= set(shown)
    assert len({run.data.tags["pipeline"] for run in ui.runs.values()}) == 1


def test_a_run_s_page_says_how_it_did_and_shows_its_figures(ui: Pages) -> None:
    run = ui.runs["cnn"]
    ui.open(f"experiments/{ui.experiment}/runs/{run.info.run_id}")
    ui.wait_for("Description", "Show more", "Parameters (", "test_accuracy", "learning_rate")
    ui.ask("[...document.querySelectorAll('button, a')].find(button => button.innerText == 'Show more').click()")
    commit = run.data.tags["mlflow.source.git.commit"]
    accuracy = f"{run.data.metrics['test_accuracy']:.2%} of the test images right"
    ui.wait_for(f"cnn: {accuracy}", "trained on 250 images of tiny", f"git checkout {commit}\nmake repro")
    ui.wait_for_images(2, "get-artifact?")


def test_its_curves_and_files_can_be_looked_at(ui: Pages) -> None:
    run = f"experiments/{ui.experiment}/runs/{ui.runs['compact'].info.run_id}"
    ui.open(f"{run}/model-metrics")
    ui.wait_for("accuracy", "learning_rate", "loss")
    ui.wait(lambda: ui.ask("document.querySelectorAll('.js-plotly-plot .scatterlayer .points path').length") > 1)
    for path in ("loss.png", "evaluation/errors.png", "evaluation/confusion.png"):
        ui.open(f"{run}/artifacts/{path}")
        ui.wait_for("history.csv", path)
        ui.wait_for_images(1, "blob:")


def test_three_models_are_compared_by_the_same_metrics(ui: Pages) -> None:
    ids = quote(json.dumps([run.info.run_id for run in ui.runs.values()]))
    ui.open(f"compare-runs?runs={ids}&experiments={quote(json.dumps([ui.experiment]))}")
    ui.wait_for("Comparing 3 Runs", "Show diff only", *MODELS)
    shared = set.intersection(*({*run.data.metrics} for run in ui.runs.values()))
    assert {"test_accuracy", "test_errors", "test_loss", "seconds", "parameters", "val_loss"} <= shared
    ui.wait_for("test_accuracy", "test_errors")


def test_a_version_s_page_says_what_it_is_and_how_to_serve_it(ui: Pages) -> None:
    ui.open("models/mnistflow/versions/1")
    accuracy = f"{ui.runs['dense'].data.metrics['test_accuracy']:.2%} of the test images right"
    ui.wait_for("champion", f"dense: {accuracy}", pages.SERVE, "model_md5", "Inputs (1)", "Outputs (2)")


def test_it_is_shown_on_this_machine_s_port_or_where_its_server_is(repro: Project) -> None:
    def shown(port: str, status: int = 1, **environment: str) -> str:
        return repro.run("python", "-m", "mnistflow.ui", port, status=status, PYTHONPATH="src", **environment)

    assert "the port is '80x'; a number from 1 to 65535 is expected" in shown("80x")
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        assert f"error: port {port} can't be had (Address already in use); make ui PORT=... takes another" in shown(
            port
        )
    server = (
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--workers",
        "1",
        "--backend-store-uri",
        "sqlite:///.cache/s.db",
    )
    with serving(repro, "health", *server) as address:
        said = shown("5000", status=0, MLFLOW_TRACKING_URI=address)
    assert said.startswith(f"These runs have a server:\n{address}#/experiments/1/runs?")

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    process = repro.start("python", "-m", "mnistflow.ui", port, PYTHONPATH="src")
    wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), process)
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert f"\nhttp://127.0.0.1:{port}/#/experiments/1/runs?" in said
    assert "INFO" not in said
    assert "Warning" not in said
