"""A team's record: what the documented command starts, eight at work with it at once, and a record that moves there."""

import importlib
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
from conftest import HERE, runs, steps
from mlflow.entities import Run
from ruamel.yaml import YAML
from test_record import DETAILS

from mnistflow import evaluation, figures, history, models, record, registry, store
from mnistflow.history import Epoch
from mnistflow.splits import Split
from mnistflow.workspace import md5, read_json, write_json, write_text

pytest.importorskip("psycopg", reason="psycopg is not installed: make cluster")

WRITERS, EPOCHS = 8, 20


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the user postgres can reach, as pytest's own are not; its path has a space in it."""
    if not (shutil.which("initdb") or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))):
        pytest.skip("PostgreSQL is not installed; Debian's package is postgresql")
    with tempfile.TemporaryDirectory(prefix="a team's ") as name:
        Path(name).chmod(0o711)
        yield Path(name, "record")


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
    said = ""
    try:
        while "Next" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        (served,) = set(re.findall(r"http://127.0.0.1:\d+", said))
        (database,) = re.findall(r"postgresql\S+", said)
        yield served, database
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert "stopped; the same command goes on" in rest
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0, "a server was left behind"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that `make server` runs, for its database without a server in front."""
    monkeypatch.syspath_prepend(str(HERE / "cluster"))
    return importlib.import_module("server")


def rows(number: int) -> list[Epoch]:
    """A history that no other writer has."""
    return [Epoch(epoch, *(number + 1 / (epoch + place) for place in range(5))) for epoch in range(1, EPOCHS + 1)]


def write(number: int, tiny: tuple[Split, Split], folder: Path, environment: dict[str, str], start: Barrier) -> None:
    """What the stages train and evaluate do of a training's record, on a network as it was drawn."""
    os.environ |= environment
    training, test = tiny
    details = {**DETAILS, "settings": {**DETAILS["settings"], "seed": number}, "parameters": 407_050}
    models.keras.utils.set_random_seed(number)
    model = models.dense()
    start.wait()
    with record.training(folder / "journal.json", details) as recorder:
        for epoch in range(1, EPOCHS + 1):
            recorder.epochs(rows(number)[:epoch], 0.1)
        trained = folder / "trained"
        models.save(trained / "model.keras", model)
        history.write(trained / "history.csv", rows(number))
        write_text(trained / "summary.txt", models.summary(model))
        write_json(trained / "training.json", details | {"epochs": EPOCHS, "best_epoch": EPOCHS})
        figures.save(trained / "loss.png", figures.loss_curve(rows(number)))
        recorder.outputs(trained, training, 2.0)
    probabilities = model.predict(test.images, verbose=0)
    about = {"model": "dense", "model_md5": md5(trained / "model.keras"), "classes": [*"0123456789"]}
    evaluation.write(folder / "evaluated", *test, probabilities, about)
    about = {"parameters": details["parameters"], "best_epoch": EPOCHS, "selected_on": details["selected_on"]}
    write_json(folder / "metrics.json", {**evaluation.headline(probabilities, test.labels), **about})
    record.evaluation(trained, folder / "evaluated", folder / "metrics.json", test, {})


def write_at_once(tiny: tuple[Split, Split], folder: Path, writers: int, **environment: str) -> None:
    """So many processes write a training each, all from the same moment on; what they imported, they share."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mnistflow.record", "mnistflow.models"])
    start = context.Barrier(writers)
    processes = [
        context.Process(target=write, args=(number, tiny, folder / str(number), environment, start))
        for number in range(writers)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE / "src"))  # where the process from which all are forked imports from
        for process in processes:
            process.start()
    for process in processes:
        process.join(timeout=240)
    assert [process.exitcode for process in processes] == [0] * writers


def check_written(client: mlflow.MlflowClient, folder: Path) -> None:
    """Make sure that each writer's training is in a run of its own, all of it and nothing else."""
    found = {int(run.data.params["seed"]): run for run in runs(client)}
    assert len(runs(client)) == WRITERS
    assert sorted(found) == list(range(WRITERS))
    for number, run in found.items():
        written = folder / str(number)
        assert run.info.status == "FINISHED"
        assert run.data.tags["model_md5"] == md5(written / "trained/model.keras")
        for metric in ("loss", "val_loss", "val_accuracy", "epoch_seconds"):
            assert steps(client, run, metric) == list(range(1, EPOCHS + 1))
        losses = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "val_loss")}
        assert losses == {row.epoch: row.val_loss for row in rows(number)}
        assert run.data.metrics["test_accuracy"] == read_json(written / "metrics.json")["accuracy"]
        assert len(run.outputs.model_outputs) == 1
        with tempfile.TemporaryDirectory() as copy:
            client.download_artifacts(run.info.run_id, "", copy)
            for file in ("model.keras", "history.csv", "training.json"):
                assert Path(copy, file).read_bytes() == (written / "trained" / file).read_bytes()
            for file in ("predictions.csv", "errors.npy", "report.json"):
                assert Path(copy, "evaluation", file).read_bytes() == (written / "evaluated" / file).read_bytes()


