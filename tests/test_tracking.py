"""Where the record is kept, and what is said when it can't be."""

from pathlib import Path

import mlflow
import pytest

from mnistflow import tracking
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
    assert tracking.tracking_uri() == expected.format(root=tmp_path.resolve())


def test_passwords_are_not_shown() -> None:
    assert without_password("at postgresql://me:secret@host/db, no") == "at postgresql://me:***@host/db, no"
    assert without_password("http://host:5000/x") == "http://host:5000/x"


@pytest.mark.parametrize(
    "uri", ["bogus://x", "postgresql+nodriver://me:secret@127.0.0.1/db", "sqlite:////proc/no/x.db"]
)
def test_a_store_that_can_t_be_used_is_one_sentence(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(WorkflowError, match="tracking store .* can't be used: ") as raised:
        tracking.connect()
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(WorkflowError, match=r"mlflow\.db can't be used: .*not a database"):
        tracking.connect()


def test_an_attempt_goes_on_in_its_own_run(tmp_path: Path) -> None:
    before = mlflow.get_tracking_uri()
    details = {
        "model": "dense",
        "settings": {
            **{"epochs": 1, "schedule": "constant", "optimizer": "adam", "learning_rate": 0.001},
            **{"batch_size": 10, "seed": 1, "shift": 0},
        },
        "dataset": "tiny",
        "validation": 10,
        "selected_on": "validation",
        "training_images": 5,
        "training_sha256": "0" * 64,
    }
    try:
        tracking.connect()
        with pytest.raises(KeyboardInterrupt), tracking.training_run("dense", tmp_path / "a", details) as first:
            raise KeyboardInterrupt
        assert mlflow.get_run(first.info.run_id).info.status == "KILLED"
        with pytest.raises(ZeroDivisionError), tracking.training_run("dense", tmp_path / "a", details) as second:
            raise ZeroDivisionError
        with tracking.training_run("dense", tmp_path / "b", details) as other:
            pass
        assert first.info.run_id == second.info.run_id != other.info.run_id
        run = mlflow.get_run(first.info.run_id)
        assert run.info.status == "FAILED"
        assert "dense, not evaluated on the test set yet." in run.data.tags["mlflow.note.content"]
        assert len(run.inputs.dataset_inputs) == 1
    finally:
        mlflow.set_tracking_uri(before)
