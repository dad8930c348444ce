"""A search loses no trial, whatever is killed meanwhile: real workers, nodes and drivers, on tiny data."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
import pytest
from conftest import Project, kill, runs, steps, wait_for
from mlflow.entities import Run
from ruamel.yaml import YAML

from mnistflow.core.params import ModelSettings
from mnistflow.data import arrays
from mnistflow.training import loop

pytest.importorskip("ray", reason="searches run on Ray: make cluster")
pytest.importorskip("optuna", reason="searches ask Optuna: make cluster")
pytestmark = pytest.mark.slow

EPOCHS = 16  # of a fifth of a second: time to stop a trial in the middle
PATIENCE = 200  # seconds: workers start slowly on a busy machine
SWEEP = {
    "model": "compact",
    "objective": "val_loss",
    "trials": 2,
    "seed": 1,
    "space": {"learning_rate": {"low": 0.001, "high": 0.02, "log": True}, "shift": {"low": 0, "high": 2}},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, new_project: Callable[[Path], Project]) -> Project:
    """A clone with a tiny data set, decoded."""
    project = new_project(tmp_path_factory.mktemp("with space") / "project")
    project.set(models__compact__epochs=EPOCHS, models__compact__patience=EPOCHS)
    project.dvc("repro", "preprocess")
    return project


class Search:
    """One search in a project: its command, and what it left."""

    def __init__(self, project: Project, name: str, **changes: Any) -> None:
        self.project = project
        self.file = project.folder / f"{name}.yaml"
        YAML(typ="safe").dump(SWEEP | changes, self.file)
        self.client = mlflow.MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
        self.earlier = self._plans()

    def _plans(self) -> set[Path]:
        return {path.parent for path in self.project.states("search-*/trial-00001.json")}

    @property
    def folder(self) -> Path:
        """The folder of its trials' files."""
        (folder,) = self._plans() - self.earlier
        return folder

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = ("python", "-m", "mnistflow.search.sweep", "--file", self.file.name, *options)
        return self.project.start(*command, PYTHONPATH="src")

    def run(self, *options: str, status: int = 0) -> str:
        process = self.start(*options)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == status, output
        return output

    def trials(self) -> list[dict[str, Any]]:
        if not self._plans() - self.earlier:
            return []
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("trial-*.json"))]

    def halfway(self) -> list[int]:
        """The trials that are in the middle of their training."""
        return [
            trial["number"]
            for trial in self.trials()
            if trial["status"] == "running" and 1 < len(trial["values"]) < EPOCHS - 4
        ]

    def worker(self, number: int) -> psutil.Process:
        """The process that trains a trial: it holds the lock of the training."""
        (lock,) = self.project.states(f"{self.folder.name}-{number}-*.lock")
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if str(lock) in {file.path for file in process.open_files()}:
                    return process
        raise AssertionError(f"no process is at trial {number}")

    def parent(self) -> Run:
        (parent,) = runs(self.client, f"tags.plan = '{self.folder.name}'")
        return parent

    def children(self) -> dict[int, Run]:
        """The runs of trainings by trial; each trial has one."""
        found = runs(self.client, f"tags.mlflow.parentRunId = '{self.parent().info.run_id}'")
        by_trial = {int(run.data.tags["trial"]): run for run in found}
        assert len(by_trial) == len(found)
        return by_trial

    def check(self) -> None:
        """Check that each trial came to its end once, and that the record has each of its epochs once."""
        assert [trial["number"] for trial in self.trials()] == [1, 2]
        children = self.children()
        for trial in self.trials():
            assert trial["status"] == "finished"
            run = children[trial["number"]]
            assert run.info.status == "FINISHED"
            for metric in ("val_loss", "epoch_seconds"):
                assert steps(self.client, run, metric) == list(range(1, EPOCHS + 1))
            assert run.data.metrics["best_val_loss"] == pytest.approx(trial["values"][-1])
        assert self.parent().info.status == "FINISHED"
        assert not self.project.states(f"{self.folder.name}-*")


