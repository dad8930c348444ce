"""A team's record: what the documented command starts, several that write at once, and a record that moves there."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from conftest import HERE, Project, inside, runs, steps
from mlflow.entities import Run
from ruamel.yaml import YAML

from mnistflow.core.files import md5, read_json, write_text
from mnistflow.data import arrays
from mnistflow.data.arrays import Split
from mnistflow.evaluation import metrics, predictions
from mnistflow.tracking import registry, store
from mnistflow.tracking import runs as tracking
from mnistflow.training import archive, backend, history
from mnistflow.training.history import Epoch

pytest.importorskip("psycopg", reason="psycopg is not installed: make cluster")

WRITERS, EPOCHS = 4, 20
DETAILS = {"dataset": "tiny", "validation": 100, "selected_on": "validation", "training_images": 300}
SETTINGS = {"epochs": EPOCHS, "schedule": "constant", "optimizer": "adam", "learning_rate": 0.1, "batch_size": 10}
CLASSES = list("0123456789")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the user postgres can reach, as pytest's own are not; its path has a space in it."""
    if not (shutil.which("initdb") or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))):
        pytest.skip("PostgreSQL is not installed; Debian's package is postgresql")
    with tempfile.TemporaryDirectory(prefix="a team's ") as name:
        Path(name).chmod(0o711)
        yield Path(name, "record")


@pytest.fixture
def project(tmp_path: Path, tiny: tuple[Split, Split], monkeypatch: pytest.MonkeyPatch) -> Project:
    """A folder with the data of a project, in which everything here works."""
    project = Project(tmp_path / "a project")
    project.folder.mkdir()
    monkeypatch.chdir(project.folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for part, split in zip(("validation", "test"), tiny, strict=True):
        arrays.save(arrays.DATA / part, split)
    description = arrays.Description("tiny", (28, 28), CLASSES, 100, None)
    arrays.DESCRIPTION.write_text(json.dumps(description._asdict()))
    Path("dvc.lock").touch()
    return project


def free_ports(count: int) -> list[str]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def team(folder: Path, *ports: str) -> Iterator[tuple[str, str]]:
    """What `make server` starts, until Ctrl-C; yields the addresses of the MLflow server and of the database."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PG"))}
    process = subprocess.Popen(
        [sys.executable, str(HERE / "cluster/server.py"), str(folder), *ports],
        env=environment | {"PYTHONPATH": str(HERE / "src")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    output = ""
    try:
        while "Next" not in output:
            line = process.stdout.readline()
            assert line, output
            output += line
        (server,) = set(re.findall(r"http://127.0.0.1:\d+", output))
        (database,) = re.findall(r"postgresql\S+", output)
        yield server, database
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert "stopped; the same command goes on" in rest
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0, "a server was left behind"


def rows(number: int) -> list[Epoch]:
    """A history that no other writer has."""
    return [Epoch(epoch, *(number + 1 / (epoch + column) for column in range(5))) for epoch in range(1, EPOCHS + 1)]


def write(number: int, project: Path, environment: dict[str, str], start: Barrier) -> None:
    """Write the record of a training as the stages train and evaluate do, for an untrained network."""
    os.environ |= environment
    os.chdir(project)
    name = f"dense-{number}"
    trained, evaluated = Path("models", name), Path("evaluation", name)
    trained.mkdir(parents=True)
    settings = {**SETTINGS, "seed": number}
    details = {**DETAILS, "model": name, "settings": settings, "training_sha256": "0" * 64}
    results = {"epochs": EPOCHS, "best_epoch": EPOCHS, "parameters": 407_050}
    backend.keras.utils.set_random_seed(number)
    model = backend.network("dense").build((28, 28), len(CLASSES))
    test = arrays.load(arrays.DATA / "test")
    start.wait()
    with tracking.training(Path(f"{number}.json"), details) as run:
        for epoch in range(1, EPOCHS + 1):
            run.log_epochs(rows(number)[:epoch], 0.1)
        archive.save(trained / "model.keras", model)
        history.write(trained / "history.csv", rows(number))
        write_text(trained / "training.json", json.dumps({**details, **results}))
        run.log_outputs(trained, model, arrays.load(arrays.DATA / "validation"), 2.0)
    probabilities = model.predict(test.images, verbose=0)
    values = metrics.headline(probabilities, test.labels) | {"selected_on": "validation"}
    report = {"model": name, "model_md5": md5(trained / "model.keras"), "test_sha256": "0" * 64}
    predictions.write(evaluated, test, probabilities, {**report, "classes": CLASSES, "metrics": values})
    tracking.log_evaluation(name)


def write_at_once(project: Project, writers: int, **environment: str) -> None:
    """Several processes write a training each, all from the same moment on; they share what they imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mnistflow.tracking.runs", "mnistflow.training.archive"])
    start = context.Barrier(writers)
    processes = [
        context.Process(target=write, args=(number, project.folder, environment, start)) for number in range(writers)
    ]
    with pytest.MonkeyPatch.context() as patch:
        # For the process from which all are forked.
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(HERE / "src"), str(HERE / "tests"), str(HERE / "tests/cluster")])
        )
        for process in processes:
            process.start()
    for process in processes:
        process.join(timeout=240)
    assert [process.exitcode for process in processes] == [0] * writers


