"""The workflow as people use it: a real `dvc repro`, a real MLflow store, a real mirror, on tiny data."""

import csv
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from conftest import COMPACT_EPOCHS, TEST, TRAIN, Mirror, Project, is_clean, kill, runs, stages_run, steps, wait_for
from ruamel.yaml import YAML

from mnistflow import splits
from mnistflow.params import ModelParams

MODELS = ("dense", "cnn", "compact")


@pytest.fixture
def store(repro: Project) -> Iterator[mlflow.MlflowClient]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{repro.folder / 'mlflow.db'}")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


def test_a_first_run_runs_every_stage_once(repro: Project) -> None:
    ran = stages_run(repro.read(".cache/repro.log").decode())
    trains = {f"{stage}@{model}" for stage in ("train", "evaluate") for model in MODELS}
    assert sorted(ran) == sorted({"params", "fetch", "preprocess", "compare", "audit", "explain", "plot"} | trains)


def test_its_log_is_short_and_free_of_noise(repro: Project) -> None:
    log = repro.read(".cache/repro.log").decode()
    assert len(log.splitlines()) < 150
    for noise in ("oneDNN", "Warning", "WARNING", "alembic", "INFO", "Traceback", "I0000"):
        assert noise not in log


def test_every_file_is_there(repro: Project) -> None:
    expected = {
        f"data/raw/{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    }
    for name in ("training", "validation", "test"):
        expected |= {f"data/arrays/{name}/{kind}.npy" for kind in ("images", "labels")}
    expected |= {f"data/overview/{name}" for name in ("overview.txt", "class_counts.json", "digit.png", "samples.png")}
    for model in MODELS:
        files = ("model.keras", "history.csv", "summary.txt", "training.json", "loss.png")
        expected |= {f"models/{model}/{name}" for name in files}
        expected |= {f"evaluation/{model}/{name}" for name in ("predictions.csv", "errors.npy", "report.json")}
        expected.add(f"metrics/{model}.json")
    expected |= {f"metrics/{name}.json" for name in ("selected", "comparison", "audit")}
    expected |= {f"plots/{name}.png" for name in ("loss", "confusion", "errors", "audit", "layers")}
    pictures = ("numbers", "convolution", "pooling", "kernels", "layers", "kept")
    expected |= {"inside/captions.json"} | {f"inside/{name}.png" for name in pictures}
    found = set(repro.outputs())
    assert {path for path in found if not path.endswith(".gitignore")} == expected


def test_the_splits_are_what_was_asked_for(repro: Project) -> None:
    arrays = {name: splits.load(repro.folder / "data/arrays" / name) for name in ("training", "validation", "test")}
    assert {name: len(split.labels) for name, split in arrays.items()} == {
        "training": TRAIN - 50,
        "validation": 50,
        "test": TEST,
    }
    images = [image.tobytes() for name in ("training", "validation") for image in arrays[name].images]
    assert len(images) == TRAIN
    overview = repro.read("data/overview/overview.txt").decode()
    assert "250 training, 50 validation, 100 test" in overview
    assert "one-hot vector: [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]" in overview


@pytest.mark.parametrize("model", MODELS)
def test_metrics_are_those_of_the_predictions(repro: Project, model: str) -> None:
    metrics = json.loads(repro.read(f"metrics/{model}.json"))
    rows = list(csv.DictReader(repro.read(f"evaluation/{model}/predictions.csv").decode().splitlines()))
    errors = [row for row in rows if row["actual"] != row["predicted"]]
    assert len(rows) == TEST
    assert metrics["errors"] == len(errors)
    assert metrics["accuracy"] == pytest.approx(1 - len(errors) / TEST)
    assert metrics["selected_on"] == "validation"
    assert len(np.load(repro.folder / f"evaluation/{model}/errors.npy", allow_pickle=False)) == len(errors)


def test_the_selected_model_s_metrics_stand_under_names_of_their_own(repro: Project) -> None:
    assert repro.read("metrics/selected.json") == repro.read("metrics/cnn.json")
    comparison = json.loads(repro.read("metrics/comparison.json"))
    cnn, dense = (json.loads(repro.read(f"metrics/{model}.json")) for model in ("cnn", "dense"))
    assert comparison["cnn_vs_dense"]["gain"] == pytest.approx(cnn["accuracy"] - dense["accuracy"])
    assert comparison["target_met"] == (cnn["accuracy"] >= 0.3)


@pytest.mark.parametrize("model", MODELS)
def test_the_run_in_mlflow_holds_everything(repro: Project, store: mlflow.MlflowClient, model: str) -> None:
    run = runs(store, f"tags.model = '{model}'")[-1]
    assert (run.info.run_name, run.info.status) == (model, "FINISHED")

    settings = ModelParams(**YAML(typ="safe").load(repro.folder / "params.yaml")["models"][model])
    assert run.data.params == {key: str(value) for key, value in settings.model_dump(exclude_none=True).items()} | {
        "dataset": "tiny",
        "validation": "50",
    }
    with (repro.folder / f"models/{model}/history.csv").open() as file:
        history = list(csv.DictReader(file))
    for key in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
        logged = store.get_metric_history(run.info.run_id, key)
        assert [(point.step, point.value) for point in sorted(logged, key=lambda point: point.step)] == [
            (int(row["epoch"]), float(row[key])) for row in history
        ]
    metrics = json.loads(repro.read(f"metrics/{model}.json"))
    assert run.data.metrics["test_accuracy"] == metrics["accuracy"]
    assert {"seconds", "epoch_seconds", "test_milliseconds_per_image", "parameters"} <= set(run.data.metrics)
    best = min(history, key=lambda row: float(row["val_loss"]))
    kept = ("best_epoch", "best_val_loss", "best_val_accuracy")
    assert [run.data.metrics[key] for key in kept] == [
        float(best[key]) for key in ("epoch", "val_loss", "val_accuracy")
    ]
    tags = run.data.tags
    assert tags["git_dirty"] == "false"
    assert tags["mlflow.source.git.commit"] == repro.run("git", "rev-parse", "HEAD~1").strip()
    assert tags["processor"]
    together = runs(store, f"tags.pipeline = '{tags['pipeline']}'")
    assert {each.data.tags["model"] for each in together} == set(MODELS)
    assert tags["mlflow.note.content"].startswith(f"{model}: {metrics['accuracy']:.2%} of the test images right")
    assert len(run.inputs.dataset_inputs) == 1
    assert run.inputs.dataset_inputs[0].dataset.name == "tiny"
    assert json.loads(repro.read(f"models/{model}/training.json"))["training_sha256"].startswith(
        run.inputs.dataset_inputs[0].dataset.digest
    )

    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id))
    for name in ("model.keras", "loss.png", "history.csv"):
        assert (folder / name).read_bytes() == repro.read(f"models/{model}/{name}")
    for name in ("confusion.png", "errors.png", "predictions.csv"):
        assert (folder / "evaluation" / name).stat().st_size > 1000


