"""The record in MLflow is complete in the end, whatever happens to its store or to the folder meanwhile."""

import csv
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from conftest import (
    HERE,
    RECORD,
    Project,
    address_of,
    answers,
    client_of,
    inside,
    is_clean,
    kill,
    runs,
    serving,
    stages_run,
    steps,
    wait_for,
)
from ruamel.yaml import YAML
from test_faults import check_run, forget_record

from mnistflow.data import arrays
from mnistflow.tracking import record, store
from mnistflow.tracking import runs as tracking
from mnistflow.training import history, state

New = Callable[[Path], Project]
DETAILS: dict[str, Any] = {
    "model": "dense",
    "settings": {
        "epochs": 1,
        "schedule": "constant",
        "optimizer": "adam",
        "learning_rate": 1,
        "batch_size": 1,
        "seed": 1,
    },
    "dataset": "tiny",
    "validation": 10,
    "selected_on": "validation",
    "training_images": 5,
    "training_sha256": "0" * 64,
}


@pytest.fixture
def own_store(new_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with an empty record of its own."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    shutil.copy(new_store / "mlflow.db", tmp_path)
    with inside(Project(tmp_path)):
        yield tmp_path


def test_a_training_that_goes_on_keeps_its_run(own_store: Path) -> None:
    with pytest.raises(KeyboardInterrupt), tracking.training(own_store / "a.json", DETAILS):
        raise KeyboardInterrupt
    client = mlflow.MlflowClient()
    (first,) = runs(client)
    assert first.info.status == "KILLED"
    with pytest.raises(ZeroDivisionError), tracking.training(own_store / "a.json", DETAILS):
        raise ZeroDivisionError
    failed = client.get_run(first.info.run_id)
    assert (failed.info.status, failed.data.tags["failure"]) == ("FAILED", "ZeroDivisionError")
    assert "It failed: ZeroDivisionError" in failed.data.tags["mlflow.note.content"]
    with tracking.training(own_store / "a.json", DETAILS):
        pass
    finished = client.get_run(first.info.run_id)
    assert finished.info.status == "FINISHED"
    assert "failure" not in finished.data.tags
    assert len(finished.inputs.dataset_inputs) == 1
    for content in ("{", "[1]", '{"details": 1}', '{"unknown": "key"}'):  # a damaged file costs its run, nothing else
        (own_store / "a.json").write_text(content)
    with tracking.training(own_store / "a.json", DETAILS):
        pass
    assert len(runs(client)) == 2


def test_a_training_that_begins_again_logs_each_epoch_once(own_store: Path) -> None:
    """As one whose state was damaged: it comes to the same epochs a second time."""
    rows = [history.Epoch(number, 0.5, 0.9, 0.4, 0.8, 0.1) for number in (1, 2, 3, 4)]
    path = own_store / "run.json"
    for epochs, seconds in ((3, 1.0), (4, 2.0)):
        with tracking.training(path, DETAILS) as run:
            for count in range(epochs):
                run.log_epochs(rows[: count + 1], seconds)
    client = mlflow.MlflowClient()
    (only,) = runs(client)
    assert steps(client, only) == steps(client, only, "epoch_seconds") == [1, 2, 3, 4]
    assert len(json.loads(path.read_text())["epochs"]) == 4


def test_a_change_that_a_kill_interrupted_is_rolled_back(
    own_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with tracking.training(own_store / "run.json", DETAILS):
        pass
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with closing(sqlite3.connect(own_store / "mlflow.db")) as database:
        database.execute("PRAGMA cache_size = 1")  # so that the change reaches the file before it is complete
        database.execute("UPDATE tags SET value = printf('%5000d', 0)")
        for file in ("mlflow.db", "mlflow.db-journal"):
            shutil.copy(own_store / file, elsewhere)
    for file in elsewhere.iterdir():
        shutil.copy(file, own_store)
    with tracking.training(own_store / "run.json", DETAILS):
        pass
    assert not (own_store / state.UNRECORDED).is_file()
    assert "selected_on" in runs(mlflow.MlflowClient())[0].data.tags


def test_a_clock_that_was_set_back_gives_no_negative_duration(own_store: Path) -> None:
    path = own_store / "run.json"
    with tracking.training(path, DETAILS) as run:
        pass
    later = json.loads(path.read_text())
    later["started"] += 7_200_000
    path.write_text(json.dumps(later))
    with tracking.training(path, DETAILS) as run:
        pass
    client = mlflow.MlflowClient()
    (only,) = runs(client)
    assert only.info.end_time >= later["started"] > only.info.start_time
    assert run.record.ended == only.info.end_time


def test_a_training_whose_store_came_back_leaves_nothing_to_do(
    own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_folder = own_store / "state"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no/x.db")
    with pytest.raises(KeyboardInterrupt), tracking.training(state_folder / "run.json", DETAILS):
        raise KeyboardInterrupt
    assert (state_folder / state.UNRECORDED).is_file()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address_of(Project(own_store)))
    with tracking.training(state_folder / "run.json", DETAILS):
        pass
    assert not (state_folder / state.UNRECORDED).is_file()
    (run,) = runs(mlflow.MlflowClient())
    assert run.info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can become any user")
def test_a_user_without_a_name_has_a_record(own_store: Path) -> None:
    """As in a container that was started with a user's number, which no file of the system gives a name."""
    user = ("--reuid", "54321", "--regid", "54321", "--clear-groups")
    rights = ("--inh-caps", "+dac_override", "--ambient-caps", "+dac_override")  # this Python may lie in root's home
    code = f"from mnistflow.tracking import runs\nwith runs.training(Path('run.json'), {DETAILS}): pass"
    done = subprocess.run(
        ["setpriv", *user, *rights, sys.executable, "-c", f"from pathlib import Path\n{code}"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(HERE / "src"), "HOME": "/"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "uid not found" not in done.stderr
    (run,) = runs(mlflow.MlflowClient())
    assert (run.info.status, run.data.tags["mlflow.user"]) == ("FINISHED", "user 54321")
    assert (own_store / "run.json").stat().st_uid == 54321


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x.db?uri=true"])
def test_a_record_that_would_be_lost_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(store.TrackingError, match="names no file; sqlite:///FILE does"):
        store.connect()
    assert mlflow.get_tracking_uri() != address
    assert not list(tmp_path.iterdir())


def test_a_store_of_another_version_is_named_with_what_to_do(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"sqlite:///{own_store}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    store.connect()
    with closing(sqlite3.connect(own_store / "other.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'f' || substr(version_num, 2)")
    # MLflow keeps a store open by its address, so this has another one.
    address += "?timeout=60"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(store.TrackingError, match=rf"another version .* run `mlflow db upgrade {re.escape(address)}`"):
        store.connect()


@contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A real `mlflow server` on loopback, which answers when the block begins and is gone when it ends."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "files")]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, *stores],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), process)
        yield process
    finally:
        if process.poll() is None:
            kill(process)


@pytest.mark.slow
def test_a_server_that_is_away_delays_the_record_and_nothing_else(
    copy_of_repro: New, repro: Project, tmp_path: Path
) -> None:
    """Away from the start of one training, lost on the way of the next, and then back."""
    project = copy_of_repro(tmp_path / "project")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    away = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    for model in ("dense", "compact"):
        project.forget(f"models/{model}/model.keras")
        shutil.rmtree(project.folder / f"models/{model}")

    output = project.dvc("repro", "train@dense", **away)
    assert f"not recorded: the MLflow tracking store http://127.0.0.1:{port} can't be used" in output
    assert "the training goes on" in output
    with server(tmp_path, port) as process:
        training = project.start("dvc", "repro", "train@compact", **away)
        wait_for(lambda: project.states("compact-*/state.npz"), training)
        kill(process)
        output, _ = training.communicate(timeout=120)
    assert training.returncode == 0, output
    assert output.count("not recorded: ") == 1
    assert project.outputs() == repro.outputs()
    assert is_clean(project)
    ended = 1000 * time.time()

    with server(tmp_path, port):
        project.record(**away)
        client = mlflow.MlflowClient(away["MLFLOW_TRACKING_URI"])
        recorded = {run.data.tags["model"]: run for run in runs(client)}
        assert sorted(recorded) == ["compact", "dense"]
        assert len(runs(client)) == 2
        for run in recorded.values():
            check_run(client, run)
        for model in ("dense", "compact"):
            run = recorded[model]
            assert "restored" not in run.data.tags
            assert run.info.end_time < ended
            assert run.data.metrics["seconds"] > 0
            assert steps(client, run, "epoch_seconds") == steps(client, run)
        output = project.run("python", "-m", "mnistflow.tracking.ui", PYTHONPATH="src", **away)
        assert output.startswith(f"These runs have a server:\n{away['MLFLOW_TRACKING_URI']}/#/experiments/1/runs?")
        project.record(**away)
        assert {run.info.run_id for run in runs(client)} == {run.info.run_id for run in recorded.values()}
        assert {run.data.tags["model"]: run.data.metrics for run in runs(client)} == {
            model: run.data.metrics for model, run in recorded.items()
        }
    assert not project.states()


@pytest.mark.slow
def test_a_new_store_gets_the_runs_from_the_outputs(copy_of_repro: New, tmp_path: Path) -> None:
    """Also where the outputs are links into DVC's cache, and where the writing is killed."""
    project = copy_of_repro(tmp_path / "project")
    forget_record(project)
    project.dvc("config", "--local", "cache.type", "symlink")
    project.dvc("checkout", "--relink")
    assert (project.folder / "models/dense/model.keras").is_symlink()
    for pattern in ("mlruns/*/artifacts/history.csv", "mlruns/*/artifacts/evaluation/report.json"):
        process = project.start(*RECORD, PYTHONPATH="src")
        wait_for(lambda pattern=pattern: any(project.folder.glob(pattern)), process)
        kill(process)
    project.record()
    client = client_of(project)
    restored = runs(client)
    assert sorted(run.info.run_name for run in restored) == ["compact", "dense"]
    for run in restored:
        check_run(client, run)
        assert run.data.tags["restored"] == "true"
        assert run.data.tags["mlflow.source.git.commit"] == "unknown"
        assert "Restored from DVC's outputs" in run.data.tags["mlflow.note.content"]
        metrics = json.loads(project.read(f"metrics/{run.info.run_name}.json"))
        assert run.data.metrics["test/accuracy"] == metrics["accuracy"]
        assert "processor" not in run.data.tags


@pytest.mark.slow
def test_an_interrupted_run_is_marked_as_killed_though_its_training_never_goes_on(
    copy_of_repro: New, tmp_path: Path
) -> None:
    """That of a changed setting, which is then taken back, and that of a training that DVC's cache answers."""
    project = copy_of_repro(tmp_path / "project")
    client, params = client_of(project), project.read("params.yaml")
    project.set(models__compact__seed=2)
    for count, options in enumerate(((), ("--force", "--single-item"))):
        process = project.start("dvc", "repro", *options, "train@compact")
        wait_for(lambda count=count: len(project.states("compact-*/state.npz")) > count, process)
        kill(process)
        (project.folder / "params.yaml").write_bytes(params)
    running = runs(client, "attributes.status = 'RUNNING'")
    assert {run.data.params["seed"] for run in running} == {"1", "2"}
    assert stages_run(project.repro()) == ["params"]  # DVC's cache has the model
    for run in running:
        ended = client.get_run(run.info.run_id)
        assert ended.info.status == "KILLED"
        assert ended.info.end_time >= run.info.start_time


@pytest.mark.slow
def test_what_a_user_adds_to_a_finished_run_stays(copy_of_repro: New, tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / "project")
    client = client_of(project)
    run = runs(client, "tags.model = 'compact'")[0]
    client.log_metric(run.info.run_id, "usefulness", 0.5)
    client.log_metric(run.info.run_id, "val_loss", 9.9, step=2)
    client.set_tag(run.info.run_id, "favourite", "yes")
    before = client.get_run(run.info.run_id)
    assert project.record() == ""
    after = client.get_run(run.info.run_id)
    assert (after.data.metrics, after.data.tags) == (before.data.metrics, before.data.tags)
    assert len(runs(client)) == 2


@pytest.mark.slow
def test_the_price_of_the_record_does_not_grow_with_the_number_of_runs(copy_of_repro: New, tmp_path: Path) -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    project = copy_of_repro(tmp_path / "project")
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *arguments: Any) -> None:
        statements.append(statement)

    def price() -> int:
        statements.clear()
        event.listen(Engine, "before_cursor_execute", note)
        try:
            record.main()
        finally:
            event.remove(Engine, "before_cursor_execute", note)
        return len(statements)

    with inside(project) as client:
        price()  # the first in a process opens the store
        few = price()
        for number in range(200):
            client.create_run(store.experiment_id(), tags={"model": "dense", "model_md5": f"{number:032}"})
        assert 0 < price() == few


@pytest.mark.slow
def test_a_moved_folder_keeps_its_record_with_all_artifacts(copy_of_repro: New, tmp_path: Path) -> None:
    before = copy_of_repro(tmp_path / "old place")
    forget_record(before)
    before.record()
    (before.folder / "report.html").unlink(missing_ok=True)
    project = Project(tmp_path / "new place")
    shutil.move(before.folder, project.folder)
    assert not before.folder.exists()

    errors = project.read("plots/errors.png")
    project.set(evaluate__model="dense")
    project.repro()
    assert project.read("plots/errors.png") != errors  # those of the model that is now selected
    register = project.run("python", "-m", "mnistflow.tracking.registry", PYTHONPATH="src")
    assert "version 1 of mnistflow is this dense" in register
    project.run("python", "-m", "mnistflow.commands.report", PYTHONPATH="src")
    assert not before.folder.exists()  # nobody made it anew
    recorded = {run.data.tags["model"]: run for run in runs(client_of(project))}
    assert len(runs(client_of(project))) == 2

    with inside(project):
        model = mlflow.pyfunc.load_model("models:/mnistflow@champion")
        images = np.asarray(arrays.load(Path("data/test")).images)
        rows = csv.DictReader(project.read("evaluation/dense/predictions.csv").decode().splitlines())
        assert list(model.predict(images)["class"]) == [int(row["predicted"]) for row in rows]
    with serving(project, "health", "mlflow", "ui", "--workers", "1") as address:  # nothing but MLflow's own command
        for name, run in recorded.items():
            for path in ("history.csv", "loss.png", "evaluation/report.json", "report.html"):
                url = f"{address}get-artifact?path={path}&run_uuid={run.info.run_id}"
                with urllib.request.urlopen(url, timeout=60) as answer:
                    content = answer.read()
                if path == "history.csv":
                    assert content == project.read(f"models/{name}/history.csv")
                assert content


@pytest.mark.slow
def test_an_experiment_names_its_runs(copy_of_repro: New, tmp_path: Path) -> None:
    """One that adds a model, of a network that has one, in a copy of the project that DVC deletes afterwards."""
    project = copy_of_repro(tmp_path / "project")
    client = client_of(project)
    section = YAML(typ="safe").load(project.folder / "params.yaml")["models"]["dense"] | {"learning_rate": 1e-4}
    added = f"+models.wide={json.dumps(section)}".replace('"', "")
    output = project.dvc("exp", "run", "--temp", "--name", "wider", "--set-param", added)
    assert stages_run(output) == ["params", "train@wide", "evaluate@wide", "compare", "plot"]
    run = runs(client)[0]
    check_run(client, run)
    assert (run.info.run_name, run.data.tags["dvc_experiment"]) == ("wide (wider)", "wider")
    assert run.data.params["learning_rate"] == "0.0001"
    tags = run.data.tags
    assert tags["mlflow.source.git.commit"] == project.run("git", "rev-parse", "HEAD").strip()
    assert (tags["git_dirty"], tags["git_changes"]) == ("true", "params.yaml")
    assert not project.states()
    changes = json.loads(project.dvc("metrics", "diff", "--json", "HEAD", "wider"))
    assert set(changes) == {"metrics/wide.json"}
    assert changes["metrics/wide.json"]["accuracy"]["new"] == run.data.metrics["test/accuracy"]
    # Taken over, it is there and trains nothing.
    project.dvc("exp", "apply", "wider")
    assert stages_run(project.repro()) == []
    assert len(runs(client)) == 3
    parameters = [json.loads(project.read(f"metrics/{name}.json"))["parameters"] for name in ("dense", "wide")]
    assert parameters[0] == parameters[1]
    assert project.read("models/dense/model.keras") != project.read("models/wide/model.keras")
