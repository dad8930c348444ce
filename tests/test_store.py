"""The MLflow store and the runs in it: what is wrong with a store is one sentence, and stops no training.

test_record.py has trainings that go on, and whole pipelines with servers and kills.
"""

import json
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from conftest import Project, address_of, inside, runs, serve, steps
from filelock import FileLock
from mlflow.exceptions import MlflowException

from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import md5
from mnistflow.data import arrays
from mnistflow.data.arrays import Split
from mnistflow.evaluation import predictions
from mnistflow.tracking import runs as tracking
from mnistflow.tracking import status, store
from mnistflow.tracking.runs import LiveRun, TrainingRecord
from mnistflow.tracking.store import TrackingError
from mnistflow.training import history, state

SETTINGS = {"epochs": 2, "schedule": "constant", "optimizer": "adam", "learning_rate": 0.1, "batch_size": 5, "seed": 1}
DETAILS: dict[str, Any] = {
    "model": "dense",
    "settings": SETTINGS,
    "dataset": "tiny",
    "validation": 10,
    "selected_on": "validation",
    "training_images": 5,
    "training_sha256": "0" * 64,
}
ROWS = [history.Epoch(number, 0.5, 0.9, 0.4 / number, 0.8, 0.1) for number in (1, 2)]


@pytest.fixture
def folder(new_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with an empty record of its own."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    shutil.copy(new_store / "mlflow.db", tmp_path)
    with inside(Project(tmp_path)):
        yield tmp_path


def reason() -> str:
    """Why the store can't be used, in one line."""
    with pytest.raises(TrackingError) as error:
        store.connect()
    assert "\n" not in str(error.value)
    return str(error.value)


def live(path: Path, **tags: str) -> LiveRun:
    """The run of a training whose record is the file at `path`."""
    return LiveRun(path, TrainingRecord(DETAILS, {"model": "dense", **tags}, "dense"))


# The store


def test_a_new_store_is_whole_and_its_artifacts_have_a_relative_address(new_store: Path) -> None:
    assert {path.name for path in new_store.iterdir()} <= {"mlflow.db", "mlflow.db.lock"}
    with closing(sqlite3.connect(new_store / "mlflow.db")) as database:
        rows = database.execute("SELECT artifact_location FROM experiments WHERE name = 'mnistflow'").fetchall()
    assert rows == [("mlruns",)]


def test_artifacts_move_with_the_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    store.connect()
    with store.session():
        run_id = store.client().create_run(store.experiment_id()).info.run_id
        store.client().log_text(run_id, "hello", "note.txt")
    assert [path.name for path in (folder / "mlruns").rglob("*.txt")] == ["note.txt"]
    moved = tmp_path_factory.mktemp("moved")
    for name in ("mlflow.db", "mlruns"):
        (folder / name).rename(moved / name)
    with inside(Project(moved)):
        store.connect()
        assert mlflow.artifacts.load_text(f"runs:/{run_id}/note.txt") == "hello"
    assert not (folder / "mlruns").exists()


def test_a_second_connection_makes_nothing_anew(folder: Path) -> None:
    content = (folder / "mlflow.db").read_bytes()
    store.connect()
    assert (folder / "mlflow.db").read_bytes() == content
    assert not (folder / "mlflow.db.lock").exists()  # to look at a record needs no writing


def damage(path: Path, start: int, content: bytes) -> None:
    with path.open("rb+") as file:
        file.seek(start)
        file.write(content)


@pytest.mark.parametrize(("change", "words"), [
    (lambda path: path.write_bytes(b""), "is damaged (it is empty); move it aside and run `make record`"),
    (lambda path: path.write_bytes(b"x" * 5000), "is damaged (file is not a database); move it aside"),
    (lambda path: damage(path, 4096, b"\xff" * 8192), "is damaged ("),
    (lambda path: os.truncate(path, path.stat().st_size // 8192 * 4096), "is damaged ("),
])  # fmt: skip
def test_a_damaged_database_is_named_and_left_as_it_is(folder: Path, change: Callable[[Path], Any], words: str) -> None:
    path = folder / "mlflow.db"
    change(path)
    content = path.read_bytes()
    assert f"the MLflow tracking store {path} {words}" in reason()
    assert path.read_bytes() == content


def test_a_dangling_link_is_named_and_nothing_is_made_at_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "link.db").symlink_to(folder / "gone.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/link.db")
    assert f"{folder}/link.db is a link to {folder}/gone.db, which is missing" in reason()
    assert not (folder / "gone.db").exists()
    (folder / "gone.db").write_bytes((folder / "mlflow.db").read_bytes())  # and a link to a store is one
    store.connect()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_never_replaced_by_a_store(
    folder: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device would be too: every program of the machine may need it."""
    make(folder / "other")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/other")
    assert f"{folder}/other is no file; choose another path" in reason()
    assert not (folder / "other").is_file()


@pytest.fixture(scope="module")
def old_server() -> Iterator[str]:
    """The address of a server whose MLflow is of the generation before."""
    yield from serve(Old)


class Old(BaseHTTPRequestHandler):
    """Answers with the version of an MLflow."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/version" else 404)
        self.end_headers()
        self.wfile.write(b"2.22.0")

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def test_a_server_of_another_generation_is_refused(
    folder: Path, old_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", old_server.replace("://", "://me:secret@"))
    sentence = reason()
    assert f"has version 2.22.0, and {version('mlflow')} here needs one of the same generation" in sentence
    assert "me:***@127.0.0.1" in sentence
    assert "secret" not in sentence


@pytest.mark.parametrize("address", [
    "http://me:secret@127.0.0.1:{port}",
    "ftp://me:secret@127.0.0.1/x",
    "mysql+nothing://me:secret@127.0.0.1/x",
    "sqlite:////proc/me:secret@no/x.db",
])  # fmt: skip
def test_an_address_that_will_not_do_is_one_sentence_without_its_password(
    folder: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format(port=port))
    sentence = reason()
    assert sentence.startswith("the MLflow tracking store ")
    assert "correct that, or set MLFLOW_TRACKING_URI to another store" in sentence
    if "://me:secret@" in address:
        assert "me:***@" in sentence
        assert "secret" not in sentence


def test_a_port_that_is_no_number_is_one_sentence_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a password has characters that an address gives another meaning."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:top@sec:ret@127.0.0.1/x")
    assert reason().startswith("the MLflow tracking store postgresql://me:***@127.0.0.1/x has a port that is no number")


# Runs


@pytest.fixture
def away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The store is away; the call brings it back."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")

    def bring_back() -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address_of(Project(folder)))

    return bring_back