def test_the_logged_model_classifies_raw_pixels(repro: Project, store: mlflow.MlflowClient) -> None:
    run = runs(store, "tags.model = 'cnn'")[-1]
    model = mlflow.pyfunc.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
    assert model.metadata.signature is not None
    assert model.metadata.saved_input_example_info is not None
    needed = Path(mlflow.artifacts.download_artifacts(model.metadata.artifact_path), "requirements.txt").read_text()
    assert {"mlflow", "keras", "numpy"} < set(re.findall(r"^[\w-]+(?===)", needed, re.MULTILINE))
    assert "tensorflow" in needed
    test = splits.load(repro.folder / "data/arrays/test")
    said = model.predict(np.asarray(test.images))
    rows = csv.DictReader(repro.read("evaluation/cnn/predictions.csv").decode().splitlines())
    assert list(said["class"]) == [int(row["predicted"]) for row in rows]
    np.testing.assert_allclose(said["probabilities"].sum(axis=1), 1, rtol=1e-5)


def test_a_second_run_runs_nothing(repro: Project, mirror: Mirror) -> None:
    mirror.requests.clear()
    output = repro.dvc("repro")
    assert stages_run(output) == []
    assert "up to date" in output
    assert mirror.requests == []
    assert is_clean(repro)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="sees by /proc how far the imports are")
