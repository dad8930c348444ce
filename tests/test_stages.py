"""One `dvc repro` from end to end on tiny data: every output is there, and the outputs agree with each other."""

import csv
import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from conftest import TEST, TRAIN, Project, client_of, inside, is_clean, runs, stages_run, wait_for

from mnistflow.core import params
from mnistflow.data import arrays
from mnistflow.evaluation import comparisons, metrics

MODELS = ("dense", "compact")


def read_json(project: Project, path: str) -> Any:
    return json.loads(project.read(path))


def rows_of(project: Project, path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(project.read(path).decode().splitlines()))


@pytest.fixture
def client(repro: Project) -> Iterator[mlflow.MlflowClient]:
    with inside(repro) as client:
        yield client


def test_a_first_run_runs_every_stage_once(repro: Project) -> None:
    stages = stages_run(repro.read(".cache/repro.log").decode())
    of_models = {f"{stage}@{model}" for stage in ("train", "evaluate") for model in MODELS}
    assert sorted(stages) == sorted({"params", "fetch", "preprocess", "compare", "plot", "explain"} | of_models)


def test_its_log_has_no_traceback_and_no_messages_of_mlflow(repro: Project) -> None:
    log = repro.read(".cache/repro.log").decode()
    assert "Traceback" not in log
    assert not re.search(r"alembic|mlflow\.|UserWarning|FutureWarning", log)


def test_every_output_is_there_and_no_other_file(repro: Project) -> None:
    expected = {f"data/raw/{part}_{kind}" for part in ("train", "test") for kind in ("images", "labels")}
    for part in ("training", "validation", "test"):
        expected |= {f"data/{part}/{kind}.npy" for kind in ("images", "labels")}
    expected |= {"data/dataset.json"} | {
        f"data/overview/{name}" for name in ("overview.txt", "digit.png", "samples.png")
    }
    for model in MODELS:
        expected |= {
            f"models/{model}/{name}" for name in ("model.keras", "history.csv", "summary.txt", "training.json")
        }
        expected |= {
            f"evaluation/{model}/{name}" for name in ("predictions.csv", "errors.npy", "occlusion.npy", "report.json")
        }
    expected |= {f"metrics/{name}.json" for name in (*MODELS, "selected", "comparison", "audit")}
    expected |= {f"metrics/robustness/{model}.csv" for model in MODELS}
    figures = ("loss", "confusion", "errors", "audit", "occlusion", "robustness", "layers")
    expected |= {"plots/loss.csv"} | {f"plots/{name}.png" for name in figures}
    pictures = [picture["file"] for picture in read_json(repro, "inside/captions.json")]
    expected |= {"inside/captions.json"} | {f"inside/{name}" for name in pictures}
    assert {path for path in repro.outputs() if not path.endswith(".gitignore")} == expected


def test_no_stage_leaves_a_temporary_file(repro: Project) -> None:
    assert not repro.temporary_files()


def test_training_validation_and_test_images_are_disjoint_and_complete(repro: Project) -> None:
    parts = {part: arrays.load(repro.folder / "data" / part) for part in arrays.PARTS}
    sizes = {part: len(split.labels) for part, split in parts.items()}
    assert sizes == {"training": TRAIN - 50, "validation": 50, "test": TEST}
    assert len({image.tobytes() for split in parts.values() for image in split.images}) == TRAIN + TEST
    overview = repro.read("data/overview/overview.txt").decode()
    assert "250 training, 50 validation, 100 test" in overview
    assert "one-hot vector: [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]" in overview