def check_written(client: mlflow.MlflowClient, project: Project) -> None:
    """Check that each writer's training is in a run of its own, all of it and nothing else."""
    written = {int(run.data.params["seed"]): run for run in runs(client)}
    assert sorted(written) == list(range(WRITERS))
    assert len(runs(client)) == WRITERS
    for number, run in written.items():
        trained, evaluated = (project.folder / kind / f"dense-{number}" for kind in ("models", "evaluation"))
        assert run.info.status == "FINISHED"
        assert run.data.tags["model_md5"] == md5(trained / "model.keras")
        for metric in ("loss", "val_loss", "val_accuracy", "epoch_seconds"):
            assert steps(client, run, metric) == list(range(1, EPOCHS + 1))
        losses = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "val_loss")}
        assert losses == {row.epoch: row.val_loss for row in rows(number)}
        assert run.data.metrics["test/accuracy"] == read_json(evaluated / "report.json")["metrics"]["accuracy"]
        assert len(run.outputs.model_outputs) == 1
        with tempfile.TemporaryDirectory() as copy:
            client.download_artifacts(run.info.run_id, "", copy)
            for file in ("model.keras", "history.csv", "training.json"):
                assert Path(copy, file).read_bytes() == (trained / file).read_bytes()
            for file in ("predictions.csv", "errors.npy", "report.json"):
                assert Path(copy, "evaluation", file).read_bytes() == (evaluated / file).read_bytes()