def test_ctrl_c_while_a_stage_imports_is_one_line(repro: Project) -> None:
    process = repro.start("python", "stages/train.py", "dense", "nowhere", "nowhere", "nowhere", PYTHONPATH="src")
    wait_for(lambda: "tensorflow" in Path(f"/proc/{process.pid}/maps").read_text(), process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert said == "error: interrupted; the same command goes on.\n"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_training_goes_on_and_ends_in_the_same_bytes(
    repro: Project, store: mlflow.MlflowClient, how: signal.Signals
) -> None:
    before, lock = repro.outputs(), repro.read("dvc.lock")
    first = runs(store, "tags.model = 'compact'")[-1]
    repro.forget("models/compact/model.keras")
    process = repro.start("dvc", "repro", "--force", "--single-item", "train@compact")
    wait_for(lambda: repro.states("*/state.npz"), process)
    kill(process, how)
    stopped = runs(store, "tags.model = 'compact'")[0]
    assert stopped.info.status == {signal.SIGKILL: "RUNNING", signal.SIGINT: "KILLED"}[how]

    output = repro.dvc("repro")
    assert stages_run(output) == ["train@compact"]
    assert "epoch  1 " not in output
    assert repro.outputs() == before
    assert repro.read("dvc.lock") == lock
    repro.record()
    assert not repro.states()
    newest = runs(store, "tags.model = 'compact'")[0]
    assert (newest.info.run_id, newest.info.status) == (stopped.info.run_id, "FINISHED")
    assert steps(store, newest) == list(range(1, COMPACT_EPOCHS + 1))

    # The model is the same and DVC did not evaluate it again, and yet its metrics are on this run too.
    assert newest.info.run_id != first.info.run_id
    assert newest.data.metrics["test_accuracy"] == first.data.metrics["test_accuracy"]
    assert newest.data.tags["mlflow.note.content"].startswith(f"compact: {newest.data.metrics['test_accuracy']:.2%} of")
    names = {artifact.path for artifact in store.list_artifacts(newest.info.run_id, "evaluation")}
    assert "evaluation/confusion.png" in names


def test_a_slip_in_params_stops_everything_and_deletes_nothing(repro: Project) -> None:
    params, before = repro.read("params.yaml"), repro.outputs()
    try:
        repro.set(models__compact__epochs=-1)
        output = repro.dvc("repro", status=255)
        assert stages_run(output) == ["params"]
        assert "error: params.yaml: models.compact.epochs is -1; a whole number from 1 to 10000 is allowed." in output
        assert "Traceback" not in output
        assert repro.run("git", "status", "--porcelain").split() == ["M", "params.yaml"]
    finally:
        (repro.folder / "params.yaml").write_bytes(params)
    assert repro.outputs() == before
    repro.dvc("repro")
    assert is_clean(repro)


def test_one_changed_value_runs_its_model_and_what_follows(repro: Project, store: mlflow.MlflowClient) -> None:
    """In an experiment, so that this shows too that one in a copy of the project is recorded in the project."""
    count = len(runs(store))
    output = repro.dvc("exp", "run", "--temp", "--name", "slower", "--set-param", "models.compact.learning_rate=1e-3")
    assert stages_run(output) == ["params", "train@compact", "evaluate@compact", "compare", "audit", "plot"]
    (new,) = runs(store)[: len(runs(store)) - count]
    assert new.info.run_name == "compact (slower)"
    assert new.data.tags["model"] == "compact"
    assert new.data.tags["dvc_experiment"] == "slower"
    assert new.data.tags["mlflow.source.git.commit"] == repro.run("git", "rev-parse", "HEAD").strip()
    assert new.data.tags["git_dirty"] == "true"
    assert new.data.params["learning_rate"] == "0.001"
    assert "test_accuracy" in new.data.metrics
    assert store.list_artifacts(new.info.run_id, "evaluation")
    changes = json.loads(repro.dvc("metrics", "diff", "--json", "HEAD", "slower"))
    assert set(changes) == {"metrics/compact.json"}

    # The same value in the workspace: DVC knows the outcome.
    params = repro.read("params.yaml")
    try:
        repro.set(models__compact__learning_rate=0.001)
        assert not [stage for stage in stages_run(repro.dvc("repro")) if "@" in stage]
    finally:
        (repro.folder / "params.yaml").write_bytes(params)
    assert not [stage for stage in stages_run(repro.dvc("repro")) if "@" in stage]
    assert is_clean(repro)


def test_the_baseline_experiment_compares_cnn_with_dense(repro: Project) -> None:
    output = repro.dvc("exp", "run", "--temp", "--name", "baseline", "--set-param", "evaluate.model=dense")
    assert not [stage for stage in stages_run(output) if stage.startswith("train")]
    change = json.loads(repro.dvc("metrics", "diff", "--json", "baseline"))["metrics/selected.json"]["accuracy"]
    dense, cnn = (json.loads(repro.read(f"metrics/{model}.json"))["accuracy"] for model in ("dense", "cnn"))
    assert (change["old"], change["new"]) == (dense, cnn)


def test_plots_are_rendered_from_the_outputs(repro: Project, tmp_path: Path) -> None:
    repro.dvc("plots", "show", "--out", str(tmp_path))
    page = (tmp_path / "index.html").read_text()
    for part in ("val_loss", "cnn confusion", "dense loss", "errors.png"):
        assert part in page


def test_a_store_that_never_saw_the_models_is_filled_from_the_outputs(repro: Project, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    for _ in range(2):  # the second time, there is nothing left to do
        repro.record(MLFLOW_TRACKING_URI=uri)
    client = mlflow.MlflowClient(uri)
    restored = runs(client)
    assert sorted(run.info.run_name or "" for run in restored) == sorted(MODELS)
    for run in restored:
        assert run.data.tags["restored"] == "true"
        assert run.info.status == "FINISHED"
        metrics = json.loads(repro.read(f"metrics/{run.info.run_name}.json"))
        assert run.data.metrics["test_accuracy"] == metrics["accuracy"]
        assert client.get_metric_history(run.info.run_id, "val_loss")
        assert run.outputs.model_outputs
        assert run.inputs.dataset_inputs[0].dataset.name == "tiny"
        assert run.data.tags["mlflow.source.git.commit"] == "unknown"
        assert "Restored from DVC's outputs" in run.data.tags["mlflow.note.content"]
