"""One training on several processes is the training of one, and outlives the loss of any."""

import json
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import Project, client_of, clone, kill, runs, steps, wait_for

from mnistflow.data import arrays
from mnistflow.data.arrays import Split
from mnistflow.training import history

pytest.importorskip("jax", reason="JAX is not installed: make cluster")
pytestmark = pytest.mark.slow

EPOCHS = 3


@pytest.fixture(scope="module")
def trained(tiny: tuple[Split, Split], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone with 300 images to train on and 100 to validate with, in which two processes have trained `compact`."""
    project = clone(tmp_path_factory.mktemp("hosts") / "project")
    data = project.folder / arrays.DATA
    for part, split in zip(("training", "validation"), tiny, strict=True):
        arrays.save(data / part, split)
    description = arrays.Description("tiny", (28, 28), list("0123456789"), 100, None)
    (project.folder / arrays.DESCRIPTION).write_text(json.dumps(description._asdict()))
    project.set(models__compact__epochs=EPOCHS, models__compact__batch_size=20)
    project.run(*hosts("compact", "undisturbed"), **processes(2), MLFLOW_TRACKING_URI="sqlite:///other.db")
    return project


@pytest.fixture
def project(trained: Project, tmp_path: Path) -> Project:
    """A copy of that clone, to work in."""
    shutil.copytree(trained.folder, tmp_path / "project")
    return Project(tmp_path / "project")


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


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_all_and_the_same_command_goes_on(project: Project, lost: int) -> None:
    process = project.start(*hosts("compact", "out"), **processes(2))
    wait_for(lambda: project.states("compact-*/state.npz"), process, seconds=240)
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
    assert "epoch  1 " not in output
    assert f"epoch  {EPOCHS} " in output
    for file in ("history.csv", "model.keras"):
        assert project.read(f"out/{file}") == project.read(f"undisturbed/{file}")
    assert not project.states()
    (run,) = runs(client_of(project))
    assert run.info.status == "FINISHED"
    assert steps(client_of(project), run) == list(range(1, EPOCHS + 1))
    assert len(run.outputs.model_outputs) == 1


def test_a_host_with_other_settings_is_refused(project: Project, tmp_path: Path) -> None:
    other = Project(tmp_path / "other")
    shutil.copytree(project.folder, other.folder)
    other.set(models__compact__seed=2)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    own = {**processes(2), "KERAS_DISTRIBUTION_JOB_ADDRESSES": address, "JAX_COORDINATOR_BIND_ADDRESS": address}
    first = project.start(*hosts("compact", "out"), **own, KERAS_DISTRIBUTION_PROCESS_ID="0")
    try:
        output = other.run(*hosts("compact", "out"), status=1, **own, KERAS_DISTRIBUTION_PROCESS_ID="1")
        assert "error: parameters, code, versions or images here are not those of process 0." in output
    finally:
        kill(first)


def test_a_training_that_can_t_begin_is_one_sentence(project: Project) -> None:
    output = project.run(*hosts("tiny", "out"), **processes(2), status=1)
    assert output.startswith("error: there is no model 'tiny'; dense, cnn, compact are known.")
    output = project.run(*hosts("compact", "out"), **processes(3), status=1)
    assert "error: models.compact.batch_size is 20, no multiple of the 3 devices." in output
