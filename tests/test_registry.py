"""What is registered, which version is served, and what the server answers."""

import csv
import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import mlflow
import numpy as np
import pytest
from conftest import Project, serving

from mnistflow import evaluation, registry, splits, store
from mnistflow.evaluation import Evaluated
from mnistflow.workspace import WorkflowError

ARGUMENTS = ("python", "-m", "mnistflow.registry", "HEAD", "models", "evaluation", "metrics", "data/arrays/validation")


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mlflow.MlflowClient]:
    """A client of an empty store."""
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store.connect()
    yield store.client()
    mlflow.set_tracking_uri(before)


def version(client: mlflow.MlflowClient, folder: Path, right: range, of: int = 100) -> tuple[Any, Evaluated]:
    """A version of a model that gets the images of `right` right, of `of`, and what it said about them."""
    labels = np.arange(of, dtype=np.uint8) % 10
    said = np.where(np.isin(np.arange(of), right), labels, (labels + 1) % 10)
    evaluation.write(
        folder / "evaluation",
        np.zeros((of, 28, 28), np.uint8),
        labels,
        np.eye(10, dtype=np.float32)[said],
        {"classes": [*"0123456789"]},
    )
    experiment = client.get_experiment_by_name("mnistflow")
    assert experiment is not None
    run = client.create_run(experiment.experiment_id)
    client.log_artifacts(run.info.run_id, str(folder / "evaluation"), "evaluation")
    if not client.search_registered_models():
        client.create_registered_model("mnistflow")
    made = client.create_model_version("mnistflow", str(folder), run.info.run_id)
    return made, evaluation.read(folder / "evaluation")


def test_champion_moves_only_to_a_version_that_is_better_by_more_than_chance(
    client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    def aliases() -> dict[str, str]:
        found = client.get_registered_model("mnistflow").aliases
        return {alias: str(number) for alias, number in found.items()}

    first = version(client, tmp_path / "first", range(80))
    assert "there was no champion" in registry.promote(*first)
    assert "already" in registry.promote(*first)

    by_chance = version(client, tmp_path / "by chance", range(83))
    said = registry.promote(*by_chance)
    assert said.startswith("it is the challenger, and version 1 stays champion: +3.00 points")
    assert "3 errors fixed, 0 introduced, McNemar p = 0.25" in said
    assert aliases() == {"champion": "1", "challenger": "2"}

    worse = version(client, tmp_path / "worse", range(20))
    assert "version 1 stays champion: -60.00 points" in registry.promote(*worse)
    assert aliases() == {"champion": "1", "challenger": "3"}

    better = version(client, tmp_path / "better", range(95))
    assert registry.promote(*better).startswith("it becomes champion: +15.00 points against version 1")
    assert aliases() == {"champion": "4", "challenger": "3"}

    elsewhere = version(client, tmp_path / "elsewhere", range(50), of=50)
    assert "no alias moves, because version 4, the champion, was tested on other" in registry.promote(*elsewhere)
    assert aliases() == {"champion": "4", "challenger": "3"}


def test_a_champion_that_lost_its_predictions_is_named(client: mlflow.MlflowClient, tmp_path: Path) -> None:
    first, second = (version(client, tmp_path / name, range(80)) for name in ("first", "second"))
    registry.promote(*first)
    shutil.rmtree(tmp_path / "mlruns")
    with pytest.raises(WorkflowError, match=f"run {first[0].run_id} should hold .* restore it, or delete") as raised:
        registry.promote(*second)
    assert "\n" not in str(raised.value)


def post(address: str, inputs: Any) -> Any:
    request = urllib.request.Request(
        f"{address}invocations", json.dumps({"inputs": inputs}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]


def test_the_selected_model_is_registered_once_and_served(repro: Project) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{repro.folder / 'mlflow.db'}")
    params, selected = repro.read("params.yaml"), repro.read("metrics/selected.json")
    try:
        (repro.folder / "metrics/selected.json").write_bytes(repro.read("metrics/dense.json"))
        repro.set(evaluate__model="dense", evaluate__target_accuracy=1.0)
        assert "dense does not pass: " in repro.run(*ARGUMENTS, status=1, PYTHONPATH="src")
        assert not client.search_registered_models()

        repro.set(evaluate__target_accuracy=0.3)
        together = [repro.start(*ARGUMENTS, PYTHONPATH="src") for _ in range(2)]
        outputs = [process.communicate(timeout=120)[0] for process in together]
        assert [process.returncode for process in together] == [0, 0], outputs
    finally:
        (repro.folder / "params.yaml").write_bytes(params)
        (repro.folder / "metrics/selected.json").write_bytes(selected)
    assert all("version 1 of mnistflow is this dense" in output for output in outputs)
    assert "mlflow models serve -m models:/mnistflow@champion --env-manager local" in outputs[0]
    (made,) = client.search_model_versions("name = 'mnistflow'")
    metrics = json.loads(repro.read("metrics/dense.json"))
    assert made.tags["model_md5"] in repro.read("dvc.lock").decode()
    assert made.tags["git_commit"] == repro.run("git", "rev-parse", "HEAD").strip()
    assert made.tags["git_dirty"] == "true"
    assert (float(made.tags["accuracy"]), int(made.tags["errors"])) == (metrics["accuracy"], metrics["errors"])
    assert made.description is not None
    assert made.description.startswith(f"dense: {metrics['accuracy']:.2%} of the test images right")
    assert client.get_run(made.run_id).data.tags["model_md5"] == made.tags["model_md5"]

    serve = ("mlflow", "models", "serve", "-m", "models:/mnistflow@champion", "--env-manager", "local")
    with serving(repro, "ping", *serve) as address:
        images = np.asarray(splits.load(repro.folder / "data/arrays/test").images)
        answer = post(address, images.tolist())
        rows = list(csv.DictReader(repro.read("evaluation/dense/predictions.csv").decode().splitlines()))
        assert answer["class"] == [int(row["predicted"]) for row in rows]
        np.testing.assert_allclose(
            np.max(answer["probabilities"], axis=1), [float(row["probability"]) for row in rows], atol=1e-5
        )
        for wrong, reason in [
            (images[0], "does not match expected shape (-1, 28, 28)"),
            (images[:1].reshape(1, 784), "Shape of input (1, 784) does not match expected shape (-1, 28, 28)"),
            (images[:1].astype(int) + 256, "out of bounds for uint8"),
            (images[:1] / 255, "Pixels are expected raw, 0 to 255, not scaled to 0-1"),
        ]:
            with pytest.raises(HTTPError) as refused:
                post(address, wrong.tolist())
            assert refused.value.code == 400
            assert reason in json.load(refused.value)["message"]
