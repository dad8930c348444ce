"""The record is complete in the end, whatever became of its store meanwhile."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from conftest import COMPACT_EPOCHS, Project, answers, kill, runs, steps, wait_for

from mnistflow import journal, record, store
from mnistflow.workspace import WorkflowError

DETAILS = {
    "model": "dense",
    "settings": {
        **{"epochs": 1, "schedule": "constant", "optimizer": "adam", "learning_rate": 0.001},
        **{"batch_size": 10, "seed": 1, "shift": 0, "rotate": 0.0, "zoom": 0.0},
    },
    "dataset": "tiny",
    "validation": 10,
    "selected_on": "validation",
    "training_images": 5,
    "training_sha256": "0" * 64,
}


@pytest.fixture
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(before)


@pytest.mark.usefixtures("_own_store")
def test_an_attempt_goes_on_in_its_own_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), record.training(tmp_path / "a.json", DETAILS):
        raise KeyboardInterrupt
    (first,) = runs(mlflow.MlflowClient())
    assert first.info.status == "KILLED"
    with pytest.raises(ZeroDivisionError), record.training(tmp_path / "a.json", DETAILS):
        raise ZeroDivisionError
    with record.training(tmp_path / "b.json", DETAILS):
        pass
    other, again = runs(mlflow.MlflowClient())
    assert first.info.run_id == again.info.run_id != other.info.run_id
    assert (again.info.status, other.info.status) == ("FAILED", "FINISHED")
    assert again.data.tags["failure"] == "ZeroDivisionError"
    assert "dense, not evaluated on the test set yet." in again.data.tags["mlflow.note.content"]
    assert len(again.inputs.dataset_inputs) == 1
    with record.training(tmp_path / "a.json", DETAILS):
        pass
    again = mlflow.get_run(first.info.run_id)
    assert again.info.status == "FINISHED"
    assert "failure" not in again.data.tags


@pytest.mark.usefixtures("_own_store")
def test_a_damaged_journal_costs_its_run_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("{", "[1]", '{"details": 1}', '{"unheard": "of"}'):
        (tmp_path / "journal.json").write_text(content)
        with record.training(tmp_path / "journal.json", DETAILS):
            pass
        assert f"{tmp_path}/journal.json is" in capsys.readouterr().out
        assert journal.read(tmp_path / "journal.json").details == DETAILS


@pytest.mark.usefixtures("_own_store")
def test_a_wrong_setting_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNISTFLOW_RECORD", "never")
    with (
        pytest.raises(WorkflowError, match="MNISTFLOW_RECORD is 'never'; now or later is expected"),
        record.training(tmp_path / "journal.json", DETAILS),
    ):
        pass


@pytest.mark.usefixtures("_own_store")
def test_what_was_kept_is_handed_over_only_if_it_is_whole(tmp_path: Path) -> None:
    for place in range(3):
        ended = journal.Journal(DETAILS, {"model": "dense"}, attempt=str(place), status="FAILED", ended=journal.now())
        journal.keep_training(ended, None)
    file = tmp_path / ".cache/unrecorded/1/journal.json"
    file.write_text(file.read_text().replace("tiny", "tinz"))
    store.connect()
    (complaint,) = record.hand_over()
    assert "unrecorded/1 is damaged and can't be handed over; delete it." in complaint
    assert {run.data.tags["attempt"] for run in runs(mlflow.MlflowClient())} == {"0", "2"}
    assert [path.name for path in (tmp_path / ".cache/unrecorded").glob("[!.]*")] == ["1"]


@contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A real `mlflow server` on loopback, which answers when the block begins and is gone when it ends."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "files")]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, *stores], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), process)
        yield process
    finally:
        if process.poll() is None:
            kill(process)


def test_a_server_that_is_away_delays_the_record_and_nothing_else(repro: Project, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    away = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    before, lock = repro.outputs(), repro.read("dvc.lock")
    client = mlflow.MlflowClient(away["MLFLOW_TRACKING_URI"])

    # At the start of a training: an error before it begins, or, if one so wishes, a training.
    repro.forget("models/dense/model.keras")
    train_dense = ("repro", "--force", "--single-item", "train@dense")
    output = repro.dvc(*train_dense, status=255, **away)
    assert f"error: the MLflow tracking store http://127.0.0.1:{port} can't be used" in output
    assert "MNISTFLOW_RECORD=later" in output
    assert "epoch  1" not in output
    output = repro.dvc(*train_dense, MNISTFLOW_RECORD="later", **away)
    assert "not recorded yet" in output

    # In the middle of a training, and at an evaluation.
    repro.forget("models/compact/model.keras")
    with server(tmp_path, port) as process:
        training = repro.start("dvc", "repro", "--force", "--single-item", "train@compact", **away)
        wait_for(lambda: repro.states("compact-*/state.npz"), training)
        kill(process)
        output, _ = training.communicate(timeout=120)
        assert training.returncode == 0, output
    assert output.count("not recorded yet") == 2  # when it was lost, and when it was tried again at the end
    ended = 1000 * time.time()
    output = repro.dvc("repro", "--force", "--single-item", "evaluate@compact", **away)
    assert "not recorded yet" in output
    assert repro.outputs() == before
    assert repro.read("dvc.lock") == lock

    with server(tmp_path, port):
        assert repro.record(**away).count("recorded: ") == 3
        assert "recorded: " not in repro.record(**away)
        found = {run.data.tags["model"]: run for run in runs(client)}
        assert len(runs(client)) == len(found) == 3
        assert "restored" in found["cnn"].data.tags  # it was not trained meanwhile
        for model, epochs in (("dense", 2), ("compact", COMPACT_EPOCHS)):
            run = found[model]
            assert "restored" not in run.data.tags
            assert run.info.status == "FINISHED"
            assert run.info.end_time < ended
            for metric in ("val_loss", "epoch_seconds"):
                assert steps(client, run, metric) == list(range(1, epochs + 1))
            assert run.data.metrics["seconds"] > 0
            metrics = json.loads(repro.read(f"metrics/{model}.json"))
            assert run.data.metrics["test_accuracy"] == metrics["accuracy"]
            assert run.outputs.model_outputs
            assert {"evaluation", "model.keras"} < {file.path for file in client.list_artifacts(run.info.run_id)}
    assert not list((repro.folder / ".cache/unrecorded").glob("[!.]*"))
    assert not repro.states()
