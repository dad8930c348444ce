"""Nothing is lost: the workflow killed, out of room, damaged, beside others. On tiny data, with real faults."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import COMPACT_EPOCHS, RECORD, Mirror, Project, is_clean, kill, runs, steps, wait_for
from ruamel.yaml import YAML

from mnistflow.workspace import md5

EPOCHS = {"dense": 2, "cnn": 1, "compact": COMPACT_EPOCHS}


def check_record(uri: str) -> None:
    """Make sure that the store holds one finished run per model, with its model and its evaluation, nothing twice."""
    client = mlflow.MlflowClient(uri)
    found = runs(client)
    assert sorted(run.data.tags["model"] for run in found) == sorted(EPOCHS)
    for run in found:
        assert run.info.status == "FINISHED"
        assert steps(client, run) == list(range(1, EPOCHS[run.data.tags["model"]] + 1))
        assert len(run.outputs.model_outputs) == 1
        assert "test_accuracy" in run.data.metrics
        for metric in run.data.metrics.keys() - {"test_milliseconds_per_image"}:  # a new one each time
            logged = steps(client, run, metric)
            assert len(logged) == len(set(logged)), metric


def locked(project: Project) -> Any:
    """What dvc.lock holds; the order of its stages is that in which they first ran."""
    return YAML(typ="safe").load(project.folder / "dvc.lock")


def left_behind(project: Project) -> list[Path]:
    """Files that a process was still writing when it ended."""
    return [path for path in project.folder.rglob(".*@*") if ".git" not in path.parts]


def check_outcome(project: Project, repro: Project) -> None:
    """Make sure that a project ended as one that nobody disturbed, on record and with nothing left behind."""
    project.record()
    assert project.outputs() == repro.outputs()
    assert locked(project) == locked(repro)
    check_record(f"sqlite:///{project.folder}/mlflow.db")
    assert not project.states()
    assert not left_behind(project)


def test_killed_in_every_stage_it_ends_in_the_bytes_of_a_run_that_nobody_touched(
    repro: Project, new_project: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = new_project(tmp_path / "another place")

    moments = {
        "fetch": ".cache/downloads/tiny/t*",
        "preprocess": "data/arrays/training/images.npy",
        "train@compact": (
            ".cache/training/*/journal.json",  # before the first epoch
            ".cache/training/*/state.npz",  # after an epoch
            "models/compact/model.keras",  # among its outputs
            "mlruns/*/artifacts/history.csv",  # among what is logged
            ".cache/training/*/finished",  # between its end and DVC's note of it
        ),
        "evaluate@compact": (
            "evaluation/compact/predictions.csv",
            "mlruns/*/artifacts/evaluation/report.json",  # among what is logged
        ),
    }
    for target, patterns in moments.items():
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            process = project.start("dvc", "repro", target)
            wait_for(lambda pattern=pattern: any(project.folder.glob(pattern)), process)
            kill(process)
    project.dvc("repro")
    check_outcome(project, repro)


def test_what_is_damaged_is_made_again(repro: Project) -> None:
    before, lock = repro.outputs(), repro.read("dvc.lock")
    damaged = [
        "data/raw/t10k-labels-idx1-ubyte.gz",
        "data/arrays/training/images.npy",
        "data/arrays/validation/labels.npy",
        "models/dense/model.keras",
        "models/compact/history.csv",
        "evaluation/cnn/predictions.csv",
        "metrics/dense.json",
        "plots/loss.png",
    ]
    for way in (flip, truncate):
        for path in damaged:
            way(repro.folder / path)
        repro.dvc("repro")
        assert repro.outputs() == before
        assert repro.read("dvc.lock") == lock


def test_a_damaged_download_is_had_again(repro: Project, mirror: Mirror) -> None:
    flip(repro.folder / ".cache/downloads/tiny/train-labels-idx1-ubyte.gz")
    mirror.requests.clear()
    repro.dvc("repro", "--force", "--single-item", "fetch")
    assert mirror.requests == ["/train-labels-idx1-ubyte.gz"]
    assert is_clean(repro)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_a_restoring_that_is_killed_is_completed(repro: Project, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/other.db"
    for pattern in ("history.csv", "evaluation/report.json"):
        process = repro.start(*RECORD, PYTHONPATH="src", MLFLOW_TRACKING_URI=uri)
        wait_for(lambda pattern=pattern: any(tmp_path.glob(f"mlruns/*/artifacts/{pattern}")), process)
        kill(process)
    repro.record(MLFLOW_TRACKING_URI=uri)
    check_record(uri)


@pytest.mark.parametrize("seeds", [(1, 2), (1, 1)], ids=["two models", "the same model"])
def test_two_clones_start_at_once_with_one_store(
    new_project: Callable[[Path], Project], tmp_path: Path, seeds: tuple[int, int]
) -> None:
    uri = f"sqlite:///{tmp_path}/shared.db"
    projects = [new_project(tmp_path / name) for name in ("one", "two")]
    for seed, project in zip(seeds, projects, strict=True):
        project.set(models__dense__seed=seed)
    processes = [project.start("dvc", "repro", "evaluate@dense", MLFLOW_TRACKING_URI=uri) for project in projects]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    found = sorted(runs(mlflow.MlflowClient(uri)), key=lambda run: run.data.params["seed"])
    assert [int(run.data.params["seed"]) for run in found] == sorted(seeds)
    for run, project in zip(found, projects, strict=True):
        assert run.info.status == "FINISHED"
        (model,) = (project.folder / "models/dense/model.keras").parent.glob("*.keras")
        assert run.data.tags["model_md5"] == md5(model)
        assert run.data.metrics["test_accuracy"] == json.loads(project.read("metrics/dense.json"))["accuracy"]
        assert len(run.outputs.model_outputs) == 1
    assert len({run.data.tags["model_md5"] for run in found}) == len(set(seeds))


def test_two_queued_experiments_run_at_once(repro: Project) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{repro.folder}/mlflow.db")
    before = {run.info.run_id for run in runs(client)}
    repro.dvc("exp", "run", "--queue", "--name", "left", "--set-param", "models.dense.seed=11")
    repro.dvc("exp", "run", "--queue", "--name", "right", "--set-param", "models.dense.seed=12")
    repro.dvc("queue", "start", "--jobs", "2")
    try:
        until = time.monotonic() + 240
        while re.search(r"Running|Queued", status := repro.dvc("queue", "status")):
            assert time.monotonic() < until, status
            time.sleep(1)
        assert status.count("Success") == 2, status + repro.dvc("queue", "logs", "left")
    finally:
        repro.dvc("queue", "stop", "--kill")
    new = {run.data.tags["dvc_experiment"]: run for run in runs(client) if run.info.run_id not in before}
    assert {name: run.data.params["seed"] for name, run in new.items()} == {"left": "11", "right": "12"}
    for name, run in new.items():
        assert run.info.status == "FINISHED"
        assert steps(client, run) == [1, 2]
        changes = json.loads(repro.dvc("metrics", "diff", "--all", "--json", "HEAD", name))
        assert run.data.metrics["test_accuracy"] == changes["metrics/dense.json"]["accuracy"]["new"]
    assert not repro.states()
    assert is_clean(repro)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A real file system of `size` in place of a folder; yields what changes its mount options."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("making a full disk takes a root that may mount")

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_on_a_full_or_read_only_disk_a_stage_ends_in_a_sentence_and_goes_on_later(
    repro: Project, new_project: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = new_project(tmp_path / "project")

    def fails(target: str, place: str, reason: str) -> None:
        output = project.dvc("repro", target, status=255)
        assert re.search(rf"^error: {place}: {reason}; make room or permit writing, then run again\.$", output, re.M), (
            output
        )
        assert "Traceback" not in output
        assert not left_behind(project)

    full = "No space left on device"
    with small_disk(project.folder / "data", "200k") as data, small_disk(project.folder / "models", "50k") as models:
        fails("preprocess", "data/arrays/training/images.npy", full)
        assert not (project.folder / "data/arrays/training/images.npy").exists()
        data("size=20m")
        with small_disk(project.folder / ".cache/training", "100k") as cache:
            fails("train@compact", r"\S+/state.npz", full)
            cache("size=20m")
            fails("train@compact", "models/compact/model.keras", full)
            assert not (project.folder / "models/compact/model.keras").exists()
            cache("ro")
            fails("train@compact", r"\S+", "Read-only file system")
            cache("rw")
            models("size=20m")
            assert "epoch  1" not in project.dvc("repro", "train@compact")
        made = project.outputs()
        assert made == {path: content for path, content in repro.outputs().items() if path in made}
        assert "models/compact/model.keras" in made


def test_a_training_that_diverges_keeps_nothing_and_is_on_record_as_failed(
    new_project: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = new_project(tmp_path / "project")
    # No learning rate that params.yaml may hold is sure to do it.
    code = project.folder / "src/mnistflow/params.py"
    code.write_text(code.read_text().replace("Field(gt=0, le=1)", "Field(gt=0)"))
    project.set(models__dense__learning_rate=1e30)
    output = project.dvc("repro", "train@dense", status=255)
    assert re.search(
        r"^error: training of dense diverged: its loss is .* at a learning rate of 1e\+30; lower ", output, re.M
    )
    assert "Traceback" not in output
    assert not project.states()
    assert not (project.folder / "models/dense/model.keras").exists()
    (run,) = runs(mlflow.MlflowClient(f"sqlite:///{project.folder}/mlflow.db"))
    assert run.info.status == "FAILED"
    assert run.data.tags["failure"] in output
    assert f"It failed: {run.data.tags['failure']}" in run.data.tags["mlflow.note.content"]
    assert not run.outputs.model_outputs