def test_a_server_that_is_away_costs_one_warning_and_its_times_are_kept(
    folder: Path, away: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / ".cache/training/dense-1/run.json"
    run = live(path)
    run.log_epochs(ROWS[:1], 1.5)
    run.log_epochs(ROWS, 2.5)
    run.end("FINISHED")
    output = capsys.readouterr().out
    assert output.count("not recorded: the MLflow tracking store http://me:***@127.0.0.1:") == 1
    assert output.count("\n") == 1
    assert "secret" not in output
    assert (path.parent / state.UNRECORDED).is_file()
    record = tracking.read_record(path)
    assert record is not None
    assert [seconds for _, seconds in record.epochs] == [1.5, 2.5]
    assert record.ended is not None
    assert record.started <= record.epochs[0][0] <= record.ended


def test_a_store_that_comes_back_gets_all_epochs_in_one_run(folder: Path) -> None:
    path = folder / ".cache/training/dense-1/run.json"
    live(path).log_epochs(ROWS[:1], 1.5)
    live(path).log_epochs(ROWS, 2.5)  # another process, that goes on
    run = live(path)
    run.log_epochs(ROWS, 0.5)  # which has trained already
    run.end("FINISHED")
    client = mlflow.MlflowClient()
    (only,) = runs(client)
    assert (only.info.status, steps(client, only), only.data.metrics["epoch_seconds"]) == ("FINISHED", [1, 2], 2.5)
    assert only.data.params == {key: str(value) for key, value in SETTINGS.items()} | {
        "dataset": "tiny",
        "validation": "10",
    }
    assert not (path.parent / state.UNRECORDED).exists()


def test_a_long_reason_ends_at_a_word(folder: Path) -> None:
    with pytest.raises(TrackingError) as error, store.session():
        raise MlflowException("reason " * 100)
    assert "reason reason ... (correct that, or set MLFLOW_TRACKING_URI" in str(error.value)


@pytest.mark.parametrize(("epochs", "later"), [([], 0), ([1.0], 0), ([1.0], 7_200_000)])
def test_the_run_of_an_interrupted_training_is_closed_unless_a_process_works_at_it(
    folder: Path, epochs: list[float], later: int
) -> None:
    """It ended with its last epoch; where the clock was set back, not before it began."""
    path = folder / ".cache/training/dense-1/run.json"
    run = live(path)
    if epochs:
        run.log_epochs(ROWS[:1], epochs[0])
    mlflow.end_run("RUNNING")  # this process forgets it, as one that was killed
    run.record.started += later
    run.record.write(path)
    client = mlflow.MlflowClient()
    with store.session(), FileLock(f"{path.parent}.lock"):
        tracking.close_interrupted()
    assert runs(client)[0].info.status == "RUNNING"
    with store.session():
        tracking.close_interrupted()
    info = runs(client)[0].info
    last = run.record.epochs[-1][0] if epochs else run.record.started
    assert (info.status, info.end_time) == ("KILLED", max(last, run.record.started))


def test_what_an_interrupted_training_goes_on_from_is_kept_for_a_month(folder: Path) -> None:
    path = folder / ".cache/training/dense-1/run.json"
    live(path).log_epochs(ROWS[:1], 1.0)
    mlflow.end_run("RUNNING")
    plan = folder / ".cache/training/plan"  # of a search: it has no run of its own beside it
    plan.mkdir()

    def delete(days: float) -> None:
        for file in path.parent.iterdir():
            os.utime(file, (0, time.time() - days * 86_400))
        tracking.delete_abandoned()

    delete(days=29)
    with FileLock(f"{path.parent}.lock"):  # a process works at it
        delete(days=31)
    assert path.is_file()
    delete(days=31)
    assert list(plan.parent.iterdir()) == [plan]


@pytest.fixture
def evaluated(folder: Path) -> str:
    """The outputs of a training and an evaluation of the model `dense`, in the folder; the hash of its model."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (20, 6, 5), dtype=np.uint8)
    split = Split(images, (np.arange(20) % 3).astype(np.uint8))
    arrays.save(Path("data/validation"), split)
    description = arrays.Description("tiny", (6, 5), ["a", "b", "c"], 10, None)
    arrays.DESCRIPTION.write_text(json.dumps(description._asdict()))
    trained = Path("models/dense")
    trained.mkdir(parents=True)
    (trained / "model.keras").write_bytes(b"a model")
    (trained / "training.json").write_text(json.dumps({**DETAILS, "epochs": 2, "best_epoch": 2, "parameters": 30}))
    history.write(trained / "history.csv", ROWS)
    model = md5(trained / "model.keras")
    values = {"accuracy": 0.5, "accuracy_low": 0.3, "accuracy_high": 0.7, "errors": 10, "parameters": 30}
    report = {
        "model": "dense",
        "model_md5": model,
        "test_sha256": "1" * 64,
        "classes": ["a", "b", "c"],
        "metrics": values,
    }
    predictions.write(Path("evaluation/dense"), split, random.dirichlet(np.ones(3), 20).astype(np.float32), report)
    return model


def finished(folder: Path, model: str, number: int) -> str:
    """A finished run that came to a model; its ID."""
    run = live(folder / f".cache/training/dense-{number}/run.json", **{tracking.MODEL_MD5: model})
    run.log_epochs(ROWS, 1.0)
    run.end("FINISHED")
    return str(runs(mlflow.MlflowClient())[0].info.run_id)


def test_an_evaluation_is_put_on_every_run_of_its_model_once(folder: Path, evaluated: str) -> None:
    first, second = finished(folder, evaluated, 1), finished(folder, evaluated, 2)
    client = mlflow.MlflowClient()
    ended = {run.info.run_id: run.info.end_time for run in runs(client)}
    tracking.log_evaluation("dense", {"milliseconds_per_image": 0.25})
    for run_id in (first, second):
        run = client.get_run(run_id)
        assert run.data.metrics["test/accuracy"] == 0.5
        assert "test/parameters" not in run.data.metrics  # training.json has them
        assert (run.info.status, run.info.end_time) == ("FINISHED", ended[run_id])
        assert run.data.tags["mlflow.note.content"].startswith("dense: 50.00% of the test images right, 10 wrong")
        files = {file.path for file in client.list_artifacts(run_id, "evaluation")}
        assert {"evaluation/predictions.csv", "evaluation/errors.png", "evaluation/confusion.png"} <= files
    assert "test/milliseconds_per_image" not in client.get_run(first).data.metrics
    assert client.get_run(second).data.metrics["test/milliseconds_per_image"] == 0.25


def test_what_a_user_adds_to_a_finished_run_is_theirs(folder: Path, evaluated: str) -> None:
    run_id = finished(folder, evaluated, 1)
    tracking.log_evaluation("dense")
    client = mlflow.MlflowClient()
    client.log_metric(run_id, "usefulness", 0.5)
    client.log_metric(run_id, "val_loss", 9.9, step=2)
    client.set_tag(run_id, "mlflow.note.content", "my own words")
    before = client.get_run(run_id).to_dictionary()
    with store.session():
        tracking.close_interrupted()
    tracking.log_evaluation("dense")
    assert client.get_run(run_id).to_dictionary() == before


@pytest.mark.slow  # TensorFlow
def test_a_run_that_the_store_missed_is_written_from_the_outputs(
    folder: Path, evaluated: str, away: Callable[[], None]
) -> None:
    """With the times of its training, and once."""
    from mnistflow.training import archive
    from mnistflow.training.backend import keras

    layers = [keras.layers.Input((6, 5), dtype="uint8"), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    network = keras.Sequential(layers)
    archive.save(Path("models/dense/model.keras"), network)
    model = md5(Path("models/dense/model.keras"))
    report = Path("evaluation/dense/report.json")
    report.write_text(report.read_text().replace(evaluated, model))
    path = folder / ".cache/training/dense-1/run.json"
    run = live(path)
    run.log_epochs(ROWS, 2.5)
    run.log_outputs(Path("models/dense"), network, arrays.load(Path("data/validation")), 7.0)
    run.end("FINISHED")
    assert (path.parent / state.UNRECORDED).is_file()
    away()
    store.connect()
    for _ in range(2):
        tracking.log_evaluation("dense")
    client = mlflow.MlflowClient()
    (only,) = runs(client)
    assert (only.info.status, only.info.end_time) == ("FINISHED", run.record.ended)
    assert only.data.tags[tracking.MODEL_MD5] == model
    assert "restored" not in only.data.tags
    measured = {"seconds": 7.0, "best_epoch": 2, "test/accuracy": 0.5, "epoch_seconds": 2.5}
    assert {key: only.data.metrics[key] for key in measured} == measured
    assert steps(client, only) == [1, 2]
    assert len(only.outputs.model_outputs) == 1
    assert not (path.parent / state.UNRECORDED).exists()


def test_an_evaluation_of_another_model_is_refused(folder: Path, evaluated: str) -> None:
    finished(folder, evaluated, 1)
    Path("models/dense/model.keras").write_bytes(b"another")
    with pytest.raises(
        WorkflowError, match="evaluation/dense belongs to another model than .*models/dense; run `dvc repro`"
    ):
        tracking.log_evaluation("dense")


def test_a_page_goes_to_the_newest_run_of_its_model(folder: Path, evaluated: str) -> None:
    (folder / "report.html").write_text("first")
    store.connect()
    with pytest.raises(WorkflowError, match=f"no run of the model {evaluated}; `make record` writes it"):
        tracking.attach(Path("report.html"), evaluated)
    finished(folder, evaluated, 1)
    run_id = finished(folder, evaluated, 2)
    tracking.attach(Path("report.html"), evaluated)
    (folder / "report.html").write_text("second")
    tracking.attach(Path("report.html"), evaluated)
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/report.html") == "second"


# The mark


def test_the_mark_holds_until_something_changes_that_the_record_depends_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert not status.is_up_to_date()
    status.write()
    assert status.is_up_to_date()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert not status.is_up_to_date()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert status.is_up_to_date()
    for path in (folder / "dvc.lock", folder / ".cache/training/dense-1/run.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("new")
        assert not status.is_up_to_date(), path
        path.unlink()
        assert status.is_up_to_date(), path
    for damage in (b"", b"\xff"):
        (folder / ".cache/recorded.json").write_bytes(damage)
        assert not status.is_up_to_date(), damage
    status.write()
    (folder / "mlflow.db").rename(folder / "aside.db")
    assert not status.is_up_to_date()