def test_eight_at_once_lose_nothing_on_a_new_server_which_goes_on_with_it(
    folder: Path, tiny: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = free_ports(2)
    with team(folder, *ports) as (served, _):
        write_at_once(tiny, tmp_path, WRITERS, MLFLOW_TRACKING_URI=served, DVC_ROOT=str(tmp_path))
    password = (folder / "pgpass").read_text().strip().rpartition(":")[2]
    assert len(password) >= 32
    assert (folder / "pgpass").stat().st_mode & 0o077 == 0
    assert not [log for log in folder.glob("*.log") if password in log.read_text()]
    with team(folder, *ports) as (served, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", served)  # for the files of the runs
        check_written(mlflow.MlflowClient(served), tmp_path)


def test_eight_at_once_lose_nothing_straight_in_the_database(
    folder: Path, alone: Any, tiny: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    folder.mkdir()
    monkeypatch.setenv("PGPASSFILE", str(folder / "pgpass"))
    with alone.database(folder, port):
        uri, own = alone.address(port), {"DVC_ROOT": str(tmp_path), "PGPASSFILE": str(folder / "pgpass")}
        # MLflow's own tables are for one to make: eight that are first at once would collide.
        mlflow.MlflowClient(uri).search_experiments()
        write_at_once(tiny, tmp_path, WRITERS, MLFLOW_TRACKING_URI=uri, **own)
        check_written(mlflow.MlflowClient(uri), tmp_path)


def content(client: mlflow.MlflowClient, folder: Path) -> dict[str, Any]:
    """All that a record says of its runs, models and versions, but for where their files are."""

    def about(run: Run) -> dict[str, Any]:
        return {key: value for key, value in dict(run.info).items() if key != "artifact_uri"}

    def histories(run: Run) -> dict[str, list[tuple[float, int, int]]]:
        points = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        return {key: [(point.value, point.step, point.timestamp) for point in each] for key, each in points.items()}

    def files(run: Run) -> dict[str, bytes]:
        copy = Path(client.download_artifacts(run.info.run_id, "", str(folder / run.info.run_id)))
        return {str(path.relative_to(copy)): path.read_bytes() for path in sorted(copy.rglob("*")) if path.is_file()}

    found = runs(client)
    (experiment,) = {run.info.experiment_id for run in found}
    logged = client.search_logged_models([experiment])
    (registered,) = client.search_registered_models()
    return {
        "experiment": client.get_experiment(experiment).tags,
        "runs": {
            run.info.run_id: (about(run), run.data.params, run.data.tags, histories(run), files(run)) for run in found
        },
        "inputs": {run.info.run_id: str(run.inputs.dataset_inputs) for run in found},
        "models": {model.model_id: (str(model.status), model.tags, model.source_run_id) for model in logged},
        "versions": {
            str(version.version): (version.run_id, version.source, version.tags, version.description, version.status)
            for version in client.search_model_versions("name = 'mnistflow'")
        },
        "aliases": {name: str(number) for name, number in registered.aliases.items()},
    }


def test_a_record_moves_to_the_server_with_all_that_it_holds(
    folder: Path, tiny: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "a project"
    project.mkdir()
    (project / "dvc.lock").touch()
    monkeypatch.chdir(project)
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_at_once(tiny, tmp_path, 2, MLFLOW_TRACKING_URI="", DVC_ROOT=str(project))
    previous = mlflow.get_tracking_uri()
    try:
        store.connect()
        for number in ("0", "1"):
            model_md5 = md5(tmp_path / number / "trained/model.keras")
            version = registry.register(
                model_md5, {**read_json(tmp_path / number / "metrics.json"), "selected_on": "-"}
            )
            registry.promote(version, evaluation.read(tmp_path / number / "evaluated"))
        before, whole = content(store.client(), tmp_path / "before"), (project / "mlflow.db").read_bytes()
        assert len(before["runs"]) == len(before["models"]) == len(before["versions"]) == 2
        assert "champion" in before["aliases"]

        with team(folder, *free_ports(2)) as (served, database):
            moved = move(folder, database)
            assert moved.returncode == 0, moved.stderr
            assert moved.stdout.startswith("moved: 2 runs")
            (project / "mlruns").rename(project / "mlruns.away")
            monkeypatch.setenv("MLFLOW_TRACKING_URI", served)
            store.connect()
            client = store.client()
            assert content(client, tmp_path / "after") == before
            champion = mlflow.pyfunc.load_model("models:/mnistflow@champion")
            assert champion.predict(np.asarray(tiny[1].images[:5]))["probabilities"].shape == (5, 10)

            # What is new gets numbers and places of its own.
            other = client.get_experiment(client.create_experiment("another"))
            assert other.artifact_location == f"mlflow-artifacts:/{other.experiment_id}"
            assert other.experiment_id not in ("0", store.experiment())
            client.log_metric(client.create_run(store.experiment()).info.run_id, "loss", 0.5)

            # A second time, there is something to lose.
            again = move(folder, database)
            assert again.returncode == 1
            assert re.match(r"error: the database is in use: its table \w+ holds something", again.stderr)
    finally:
        mlflow.set_tracking_uri(previous)
    assert (project / "mlflow.db").read_bytes() == whole


def move(folder: Path, database: str) -> subprocess.CompletedProcess[str]:
    """Move the record in the current folder, as the documentation has it."""
    own = {"PYTHONPATH": str(HERE / "src"), "PGPASSFILE": str(folder / "pgpass")}
    command = [sys.executable, str(HERE / "cluster/move.py"), "mlflow.db", database, str(folder / "artifacts")]
    return subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("no number", "error: many is no port; a number from 1 to 65535 is expected."),
        ("taken", "error: port {port} is taken; stop what listens there, or choose another one."),
    ],
)
def test_a_port_that_will_not_do_is_one_sentence(how: str, expected: str, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1]) if how == "taken" else "many"
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