@pytest.mark.slow
def test_several_at_once_lose_nothing_on_a_new_server_which_goes_on_with_it(
    folder: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = free_ports(2)
    with team(folder, *ports) as (server, _):
        write_at_once(project, WRITERS, MLFLOW_TRACKING_URI=server)
    password = (folder / "pgpass").read_text().strip().rpartition(":")[2]
    assert len(password) >= 32
    assert (folder / "pgpass").stat().st_mode & 0o077 == 0
    assert not [log for log in folder.glob("*.log") if password in log.read_text()]
    with team(folder, *ports) as (server, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)  # for the files of the runs
        check_written(mlflow.MlflowClient(server), project)


def content(client: mlflow.MlflowClient, folder: Path) -> dict[str, Any]:
    """All that a record has of its runs, models and versions, but for the addresses of their files."""

    def info(run: Run) -> dict[str, Any]:
        return {key: value for key, value in dict(run.info).items() if key != "artifact_uri"}

    def histories(run: Run) -> dict[str, list[tuple[float, int, int]]]:
        points = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        return {key: [(point.value, point.step, point.timestamp) for point in each] for key, each in points.items()}

    def files(run: Run) -> dict[str, bytes]:
        copy = Path(client.download_artifacts(run.info.run_id, "", str(folder / run.info.run_id)))
        return {str(path.relative_to(copy)): path.read_bytes() for path in sorted(copy.rglob("*")) if path.is_file()}

    every = runs(client)
    (experiment,) = {run.info.experiment_id for run in every}
    logged = client.search_logged_models([experiment])
    (registered,) = client.search_registered_models()
    return {
        "experiment": client.get_experiment(experiment).tags,
        "runs": {
            run.info.run_id: (info(run), run.data.params, run.data.tags, histories(run), files(run)) for run in every
        },
        "inputs": {run.info.run_id: str(run.inputs.dataset_inputs) for run in every},
        "models": {model.model_id: (str(model.status), model.tags, model.source_run_id) for model in logged},
        "versions": {
            str(version.version): (version.run_id, version.source, version.tags, version.description, version.status)
            for version in client.search_model_versions("name = 'mnistflow'")
        },
        "aliases": {name: str(number) for name, number in registered.aliases.items()},
    }


@pytest.mark.slow
def test_a_record_moves_to_the_server_with_all_that_it_holds(
    folder: Path, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with inside(project):
        write_at_once(project, 2, MLFLOW_TRACKING_URI="")
        store.connect()
        for name in ("dense-0", "dense-1"):
            evaluation = predictions.read(Path("evaluation", name))
            version = registry.register(md5(Path("models", name, "model.keras")), evaluation, arrays.describe())
            registry.promote(version, evaluation)
        before, database_bytes = content(store.client(), tmp_path / "before"), Path("mlflow.db").read_bytes()
        assert len(before["runs"]) == len(before["models"]) == len(before["versions"]) == 2
        assert "champion" in before["aliases"]

        with team(folder, *free_ports(2)) as (server, database):
            done = move(folder, database)
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith("moved: 2 runs")
            Path("mlruns").rename("mlruns.away")
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
            store.connect()
            client = store.client()
            assert content(client, tmp_path / "after") == before
            champion = mlflow.pyfunc.load_model("models:/mnistflow@champion")
            images = np.asarray(arrays.load(arrays.DATA / "test").images[:5])
            assert champion.predict(images)["probabilities"].shape == (5, 10)

            # New entries get numbers and addresses of their own.
            other = client.get_experiment(client.create_experiment("another"))
            assert other.artifact_location == f"mlflow-artifacts:/{other.experiment_id}"
            assert other.experiment_id not in ("0", store.experiment_id())
            client.log_metric(client.create_run(store.experiment_id()).info.run_id, "loss", 0.5)

            # A second time, it would overwrite something.
            again = move(folder, database)
            assert again.returncode == 1
            assert re.match(r"error: the database is in use: its table \w+ has rows", again.stderr)
        assert Path("mlflow.db").read_bytes() == database_bytes


def move(folder: Path, database: str) -> subprocess.CompletedProcess[str]:
    """Move the record in the current folder, as the documentation has it."""
    own = {"PYTHONPATH": str(HERE / "src"), "PGPASSFILE": str(folder / "pgpass")}
    command = [sys.executable, str(HERE / "cluster/move.py"), "mlflow.db", database, str(folder / "artifacts")]
    return subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ("many", "error: many is no port; a number from 1 to 65535 is expected."),
        ("taken", "error: port {port} is taken; stop what listens there, or choose another one."),
    ],
)
def test_a_port_that_will_not_do_is_one_sentence(port: str, expected: str, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1]) if port == "taken" else port
        command = [sys.executable, str(HERE / "cluster/server.py"), str(folder), "5000", port]
        environment = os.environ | {"PYTHONPATH": str(HERE / "src")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == expected.format(port=port)
    assert done.returncode == 1


def test_the_compose_file_pins_versions_and_holds_no_password() -> None:
    services: dict[str, dict[str, Any]] = YAML(typ="safe").load(HERE / "cluster/compose.yaml")["services"]
    assert set(services) == {"postgres", "mlflow"}
    text = (HERE / "cluster/compose.yaml").read_text()
    assert re.search(r"image: postgres:\d+\.\d+", text)
    lock = (HERE / "requirements-cluster.lock").read_text()
    for package in ("mlflow", "psycopg"):
        (locked,) = re.findall(rf"^{package}==([\d.]+)", lock, re.MULTILINE)
        assert re.search(rf"{package}(\[\w+\])?=={re.escape(locked)}\b", text), f"{package} is {locked} in the lock"
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", []))
    assert "${PASSWORD:?" in text