@pytest.mark.parametrize("model", MODELS)
def test_metrics_are_those_of_the_predictions(repro: Project, model: str) -> None:
    values = read_json(repro, f"metrics/{model}.json")
    rows = rows_of(repro, f"evaluation/{model}/predictions.csv")
    errors = [index for index, row in enumerate(rows) if row["actual"] != row["predicted"]]
    low, high = metrics.wilson_interval(TEST - len(errors), TEST)
    assert len(rows) == TEST
    assert values["errors"] == len(errors)
    assert values["accuracy"] == pytest.approx(1 - len(errors) / TEST)
    assert (values["accuracy_low"], values["accuracy_high"]) == pytest.approx((low, high))
    assert values["selected_on"] == "validation"
    test = arrays.load(repro.folder / "data/test")
    assert [int(row["actual"]) for row in rows] == test.labels.tolist()
    images = np.load(repro.folder / f"evaluation/{model}/errors.npy", allow_pickle=False)
    assert np.array_equal(images, test.images[errors])


@pytest.mark.parametrize("model", MODELS)
def test_a_model_file_gives_the_predictions_on_record(repro: Project, model: str) -> None:
    from mnistflow.training import archive

    network = archive.load(repro.folder / f"models/{model}/model.keras")
    probabilities = network.predict(np.asarray(arrays.load(repro.folder / "data/test").images), verbose=0)
    rows = rows_of(repro, f"evaluation/{model}/predictions.csv")
    assert probabilities.argmax(axis=1).tolist() == [int(row["predicted"]) for row in rows]
    np.testing.assert_allclose(probabilities.max(axis=1), [float(row["probability"]) for row in rows], atol=1e-5)
    details = read_json(repro, f"models/{model}/training.json")
    assert details["parameters"] == network.count_params()
    history = rows_of(repro, f"models/{model}/history.csv")
    best = min(history, key=lambda row: float(row["val_loss"]))
    assert (details["epochs"], details["best_epoch"]) == (len(history), int(best["epoch"]))


def test_the_comparison_agrees_with_the_metrics(repro: Project) -> None:
    assert repro.read("metrics/selected.json") == repro.read("metrics/compact.json")
    accuracies = {model: read_json(repro, f"metrics/{model}.json")["accuracy"] for model in MODELS}
    comparison = read_json(repro, "metrics/comparison.json")
    assert (comparison["selected"], comparison["baseline"]) == ("compact", "dense")
    assert comparison["target_met"] == (accuracies["compact"] >= comparison["target_accuracy"])
    pairs = [(pair["model"], pair["baseline"]) for pair in comparison["pairs"]]
    assert pairs == [("compact", "dense")]
    for pair in comparison["pairs"]:
        assert pair["gain"] == pytest.approx(accuracies[pair["model"]] - accuracies[pair["baseline"]])
        assert (pair["fixed"] - pair["introduced"]) / TEST == pytest.approx(pair["gain"])
    audit = read_json(repro, "metrics/audit.json")
    assert {model: row["errors"] for model, row in audit["models"].items()} == {
        model: read_json(repro, f"metrics/{model}.json")["errors"] for model in MODELS
    }
    table = comparisons.table({model: read_json(repro, f"metrics/{model}.json") for model in MODELS}, comparison)
    assert all(line in repro.read(".cache/repro.log").decode() for line in table[-1:])


