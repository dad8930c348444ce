"""One training on several processes is the training of one, and outlives the loss of any."""

import shutil
import signal
from pathlib import Path

import mlflow
import numpy as np
import pytest
from conftest import Project, clone, kill, runs, steps, wait_for
from test_server import free_ports

from mnistflow import history, splits
from mnistflow.splits import Split

pytest.importorskip("jax", reason="JAX is not installed: make cluster")
psutil = pytest.importorskip("psutil")

EPOCHS = 4


@pytest.fixture
def project(tiny: tuple[Split, Split], tmp_path: Path) -> Project:
    """A clone with 300 images to train on and 100 to validate with; nothing else was run in it."""
    project = clone(tmp_path / "project")
    for name, split in zip(("training", "validation"), tiny, strict=True):
        splits.save(project.folder / "data/arrays" / name, split)
    project.set(models__compact__epochs=EPOCHS, models__compact__batch_size=20)
    return project


def hosts(name: str, output: str) -> tuple[str, ...]:
    return ("python", "cluster/hosts.py", name, output)


def processes(count: int) -> dict[str, str]:
    return {"PYTHONPATH": "src", "KERAS_DISTRIBUTION_NUM_PROCESSES": str(count)}


def test_two_processes_compute_what_one_does(project: Project) -> None:
    """On the whole set at each step, which leaves nothing to the order of the images."""
    project.set(models__dense__batch_size=300, models__dense__epochs=5)
    for count in (1, 2):
        project.run(*hosts("dense", f"out/{count}"), **processes(count))
    one, two = (history.read(project.folder / f"out/{count}/history.csv") for count in (1, 2))
    assert len(one) == 5
    for column in ("loss", "accuracy", "val_loss", "val_accuracy"):
        values = [[getattr(row, column) for row in rows] for rows in (one, two)]
        np.testing.assert_allclose(*values, rtol=1e-4, err_msg=column)


def test_a_lost_process_ends_in_a_sentence_and_the_same_command_goes_on(project: Project) -> None:
    elsewhere = {"MLFLOW_TRACKING_URI": "sqlite:///other.db"}
    project.run(*hosts("compact", "undisturbed"), **processes(2), **elsewhere)

    def progress() -> list[int]:
        return [state.stat().st_mtime_ns for state in project.states("compact-*/state.npz")]

    for lost in (1, 0):
        process, before = project.start(*hosts("compact", "out"), **processes(2)), progress()
        wait_for(lambda before=before: progress() not in ([], before), process, seconds=240)
        (victim,) = (
            child
            for child in psutil.Process(process.pid).children()
            if child.environ()["KERAS_DISTRIBUTION_PROCESS_ID"] == str(lost)
        )
        victim.send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 1, output
        assert f"error: process {lost} of 2 was lost (signal 9); the same command goes on after the last" in output
        assert "Traceback" not in output
        assert not (project.folder / "out/model.keras").exists()

    output = project.run(*hosts("compact", "out"), **processes(2))
    assert "epoch  2 " not in output
    assert f"epoch  {EPOCHS} " in output
    for file in ("history.csv", "model.keras"):
        assert project.read(f"out/{file}") == project.read(f"undisturbed/{file}")
    assert not project.states()
    client = mlflow.MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    (run,) = runs(client)
    assert run.info.status == "FINISHED"
    assert steps(client, run) == list(range(1, EPOCHS + 1))
    assert len(run.outputs.model_outputs) == 1


def test_a_host_with_other_parameters_is_told_so(project: Project, tmp_path: Path) -> None:
    other = Project(tmp_path / "other")
    shutil.copytree(project.folder, other.folder)
    other.set(models__compact__seed=2)
    (port,) = free_ports(1)
    own = {**processes(2), "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port}"}
    own["JAX_COORDINATOR_BIND_ADDRESS"] = f"127.0.0.1:{port}"
    first = project.start(*hosts("compact", "out"), **own, KERAS_DISTRIBUTION_PROCESS_ID="0")
    try:
        said = other.run(*hosts("compact", "out"), status=1, **own, KERAS_DISTRIBUTION_PROCESS_ID="1")
        assert "error: parameters, code, versions or images here are not those of process 0." in said
    finally:
        kill(first)


def test_what_can_t_be_trained_is_one_sentence(project: Project) -> None:
    said = project.run(*hosts("tiny", "out"), **processes(2), status=1)
    assert said == "error: there is no model 'tiny'; dense, cnn, compact are known.\n"
    said = project.run(*hosts("compact", "out"), **processes(3), status=1)
    assert "error: models.compact.batch_size is 20, no multiple of the 3 devices." in said
