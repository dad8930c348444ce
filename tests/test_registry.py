"""What is registered, which version is the champion, what the registered model gives and what its server answers."""

import csv
import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import mlflow
import numpy as np
import pytest
from conftest import Project, inside, runs, serving

from mnistflow.core.errors import WorkflowError
from mnistflow.data import arrays
from mnistflow.data.arrays import Split
from mnistflow.evaluation import predictions
from mnistflow.evaluation.predictions import Predictions
from mnistflow.tracking import registry, store

REGISTER = ("python", "-m", "mnistflow.tracking.registry")
URI = "models:/mnistflow@champion"


@pytest.fixture
def client(new_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mlflow.MlflowClient]:
    """A client of an empty store."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    shutil.copy(new_store / "mlflow.db", tmp_path)
    with inside(Project(tmp_path)) as client:
        store.connect()
        yield client


def version(client: mlflow.MlflowClient, folder: Path, right: range, images: int = 100) -> tuple[Any, Predictions]:
    """A version of a model that is right on the images of `right`, and its predictions."""
    labels = np.arange(images, dtype=np.uint8) % 10
    predicted = np.where(np.isin(np.arange(images), right), labels, (labels + 1) % 10)
    test = Split(np.zeros((images, 28, 28), np.uint8), labels)
    predictions.write(
        folder / "evaluation", test, np.eye(10, dtype=np.float32)[predicted], {"classes": [*"0123456789"]}
    )
    run = client.create_run(store.experiment_id())
    client.log_artifacts(run.info.run_id, str(folder / "evaluation"), "evaluation")
    if not client.search_registered_models():
        client.create_registered_model("mnistflow")
    made = client.create_model_version("mnistflow", str(folder), run.info.run_id)
    return made, predictions.read(folder / "evaluation")


def test_champion_moves_only_to_a_version_that_is_better_by_more_than_chance(
    client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    def aliases() -> dict[str, str]:
        model = client.get_registered_model("mnistflow")
        return {alias: str(number) for alias, number in model.aliases.items()}

    first = version(client, tmp_path / "first", range(80))
    assert "there was no champion" in registry.promote(*first)
    assert "already" in registry.promote(*first)

    by_chance = version(client, tmp_path / "by chance", range(83))
    reason = registry.promote(*by_chance)
    assert reason.startswith("it is the challenger, and version 1 stays champion: +3.00 points")
    assert "3 errors fixed, 0 introduced, McNemar p = 0.25" in reason
    assert aliases() == {"champion": "1", "challenger": "2"}

    worse = version(client, tmp_path / "worse", range(20))
    assert "version 1 stays champion: -60.00 points" in registry.promote(*worse)
    assert aliases() == {"champion": "1", "challenger": "3"}

    better = version(client, tmp_path / "better", range(95))
    reason = registry.promote(*better)
    assert reason.startswith("it becomes champion: +15.00 points")
    assert reason.endswith("against version 1")
    assert aliases() == {"champion": "4", "challenger": "3"}

    elsewhere = version(client, tmp_path / "elsewhere", range(50), images=50)
    assert "no alias moves, because version 4, the champion, was tested on other" in registry.promote(*elsewhere)
    assert aliases() == {"champion": "4", "challenger": "3"}


def test_a_challenger_that_gets_better_is_no_challenger_any_more(client: mlflow.MlflowClient, tmp_path: Path) -> None:
    registry.promote(*version(client, tmp_path / "first", range(80)))
    second = version(client, tmp_path / "second", range(82))
    registry.promote(*second)
    labels = second[1].labels
    registry.promote(
        second[0],
        Predictions(labels, labels, second[1].confidence, second[1].error_images, {"classes": second[1].classes}),
    )
    aliases = client.get_registered_model("mnistflow").aliases
    assert {alias: str(number) for alias, number in aliases.items()} == {"champion": "2"}


def test_a_champion_that_lost_its_predictions_is_named(client: mlflow.MlflowClient, tmp_path: Path) -> None:
    first, second = (version(client, tmp_path / name, range(80)) for name in ("first", "second"))
    registry.promote(*first)
    shutil.rmtree(tmp_path / "mlruns")
    with pytest.raises(WorkflowError, match=f"run {first[0].run_id} should hold .* restore it, or delete") as raised:
        registry.promote(*second)
    assert "\n" not in str(raised.value)
    client.log_text(first[0].run_id, "index,actual\n1,x\n", "evaluation/predictions.csv")  # there, and damaged
    with pytest.raises(WorkflowError, match="restore it, or delete the model version") as raised:
        registry.promote(*second)
    assert "dvc checkout" not in str(raised.value)  # which is for the project's own outputs
    client.delete_model_version("mnistflow", first[0].version)  # as it says
    assert "there was no champion" in registry.promote(*second)


@pytest.fixture(scope="module")
def registered(
    copy_of_repro: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, list[str]]:
    """A project whose compact model two processes have registered at once, and what these printed."""
    project = copy_of_repro(tmp_path_factory.mktemp("registered") / "project")
    processes = [project.start(*REGISTER, PYTHONPATH="src") for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return project, outputs


def inputs_and_rows(project: Project) -> tuple[np.typing.NDArray[np.uint8], list[dict[str, str]]]:
    """The test images, and the rows of predictions.csv."""
    images = np.asarray(arrays.load(project.folder / "data/test").images)
    return images, list(csv.DictReader(project.read("evaluation/compact/predictions.csv").decode().splitlines()))


@pytest.mark.slow
def test_the_selected_model_becomes_one_version_with_its_facts(registered: tuple[Project, list[str]]) -> None:
    project, outputs = registered
    assert all("version 1 of mnistflow is this compact" in output for output in outputs)
    assert f"mlflow models serve -m {URI} --env-manager local" in outputs[0]
    with inside(project) as client:
        (made,) = client.search_model_versions("name = 'mnistflow'")
        metrics = json.loads(project.read("metrics/compact.json"))
        assert made.tags["model_md5"] in project.read("dvc.lock").decode()
        assert made.tags["git_commit"] == project.run("git", "rev-parse", "HEAD").strip()
        assert made.tags["git_dirty"] == "false"
        assert (float(made.tags["accuracy"]), int(made.tags["errors"])) == (metrics["accuracy"], metrics["errors"])
        assert made.description.startswith(f"compact: {metrics['accuracy']:.2%} of the test images right")
        (run,) = runs(client, "tags.model = 'compact'")
        assert made.run_id == run.info.run_id
        assert len(run.outputs.model_outputs) == 1


@pytest.mark.slow
def test_it_is_loaded_as_keras_model_and_as_classifier(registered: tuple[Project, list[str]]) -> None:
    project, _ = registered
    images, rows = inputs_and_rows(project)
    expected = [int(row["predicted"]) for row in rows]
    with inside(project):
        network = mlflow.tensorflow.load_model(URI)
        assert type(network).__module__.startswith("keras.")
        assert network.predict(images, verbose=0).argmax(axis=1).tolist() == expected
        classifier = mlflow.pyfunc.load_model(URI)
        answer = classifier.predict(images)
        assert list(answer["class"]) == expected
        np.testing.assert_allclose(answer["probabilities"].sum(axis=1), 1, rtol=1e-5)
        assert classifier.metadata.saved_input_example_info is not None
        needed = Path(mlflow.artifacts.download_artifacts(f"{URI}/requirements.txt")).read_text()
    assert {"mlflow", "keras", "numpy"} < {line.partition("==")[0] for line in needed.splitlines()}
    assert "tensorflow" in needed


def post(address: str, inputs: Any) -> Any:
    request = urllib.request.Request(
        f"{address}invocations", json.dumps({"inputs": inputs}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]


@pytest.mark.slow
def test_its_server_answers_raw_pixels_and_refuses_all_else(registered: tuple[Project, list[str]]) -> None:
    project, _ = registered
    images, rows = inputs_and_rows(project)
    with serving(project, "ping", "mlflow", "models", "serve", "-m", URI, "--env-manager", "local") as address:
        answer = post(address, images.tolist())
        assert answer["class"] == [int(row["predicted"]) for row in rows]
        confidence = [float(row["probability"]) for row in rows]
        np.testing.assert_allclose(np.max(answer["probabilities"], axis=1), confidence, atol=1e-5)

        scaled = images[:3].astype(float)
        scaled[1] /= 255
        for wrong, sentence in [
            (images[0], "the input has the shape (28, 28)"),
            (images[:1].reshape(1, 784), "the input has the shape (1, 784)"),
            (np.zeros((0, 28, 28)), "the input has the shape"),
            (images[:1].astype(int) + 256, "image 0 has values from 256 to "),
            (images[:2] / 255, "image 0 has values from 0 to 1"),
            (scaled, "image 1 has values from 0 to 1"),
            ((images[:1] / 255 - 0.1307) / 0.3081, "image 0 has values from -0.42"),
            (255 - images[:1], "image 0 has a light border"),
        ]:
            with pytest.raises(HTTPError) as refused:
                post(address, wrong.tolist())
            assert refused.value.code == 400
            message = json.load(refused.value)["message"]
            assert message.startswith(sentence), message
            assert len(message) < 300
            assert "Traceback" not in message
