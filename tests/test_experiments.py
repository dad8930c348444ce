"""DVC's commands for experiments do here what its manual says. Running and queueing: test_stages.py, test_faults.py."""

import csv
import json
import re
from pathlib import Path

import mlflow
import pytest
from conftest import Project, is_clean, runs

from mnistflow import provenance


def test_an_experiment_is_shown_compared_applied_and_saved(repro: Project, tmp_path: Path) -> None:
    before, uri = repro.read("params.yaml"), f"sqlite:///{tmp_path}/own.db"
    repro.dvc("exp", "run", "--temp", "--name", "chosen", "--set-param", "evaluate.model=compact")

    # `make experiments`: the values that differ and what came of them, no hashes, nothing said twice.
    (hidden,) = re.findall(r"--drop '(.+)'", repro.run("make", "--dry-run", "experiments"))
    rows = list(csv.DictReader(repro.dvc("exp", "show", "--only-changed", "--csv", "--drop", hidden).splitlines()))
    columns = [column.rpartition(":")[2] for column in rows[0] if column not in ("rev", "typ", "parent", "State")]
    assert columns[:2] == ["Experiment", "Created"]
    assert set(columns[2:]) >= {"accuracy", "errors", "loss", "evaluate.model"}
    assert not [column for column in columns if re.search(r"/|comparison|mcnemar|_low|_high|\.json|\.py", column)]
    assert {row["Experiment"]: row["evaluate.model"] for row in rows}["chosen"] == "compact"

    assert json.loads(repro.dvc("params", "diff", "--json", "HEAD", "chosen")) == {
        "params.yaml": {"evaluate.model": {"old": "cnn", "new": "compact"}}
    }
    assert set(json.loads(repro.dvc("metrics", "diff", "--json", "HEAD", "chosen"))) == {"metrics/selected.json"}
    repro.dvc("plots", "diff", "HEAD", "chosen", "--out", str(tmp_path))
    page = (tmp_path / "index.html").read_text()
    for part in ("chosen", "HEAD", "val_loss", "compact confusion", "errors.png"):
        assert part in page

    try:
        repro.dvc("exp", "apply", "chosen")
        assert repro.params()["evaluate"]["model"] == "compact"
        assert repro.read("metrics/selected.json") == repro.read("metrics/compact.json")
        assert "up to date" in repro.dvc("status")
        repro.set(evaluate__model="dense", models__dense__seed=7)
        repro.dvc("repro", MLFLOW_TRACKING_URI=uri)
        repro.dvc("exp", "save", "--name", "kept")
    finally:
        repro.run("git", "restore", ".")
    repro.dvc("checkout")
    assert repro.read("params.yaml") == before
    kept = json.loads(repro.dvc("metrics", "diff", "--json", "HEAD", "kept"))["metrics/selected.json"]["accuracy"]
    assert kept["new"] != json.loads(repro.read("metrics/dense.json"))["accuracy"]

    # Its training had no name when it ran. What it shares with the commit keeps its own.
    repro.record(MLFLOW_TRACKING_URI=uri)
    found = {run.info.run_name: run for run in runs(mlflow.MlflowClient(uri))}
    assert set(found) == {"dense", "cnn", "compact", "dense (kept)"}
    assert found["dense (kept)"].data.tags["dvc_experiment"] == "kept"
    assert "dvc exp apply kept" in found["dense (kept)"].data.tags["mlflow.note.content"]
    repro.dvc("exp", "remove", "chosen", "kept")
    assert is_clean(repro)


def test_the_makefile_s_own_experiment_names_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(tmp_path)
    project.run("git", "init", "--quiet")
    (tmp_path / "dvc.lock").write_text("nothing yet\n")
    project.commit("start", "dvc.lock")
    base = project.run("git", "rev-parse", "HEAD").strip()
    (tmp_path / "dvc.lock").write_text("    - path: models/cnn/model.keras\n      hash: md5\n      md5: abc1\n")
    project.commit("an experiment", "dvc.lock")
    for name in ("mine", "baseline"):
        project.run("git", "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{name}", "HEAD")
    monkeypatch.chdir(tmp_path)
    assert list(provenance.experiments()) == [("mine", {"abc1"})]