def test_a_search_ends_with_the_command_for_the_best_and_grows_by_more_trials(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)  # the addresses of artifacts are relative
    halving = {"epochs": 2, "reduction": 2}
    search = Search(project, "whole", trials=4, early_stopping=halving)
    (project.folder / "data/test").rename(project.folder / "test set")  # a search has no need of it
    try:
        output = search.run()
    finally:
        (project.folder / "test set").rename(project.folder / "data/test")
    trials = search.trials()
    assert [trial["number"] for trial in trials] == [1, 2, 3, 4]
    assert {trial["status"] for trial in trials} <= {"finished", "stopped"}
    assert trials[0]["settings"] == {"learning_rate": 0.006, "shift": 1}  # those of params.yaml
    best = min((trial for trial in trials if trial["status"] == "finished"), key=lambda trial: trial["values"][-1])
    last = output.splitlines()[-1]
    options = dict(re.findall(r"-S models\.compact\.(\w+)=(\S+)", last))
    assert "dvc exp run" in last
    assert {key: float(value) for key, value in options.items()} == best["settings"]

    with (project.folder / "sweep/trials.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == [trial["status"] for trial in trials]
    assert (project.folder / "sweep/search.png").read_bytes().startswith(b"\x89PNG")
    children = search.children()
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert [children[trial["number"]].data.tags["outcome"] for trial in trials] == [trial["status"] for trial in trials]
    assert search.parent().data.metrics["best_val_loss"] == best["values"][-1]
    artifacts = search.client.list_artifacts(search.parent().info.run_id)
    assert {file.path for file in artifacts} == {"search.png", "trials.csv", "whole.yaml"}

    YAML(typ="safe").dump(SWEEP | {"trials": 5, "early_stopping": halving}, search.file)
    search.run()
    assert search.trials()[:4] == trials
    assert len(search.trials()) == len(search.children()) == 5
    ends = {number: run.info.end_time for number, run in children.items()}
    assert {number: search.children()[number].info.end_time for number in ends} == ends


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster of several node processes on loopback; its head runs no trial."""
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 0, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    yield cluster
    cluster.shutdown()


def test_a_lost_worker_and_a_lost_node_cost_no_trial(project: Project, cluster: Any) -> None:
    nodes = [cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1") for _ in range(2)]
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
    search = Search(project, "lost", seed=2)
    process = search.start("--address", cluster.address)
    try:
        wait_for(search.halfway, process, PATIENCE)
        search.worker(search.halfway()[0]).kill()
        wait_for(lambda: any(trial["interruptions"] for trial in search.trials()), process, PATIENCE)
        wait_for(search.halfway, process, PATIENCE)
        node = raylets.pop(search.worker(search.halfway()[0]).ppid())
        cluster.remove_node(node, allow_graceful=False)
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            kill(process)
    assert process.returncode == 0, output
    search.check()
    assert sum(trial["interruptions"] for trial in search.trials()) >= 2
    for trial in search.trials():
        if trial["interruptions"]:
            assert re.search(rf"trial {trial['number']} was interrupted \(.+\) and will go on after epoch \d", output)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_same_command_goes_on_after_its_end(project: Project, how: signal.Signals) -> None:
    search = Search(project, f"ended by {how}", seed=10 + how)
    process = search.start()
    wait_for(search.halfway, process, PATIENCE)
    if how is signal.SIGKILL:
        kill(process)
    else:
        os.kill(process.pid, how)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, output
        assert "error: interrupted; run the same command again to go on." in output
        assert {run.info.status for run in search.children().values()} <= {"FINISHED", "KILLED"}
        assert search.parent().info.status == "KILLED"
    begun = search.trials()
    search.run()
    search.check()
    for before, after in zip(begun, search.trials(), strict=False):
        assert after["settings"] == before["settings"]
        assert after["values"][: len(before["values"])] == before["values"]


def test_a_trial_that_raises_is_tried_again_and_named_while_the_others_go_on(project: Project, tmp_path: Path) -> None:
    broken = Project(tmp_path / "project")
    shutil.copytree(project.folder, broken.folder, ignore=shutil.ignore_patterns("mlflow.db*", ".cache", "mlruns"))
    code = broken.folder / "src/mnistflow/training/loop.py"
    line = "    make_reproducible(settings.seed)\n"
    assert line in code.read_text()
    bug = '    if settings.shift == 2:\n        raise ValueError("a bug")\n'
    code.write_text(code.read_text().replace(line, bug + line, 1))
    broken.set(models__compact__epochs=2)
    search = Search(broken, "broken", space={"shift": {"values": [1, 2]}}, trials=4, retries=1)
    output = search.run()
    outcomes = {trial["settings"]["shift"]: trial["status"] for trial in search.trials()}
    assert outcomes == {1: "finished", 2: "failed"}
    for trial in search.trials():
        is_failed = trial["status"] == "failed"
        assert search.children()[trial["number"]].info.status == ("FAILED" if is_failed else "FINISHED")
        assert trial["interruptions"] == is_failed
        assert (f"trial {trial['number']} failed: ValueError: a bug" in output) == is_failed


def test_a_cluster_that_will_not_do_is_one_sentence(project: Project) -> None:
    output = Search(project, "nowhere").run("--address", "127.0.0.1:1", status=1)
    assert "error: no Ray cluster can be used at 127.0.0.1:1" in output
    assert "Traceback" not in output
    output = Search(project, "large", resources={"cpus": 1000}).run(status=1)
    assert "error: resources: a trial needs 1000 cores and 0 GPUs, and no machine has them" in output
    assert "Traceback" not in output


def test_a_seed_study_measures_what_single_trainings_give(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("python", "-m", "mnistflow.search.seeds", "compact", "2", "--set", "epochs=2")
    output = project.run(*command, PYTHONPATH="src")
    with (project.folder / "bench/results/seeds-tiny-compact.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["1", "2"]
    assert (project.folder / "bench/results/seeds.png").read_bytes().startswith(b"\x89PNG")
    assert "| tiny-compact | 2 | " in output
    assert not project.states("seed*")

    monkeypatch.chdir(project.folder)
    training, validation, test = (arrays.load(arrays.DATA / part) for part in arrays.PARTS)
    predicted = []
    for seed, row in enumerate(rows, start=1):
        settings = ModelSettings(**{**project.params()["models"]["compact"], "seed": seed, "epochs": 2})
        state = project.folder / f"alone-{seed}.npz"
        model, progress = loop.train("compact", settings, training, validation, 10, state, lambda rows, seconds: None)
        predicted.append(model.predict(test.images, verbose=0))
        assert float(row["accuracy"]) == (predicted[-1].argmax(axis=1) == test.labels).mean()
        assert int(row["epochs"]) == len(progress.history) == 2
    averaged = (np.mean(predicted, axis=0).argmax(axis=1) == test.labels).mean()
    assert f"the first 2 models together, by the mean of their probabilities: {averaged:.2%}" in output
