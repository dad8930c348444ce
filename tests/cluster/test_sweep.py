"""A search ends in the same trials whatever is killed meanwhile: real processes, nodes and drivers, on tiny data."""

import csv
import json
import os
import re
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

from mnistflow import splits, training
from mnistflow.params import ModelParams

pytest.importorskip("ray", reason="searches run on Ray: make cluster installs it")
pytest.importorskip("optuna", reason="searches ask Optuna: make cluster installs it")

EPOCHS = 30  # of a fifth of a second: time to stop a trial in the middle
PATIENCE = 280  # seconds: workers start slowly on a busy machine
SWEEP = {
    "model": "compact",
    "objective": "val_loss",
    "trials": 3,
    "seed": 1,
    "space": {"learning_rate": {"low": 0.001, "high": 0.02, "log": True}, "shift": {"low": 0, "high": 2}},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, new_project: Callable[[Path], Project]) -> Project:
    """A clone with a tiny data set, without a test set."""
    project = new_project(tmp_path_factory.mktemp("with space") / "project")
    project.set(models__compact__epochs=EPOCHS, models__compact__patience=EPOCHS)
    project.dvc("repro", "preprocess")
    return project


class Search:
    """One search in a project: its file, its command, what it left."""

    def __init__(self, project: Project, name: str, **changes: Any) -> None:
        self.project = project
        self.file = project.folder / f"{name}.yaml"
        YAML(typ="safe").dump(SWEEP | changes, self.file)
        self.client = mlflow.MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
        self.known = self._sweeps()

    def _sweeps(self) -> set[Path]:
        return set((self.project.folder / ".cache/sweeps").glob("*/"))

    @property
    def folder(self) -> Path:
        """Where its state is."""
        (folder,) = self._sweeps() - self.known
        return folder

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = ("python", "-m", "mnistflow.sweep", "--file", self.file.name, *options)
        return self.project.start(*command, PYTHONPATH="src")

    def run(self, *options: str, status: int = 0) -> str:
        process = self.start(*options)
        output, _ = process.communicate(timeout=2 * PATIENCE)
        assert process.returncode == status, output
        return output

    def trials(self) -> list[dict[str, Any]]:
        """What is written down of each trial."""
        if not self._sweeps() - self.known:
            return []
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("trial-*.json"))]

    def states(self) -> list[Path]:
        """What trainings could go on from."""
        return list(self.folder.glob("*/state.npz")) if self._sweeps() - self.known else []

    def parent(self) -> Run:
        (parent,) = runs(self.client, f"tags.sweep = '{self.folder.name}'")
        return parent

    def children(self) -> dict[str, Run]:
        """The runs of trainings by trial, of which none is there twice."""
        found = runs(self.client, f"tags.mlflow.parentRunId = '{self.parent().info.run_id}'")
        by_trial = {run.data.tags["trial"]: run for run in found}
        assert len(by_trial) == len(found)
        return by_trial

    def check(self, trials: int) -> None:
        """Make sure that so many trials were trained to their end, and that the record has each epoch of each once."""
        assert [trial["number"] for trial in self.trials()] == list(range(1, trials + 1))
        children = self.children()
        assert len(children) == trials
        for trial in self.trials():
            assert trial["status"] == "finished"
            run = children[str(trial["number"])]
            assert run.info.status == "FINISHED"
            for metric in ("val_loss", "epoch_seconds"):
                assert steps(self.client, run, metric) == list(range(1, EPOCHS + 1))
            assert run.data.metrics["best_val_loss"] == pytest.approx(trial["values"][str(EPOCHS)])
            for key, value in trial["settings"].items():
                assert float(run.data.params[key]) == value
        assert self.parent().info.status == "FINISHED"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of several node processes on loopback; its head runs no trial."""
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 0, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    yield cluster
    cluster.shutdown()


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")


def worker(search: Search, number: int) -> psutil.Process | None:
    """The process that is at a trial, if it is in the middle of it: it holds the lock of its training."""
    trial = next(trial for trial in search.trials() if trial["number"] == number)
    if trial["status"] != "running" or not 1 < len(trial["values"]) < EPOCHS - 5:
        return None
    (lock,) = search.folder.glob(f"{number}-*/lock")
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(lock) in {file.path for file in process.open_files()}:
                return process
    return None


def running(search: Search) -> list[int]:
    """The trials that are in the middle of their training."""
    return [trial["number"] for trial in search.trials() if worker(search, trial["number"])]


def test_it_ends_with_the_command_for_the_best_and_never_opens_the_test_set(project: Project) -> None:
    (project.folder / "data/arrays/test").rename(project.folder / "test set")
    halving = {"epochs": 2, "reduction": 2}
    search = Search(project, "whole", trials=5, early_stopping=halving, seeds=1)
    try:
        output = search.run()
    finally:
        (project.folder / "test set").rename(project.folder / "data/arrays/test")
    trials = search.trials()
    assert [trial["number"] for trial in trials] == [1, 2, 3, 4, 5]
    assert {trial["status"] for trial in trials} == {"finished", "stopped"}
    assert trials[0]["settings"] == {"learning_rate": 0.006, "shift": 1}  # those of params.yaml
    best = min((t for t in trials if t["status"] == "finished"), key=lambda t: t["values"][str(EPOCHS)])

    *_, last = output.splitlines()
    said = dict(re.findall(r"-S models\.compact\.(\w+)=(\S+)", last))
    assert {key: float(value) for key, value in said.items()} == best["settings"]
    assert "dvc exp run" in last
    assert len(output.splitlines()) < 25
    assert "ray" not in output.lower()

    with (project.folder / "sweep/trials.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == [trial["status"] for trial in trials]
    assert (project.folder / "sweep/search.png").read_bytes().startswith(b"\x89PNG")
    children = search.children()
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert {number: run.data.tags["outcome"] for number, run in children.items()} == {
        str(trial["number"]): trial["status"] for trial in trials
    }
    assert search.parent().data.metrics["best_val_loss"] == best["values"][str(EPOCHS)]
    assert {file.path for file in search.client.list_artifacts(search.parent().info.run_id)} == {
        "search.png",
        "trials.csv",
        "whole.yaml",
    }
    assert not search.states()

    # Once more, there is nothing to do; with more trials, only those are trained.
    before = {number: run.info.end_time for number, run in children.items()}
    assert search.run().splitlines()[-1] == last
    YAML(typ="safe").dump(SWEEP | {"trials": 6, "early_stopping": halving}, search.file)
    search.run()
    assert len(search.trials()) == len(search.children()) == 6
    assert {number: search.children()[number].info.end_time for number in before} == before
    settings = [tuple(trial["settings"].values()) for trial in search.trials()]
    assert len(set(settings)) == 6

    training = project.dvc("exp", "run", "--temp", *last.split("dvc exp run ")[1].split(), "train@compact")
    assert "Ran experiment" in training


def test_a_trial_is_the_mean_of_its_seeds(project: Project) -> None:
    search = Search(project, "seeds", trials=1, seeds=2)
    search.run()
    (trial,) = search.trials()
    found = runs(search.client, f"tags.mlflow.parentRunId = '{search.parent().info.run_id}'")
    assert sorted(run.data.params["seed"] for run in found) == ["1", "2"]
    values = [run.data.metrics["best_val_loss"] for run in found]
    assert trial["values"][str(2 * EPOCHS)] == pytest.approx(np.mean(values))


def test_a_lost_worker_and_a_lost_node_cost_no_trial(project: Project, cluster: Any) -> None:
    search = Search(project, "lost", seed=2)
    nodes = [add_node(cluster), add_node(cluster)]
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
    process = search.start("--address", cluster.address)
    try:
        wait_for(lambda: running(search), process, PATIENCE)
        first = worker(search, running(search)[0])
        assert first is not None
        first.kill()
        wait_for(lambda: any(trial["lost"] for trial in search.trials()), process, PATIENCE)
        wait_for(lambda: running(search), process, PATIENCE)
        second = worker(search, running(search)[0])
        assert second is not None
        cluster.remove_node(raylets.pop(second.ppid()), allow_graceful=False)
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        for node in raylets.values():
            cluster.remove_node(node)
        if process.poll() is None:
            kill(process)
    assert process.returncode == 0, output
    search.check(trials=3)
    assert sum(trial["lost"] for trial in search.trials()) >= 2
    for trial in search.trials():
        if trial["lost"]:
            assert re.search(rf"trial {trial['number']} was interrupted \(.+\) and will go on after epoch \d", output)
            assert re.search(rf"trial {trial['number']} was interrupted (once|\d times) and went on", output)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_same_command_goes_on_after_the_driver_ended(project: Project, how: signal.Signals) -> None:
    search = Search(project, f"ended by {how}", seed=10 + how)
    process = search.start()
    wait_for(lambda: any(trial["status"] == "finished" for trial in search.trials()), process, PATIENCE)
    wait_for(lambda: running(search), process, PATIENCE)
    if how is signal.SIGKILL:
        kill(process)
    else:
        os.kill(process.pid, how)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, output
        assert re.search(r"interrupted after \d of 3 trials; the same command goes on from here", output)
        assert {run.info.status for run in search.children().values()} == {"FINISHED", "KILLED"}
        assert search.parent().info.status == "KILLED"
    finished = [trial for trial in search.trials() if trial["status"] == "finished"]
    before = {str(trial["number"]): search.children()[str(trial["number"])].info.end_time for trial in finished}
    begun = {trial["number"]: trial["settings"] for trial in search.trials()}
    search.run()
    search.check(trials=3)
    assert {number: search.children()[number].info.end_time for number in before} == before
    assert {trial["number"]: trial["settings"] for trial in search.trials()}.items() >= begun.items()


def test_a_trial_that_raises_and_one_that_diverges_are_named_and_the_others_go_on(
    new_project: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = new_project(tmp_path / "project")
    code = project.folder / "src/mnistflow"
    bounds = (code / "params.py").read_text()
    (code / "params.py").write_text(
        bounds.replace("learning_rate: Annotated[float, Field(gt=0, le=1)]", "learning_rate: float")
    )
    loop = (code / "training.py").read_text()
    broken = '    if settings.shift == 2:\n        raise ValueError("a bug")\n    make_reproducible(settings.seed)\n'
    (code / "training.py").write_text(loop.replace("    make_reproducible(settings.seed)\n", broken, 1))
    # Trial 1 is that of params.yaml, and so diverges.
    project.set(models__compact__epochs=EPOCHS, models__compact__patience=EPOCHS, models__compact__learning_rate=1e30)
    project.dvc("repro", "preprocess")
    space = {"learning_rate": {"values": [0.006, 1e30]}, "shift": {"values": [1, 2]}}
    search = Search(project, "broken", trials=8, space=space, retries=1)
    output = search.run()
    outcomes = set()
    for trial in search.trials():
        outcome = "failed" if trial["settings"]["shift"] == 2 else "finished"
        if outcome == "finished" and trial["settings"]["learning_rate"] > 1:
            outcome = "diverged"
        assert trial["status"] == outcome
        run = search.children().get(str(trial["number"]))
        assert run is not None
        assert run.info.status == ("FINISHED" if outcome == "finished" else "FAILED")
        if outcome == "failed":
            assert f"trial {trial['number']} failed: ValueError: a bug" in output
            assert trial["lost"] == 1
        if outcome == "diverged":
            assert f"trial {trial['number']} diverged: training of compact diverged: its loss is" in output
            assert trial["lost"] == 0
        outcomes.add(outcome)
    assert outcomes == {"finished", "diverged", "failed"}


def test_what_is_asked_of_a_cluster_and_not_there_is_one_sentence(project: Project) -> None:
    search = Search(project, "large", resources={"cpus": 1000})
    output = search.run(status=1)
    assert "error: resources: a trial takes 1000 cores and 0 GPUs, and no machine has them" in output
    assert "Traceback" not in output
    output = Search(project, "nowhere").run("--address", "127.0.0.1:1", status=1)
    assert "error: no Ray cluster can be used at 127.0.0.1:1" in output
    assert "Traceback" not in output


def test_a_seed_study_measures_what_one_training_after_the_other_gives(project: Project) -> None:
    output = project.run("python", "bench/seeds.py", "compact", "3", "--set", "epochs=2", PYTHONPATH="src")
    with (project.folder / "bench/results/seeds-tiny-compact.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["1", "2", "3"]
    settings = ModelParams(**{**project.params()["models"]["compact"], "seed": 2, "epochs": 2})
    sets = [splits.load(project.folder / "data/arrays" / part) for part in ("training", "validation", "test")]
    model, progress = training.train(
        "compact", settings, *sets[:2], project.folder / "alone.npz", lambda done: None, lambda rows, seconds: None
    )
    right = model.predict(sets[2].images, verbose=0).argmax(axis=1) == sets[2].labels
    assert float(rows[1]["accuracy"]) == right.mean()
    assert int(rows[1]["epochs"]) == len(progress.history) == 2
    mean = np.mean([float(row["accuracy"]) for row in rows])
    assert f"| tiny-compact | 3 | {mean:.2%} |" in output
    assert not list((project.folder / ".cache/sweeps").glob("*/3-3"))
