"""DVC's own commands for experiments, comparisons and remotes do here what DVC's manual says."""

import csv
import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import Project, client_of, is_clean, runs, stages_run

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.slow

New = Callable[[Path], Project]


def test_experiments_are_run_shown_compared_applied_and_saved(copy_of_repro: New, tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / "project")
    before, recorded = project.outputs(), len(runs(client_of(project)))
    ((kept, hidden),) = re.findall(r"--keep '(.+)' --drop '(.+)'", project.run("make", "--dry-run", "experiments"))
    show = ("exp", "show", "--only-changed", "--csv", "--keep", kept, "--drop", hidden)
    assert "metrics/selected.json:accuracy,metrics/selected.json:errors" in project.dvc(
        *show
    )  # also where all are equal
    output = project.dvc("exp", "run", "--temp", "--name", "chosen", "--set-param", "evaluate.model=dense")
    assert stages_run(output) == ["params", "compare", "plot"]
    assert is_clean(project)

    # `make experiments`: the values that differ and the results, without hashes and without columns that repeat others.
    rows = list(csv.DictReader(project.dvc(*show).splitlines()))
    columns = [column.rpartition(":")[2] for column in rows[0] if column not in ("rev", "typ", "parent", "State")]
    assert columns[:2] == ["Experiment", "Created"]
    assert set(columns[2:]) >= {"accuracy", "errors", "loss", "evaluate.model"}
    assert not [column for column in columns if re.search(r"/|comparison|mcnemar|_low|_high|\.json|\.py", column)]
    assert {row["Experiment"]: row["evaluate.model"] for row in rows}["chosen"] == "dense"

    difference = {"evaluate.model": {"old": "compact", "new": "dense"}}
    assert json.loads(project.dvc("params", "diff", "--json", "HEAD", "chosen")) == {"params.yaml": difference}
    assert set(json.loads(project.dvc("metrics", "diff", "--json", "HEAD", "chosen"))) == {"metrics/selected.json"}
    project.dvc("plots", "diff", "HEAD", "chosen", "--out", str(tmp_path / "plots"))
    page = (tmp_path / "plots/index.html").read_text()
    for part in ("chosen", "HEAD", "loss by epoch", "dense: percent of each actual class", "errors.png"):
        assert part in page

    project.dvc("exp", "apply", "chosen")
    assert project.params()["evaluate"]["model"] == "dense"
    assert project.read("metrics/selected.json") == project.read("metrics/dense.json")
    assert "up to date" in project.dvc("status")
    project.set(evaluate__target_accuracy=0.99)
    project.dvc("repro")
    project.dvc("exp", "save", "--name", "saved")
    project.run("git", "restore", ".")
    project.dvc("checkout")
    assert project.outputs() == before
    difference = json.loads(project.dvc("params", "diff", "--json", "HEAD", "saved"))["params.yaml"]
    assert set(difference) == {"evaluate.model", "evaluate.target_accuracy"}
    project.dvc("exp", "remove", "chosen", "saved")
    assert is_clean(project)
    assert len(runs(client_of(project))) == recorded


def test_the_page_of_charts_needs_no_network(repro: Project, browser: "Chrome") -> None:
    repro.run(sys.executable, "-m", "mnistflow.commands.plots", PYTHONPATH="src")
    page = repro.folder / "dvc_plots/index.html"
    assert not re.findall(r"<(?:script|link)[^>]+https?:", page.read_text())
    browser.get_log("browser")  # type: ignore[no-untyped-call]  # of other tests
    browser.get(page.as_uri())
    charts = "return document.querySelectorAll('.vega-embed canvas, .vega-embed svg').length"
    until = time.monotonic() + 20
    while browser.execute_script(charts) < 3:  # two models and their losses
        assert time.monotonic() < until
        time.sleep(0.1)
    shown = browser.execute_script("return [...document.images].filter(image => image.naturalWidth).length")
    assert shown == len(list((repro.folder / "plots").glob("*.png")))
    legends = browser.execute_script("return document.body.innerHTML")
    assert all(f">{family}</text>" in legends for family in ("noise", "occlusion"))
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []  # type: ignore[no-untyped-call]


def test_a_clone_pulls_everything_and_trains_nothing(copy_of_repro: New, repro: Project, tmp_path: Path) -> None:
    origin = copy_of_repro(tmp_path / "origin")
    origin.dvc("remote", "add", "--default", "storage", str(tmp_path / "storage"))
    origin.commit("remote", ".dvc/config")
    origin.dvc("push")
    shutil.rmtree(origin.folder / ".dvc/cache")

    project = Project(tmp_path / "clone")
    ends = ("--config", "core.autocrlf=true")  # as on Windows: Git would write CRLF into every text file
    origin.run("git", "clone", "--quiet", *ends, ".", str(project.folder))
    project.dvc("pull")
    assert "up to date" in project.dvc("status")
    assert project.outputs() == repro.outputs()
    assert stages_run(project.repro()) == []
    assert is_clean(project)

    other = Project(tmp_path / "other")
    origin.run("git", "clone", "--quiet", ".", str(other.folder))
    other.set(evaluate__target_accuracy=0.2)
    assert stages_run(other.dvc("repro", "--pull")) == ["params", "compare", "plot"]