@pytest.mark.parametrize("model", MODELS)
def test_the_run_in_mlflow_has_settings_curves_metrics_and_files(
    repro: Project, client: mlflow.MlflowClient, model: str
) -> None:
    (run,) = runs(client, f"tags.model = '{model}'")
    assert (run.info.run_name, run.info.status) == (model, "FINISHED")
    settings = params.load(repro.folder / "params.yaml").models[model].model_dump(exclude_none=True)
    logged = {key: str(value) for key, value in settings.items()}
    assert run.data.params == logged | {"dataset": "tiny", "validation": "50"}

    history = rows_of(repro, f"models/{model}/history.csv")
    for key in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
        points = sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, key))
        assert points == [(int(row["epoch"]), float(row[key])) for row in history]
    values = read_json(repro, f"metrics/{model}.json")
    for key in ("accuracy", "accuracy_low", "errors", "loss"):
        assert run.data.metrics[f"test/{key}"] == values[key]
    assert {"seconds", "epoch_seconds", "test/milliseconds_per_image", "parameters"} <= set(run.data.metrics)
    best = min(history, key=lambda row: float(row["val_loss"]))
    for key, column in {
        "best_epoch": "epoch",
        "best_val_loss": "val_loss",
        "best_val_accuracy": "val_accuracy",
    }.items():
        assert run.data.metrics[key] == float(best[column])

    tags = run.data.tags
    assert (tags["git_dirty"], tags["selected_on"]) == ("false", "validation")
    assert tags["mlflow.source.git.commit"] == repro.run("git", "rev-parse", "HEAD~1").strip()
    assert "restored" not in tags
    together = runs(client, f"tags.pipeline = '{tags['pipeline']}'")
    assert {each.data.tags["model"] for each in together} == set(MODELS)
    assert tags["mlflow.note.content"].startswith(f"{model}: {values['accuracy']:.2%} of the test images right")
    (logged,) = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    assert logged.tags["mlflow.note.content"].startswith(f"{model}: {values['accuracy']:.2%} of the test images right")
    used = {tag.value: each.dataset for each in run.inputs.dataset_inputs for tag in each.tags if "context" in tag.key}
    assert (set(used), len(run.inputs.dataset_inputs)) == ({"training", "test"}, 2)
    assert read_json(repro, f"models/{model}/training.json")["training_sha256"].startswith(used["training"].digest)
    assert used["training"].name == "tiny"

    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id))
    for name in ("model.keras", "history.csv", "training.json", "summary.txt"):
        assert (folder / name).read_bytes() == repro.read(f"models/{model}/{name}")
    for name in ("loss.png", "evaluation/confusion.png", "evaluation/errors.png", "evaluation/predictions.csv"):
        assert (folder / name).stat().st_size > 1000


def test_a_second_run_runs_nothing_and_git_sees_no_change(repro: Project) -> None:
    output = repro.dvc("repro")
    assert stages_run(output) == []
    assert "up to date" in output
    assert is_clean(repro)


def test_a_wrong_value_in_params_is_one_sentence_and_deletes_nothing(repro: Project) -> None:
    text, before = repro.read("params.yaml"), repro.outputs()
    try:
        repro.set(models__compact__epochs=-1)
        output = repro.dvc("repro", status=255)
    finally:
        (repro.folder / "params.yaml").write_bytes(text)
    assert stages_run(output) == ["params"]
    assert re.search(r"^error: params\.yaml: models\.compact\.epochs is -1; .*\.$", output, re.MULTILINE)
    assert "Traceback" not in output
    assert repro.outputs() == before
    assert is_clean(repro)


@pytest.mark.slow
def test_the_book_s_way_chooses_on_the_test_set_and_says_so(
    copy_of_repro: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = copy_of_repro(tmp_path / "project")
    project.set(split__validation="test")
    output = project.dvc("repro", "evaluate@dense")
    assert stages_run(output) == ["params", "preprocess", "train@dense", "evaluate@dense"]
    assert read_json(project, "metrics/dense.json")["selected_on"] == "test"
    assert "best epoch chosen on the test images" in output
    assert project.read("data/validation/images.npy") == project.read("data/test/images.npy")
    assert len(arrays.load(project.folder / "data/training").labels) == TRAIN
    run = runs(client_of(project), "tags.model = 'dense'")[0]
    assert run.data.tags["selected_on"] == "test"
    assert "chosen on the test set" in run.data.tags["mlflow.note.content"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="sees by /proc how far the imports are")
def test_ctrl_c_while_a_stage_imports_is_one_sentence(copy_of_repro: Callable[[Path], Project], tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / "project")
    process = project.start("python", "stages/train.py", "dense", PYTHONPATH="src")
    wait_for(lambda: "tensorflow" in Path(f"/proc/{process.pid}/maps").read_text(), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1] == "error: interrupted; run the same command again to go on."
    assert "Traceback" not in output
