"""Where the record is kept, and what is said when it can't be."""

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from conftest import HERE

from mnistflow import store
from mnistflow.workspace import WorkflowError, without_password


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (None, "sqlite:///{root}/mlflow.db"),
        ("sqlite:///other.db", "sqlite:///{root}/other.db"),
        ("sqlite:////absolute/other.db", "sqlite:////absolute/other.db"),
        ("runs", "{root}/runs"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("postgresql://me:secret@host/db", "postgresql://me:secret@host/db"),
    ],
)
def test_a_relative_store_is_one_of_the_project(
    uri: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert store.address() == expected.format(root=tmp_path.resolve())


def test_passwords_are_not_shown() -> None:
    assert without_password("at postgresql://me:secret@host/db, no") == "at postgresql://me:***@host/db, no"
    assert without_password("http://host:5000/x") == "http://host:5000/x"


@pytest.mark.parametrize(
    "uri", ["bogus://x", "postgresql+nodriver://me:secret@127.0.0.1/db", "sqlite:////proc/no/x.db"]
)
def test_a_store_that_can_t_be_used_is_one_sentence(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(WorkflowError, match="tracking store .* can't be used: ") as raised:
        store.connect()
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(WorkflowError, match=r"mlflow\.db is damaged \(.*not a database\); move it aside"):
        store.connect()
    file.unlink()
    before = mlflow.get_tracking_uri()
    try:
        store.connect()
        whole = file.read_bytes()
        for damaged in (whole[: len(whole) // 2], whole[:8192] + bytes(len(whole) - 8192)):
            file.write_bytes(damaged)
            with pytest.raises(WorkflowError, match=r"mlflow\.db is damaged"):
                store.connect()
    finally:
        mlflow.set_tracking_uri(before)


def test_a_store_whose_making_was_killed_is_made_anew(tmp_path: Path) -> None:
    """Its tables come one by one; MLflow can't go on from the middle."""
    script = "from mnistflow import store; print(flush=True); store.connect()"
    environment = os.environ | {"PYTHONPATH": str(HERE / "src"), "DVC_ROOT": str(tmp_path)}
    for delay in (0.3, 0.6):
        process = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.communicate()
    before = mlflow.get_tracking_uri()
    try:
        store.connect()
        experiment = store.client().get_experiment_by_name("mnistflow")
        assert experiment is not None
        assert experiment.artifact_location == (tmp_path / "mlruns").as_uri()
    finally:
        mlflow.set_tracking_uri(before)
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def test_a_store_in_use_or_empty_is_told_from_a_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mlflow.db"
    file.touch()
    with pytest.raises(WorkflowError, match=r"is damaged \(it is empty\)"):
        store.connect()
    file.unlink()
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **_: real(path, timeout=0.1))
    with closing(real(file)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(WorkflowError, match="can't be read: database is locked; try again"):
            store.connect()
