"""A figure that changed in the record is noticed, named, and written anew where that can be done."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from conftest import Project, runs
from test_record import DETAILS

from mnistflow import journal, seal, store, tracking
from mnistflow.history import Epoch
from mnistflow.journal import Journal


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store with two trainings in it."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    store.connect()
    for attempt in ("a", "b"):
        ended = Journal(DETAILS, {"model": "dense"}, attempt, status="FINISHED", ended=journal.now())
        ended.note([Epoch(1, 0.5, 0.9, 0.4, 0.91, 0.001), Epoch(2, 0.3, 0.95, 0.3, 0.94, 0.001)])
        tracking.log_late(ended, tmp_path, None)
    yield tmp_path / "mlflow.db"
    mlflow.set_tracking_uri(before)


def change(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as database:
        assert database.execute(statement).rowcount == 1
        database.commit()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE params SET value = '0.002' WHERE run_uuid = '{run}' AND key = 'learning_rate'",
        "UPDATE latest_metrics SET value = value + 0.01 WHERE run_uuid = '{run}' AND key = 'val_accuracy'",
        "UPDATE metrics SET value = value + 1e-9 WHERE run_uuid = '{run}' AND key = 'val_loss' AND step = 1",
        "UPDATE metrics SET step = 3 WHERE run_uuid = '{run}' AND key = 'loss' AND step = 1",
        "DELETE FROM metrics WHERE run_uuid = '{run}' AND key = 'loss' AND step = 2",
    ],
)
def test_a_changed_row_breaks_the_seal_of_its_run_alone(file: Path, statement: str) -> None:
    assert list(seal.broken()) == []
    run, other = runs(mlflow.MlflowClient())
    change(file, statement.format(run=run.info.run_id))
    (said,) = tracking.set_aside_damaged()
    assert said.startswith(f"MLflow's run {run.info.run_id} (dense) no longer holds the settings and figures")
    assert tracking.set_aside_damaged() == []
    assert "damaged" in mlflow.get_run(run.info.run_id).data.tags
    assert "damaged" not in mlflow.get_run(other.info.run_id).data.tags


def test_what_people_write_on_a_run_does_not(file: Path) -> None:
    run, _ = runs(mlflow.MlflowClient())
    mlflow.MlflowClient().set_tag(run.info.run_id, "mlflow.note.content", "my own words")
    mlflow.MlflowClient().update_run(run.info.run_id, name="my own name")
    assert list(seal.broken()) == []


def test_a_damaged_run_is_written_anew(repro: Project, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/own.db"
    repro.record(MLFLOW_TRACKING_URI=uri)
    client = mlflow.MlflowClient(uri)
    before = {run.data.tags["model"]: run for run in runs(client)}
    assert len(before) == 3
    damaged = before["cnn"].info.run_id
    where = f"WHERE run_uuid = '{damaged}' AND key = 'test_accuracy'"
    change(tmp_path / "own.db", f"UPDATE latest_metrics SET value = 0.9999 {where}")

    output = repro.record(status=1, MLFLOW_TRACKING_URI=uri)
    assert f"error: MLflow's run {damaged} (cnn) no longer holds" in output
    assert "Traceback" not in output
    repro.record(MLFLOW_TRACKING_URI=uri)
    (anew,) = {run.info.run_id for run in runs(client)} - {run.info.run_id for run in before.values()}
    assert client.get_run(anew).data.metrics == before["cnn"].data.metrics
    assert client.get_run(anew).data.tags["model_md5"] == before["cnn"].data.tags["model_md5"]
    assert "model_md5" not in client.get_run(damaged).data.tags
