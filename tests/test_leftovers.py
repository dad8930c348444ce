"""Outputs of models that params.yaml no longer has: deleted where DVC has them, named where not, never compared."""

import json
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HERE
from ruamel.yaml import YAML

from mnistflow.core import params
from mnistflow.core.files import md5
from mnistflow.core.params import RESERVED
from mnistflow.data import arrays
from mnistflow.data.arrays import Split
from mnistflow.evaluation import leftovers, metrics, occlusion, predictions, robustness
from mnistflow.evaluation.corruptions import FAMILIES
from mnistflow.evaluation.robustness import Scores
from mnistflow.training import history

MODELS = ("cnn", "dense")


def write_model(name: str, images: int = 30) -> None:
    """Write the outputs that a model's stages leave, of a test set of so many random images."""
    random = np.random.default_rng(images)
    test = Split(random.integers(0, 256, (images, 6, 5), dtype=np.uint8), (np.arange(images) % 3).astype(np.uint8))
    probabilities = random.dirichlet(np.ones(3), images).astype(np.float32)
    values = metrics.headline(probabilities, test.labels) | {"parameters": 30}
    report = {"model": name, "classes": ["a", "b", "c"], "metrics": values}
    predictions.write(Path("evaluation", name), test, probabilities, report)
    occlusion.write(Path("evaluation", name), lambda images: np.full((len(images), 3), 1 / 3, np.float32))
    robustness.write(name, Scores(images, 0.9, {family: [0.8, 0.7, 0.6] for family in FAMILIES}))
    Path("models", name).mkdir(parents=True)
    Path("models", name, "model.keras").write_text(f"a model {name}")
    history.write(Path("models", name, "history.csv"), [history.Epoch(1, 0.5, 0.9, 0.4, 0.8, 0.1)])
    Path("metrics").mkdir(exist_ok=True)
    Path("metrics", f"{name}.json").write_text(json.dumps(values))


def put_into_cache(*paths: str) -> None:
    """Put these files into DVC's cache."""
    for path in paths:
        digest = md5(Path(path))
        copy = Path(".dvc/cache/files/md5", digest[:2], digest[2:])
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the outputs of two models that params.yaml has, and of `old`, which it has not."""
    monkeypatch.chdir(tmp_path)
    for name in (*MODELS, "old"):
        write_model(name)
    return tmp_path


def content() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_what_dvc_has_is_deleted_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    for name in RESERVED:
        Path("metrics", f"{name}.json").write_text("{}")
    put_into_cache("models/old/model.keras", "evaluation/old/report.json")
    before = content()
    leftovers.clean(MODELS, RESERVED)
    assert capsys.readouterr().out.splitlines() == [
        f"{folder}/old: deleted, because params.yaml has no such model; DVC's cache still has it"
        for folder in ("models", "evaluation")
    ]
    assert content() == {path: data for path, data in before.items() if "old" not in path}


@pytest.mark.parametrize("how", ["nothing is cached", "the model was changed", "the model is missing"])
def test_what_dvc_does_not_have_is_named_and_stays(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    put_into_cache(*([] if how == "nothing is cached" else ["models/old/model.keras"]))
    if how == "the model was changed":
        Path("models/old/model.keras").write_text("somebody's own")
    if how == "the model is missing":
        Path("models/old/model.keras").unlink()
    before = content()
    leftovers.clean(MODELS, RESERVED)
    assert capsys.readouterr().out.splitlines() == [
        f"{folder}/old: ignored, because params.yaml has no such model; DVC's cache has no copy, so move it away"
        for folder in ("models", "evaluation")
    ]
    assert content() == {path: data for path, data in before.items() if not re.match(r"metrics/.*\bold\.", path)}


def test_without_leftovers_nothing_happens(capsys: pytest.CaptureFixture[str]) -> None:
    Path("models/.gitignore").write_text("/cnn\n")  # a file of DVC's is no model
    before = content()
    leftovers.clean([*MODELS, "old"], RESERVED)
    assert capsys.readouterr().out == ""
    assert content() == before
    for name in ("models", "evaluation", "metrics"):
        shutil.rmtree(name)
    leftovers.clean(MODELS, RESERVED)
    assert content() == {}


def test_a_leftover_is_in_no_comparison_and_no_figure(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in `compare` nor in `plot`; it may even be of another test set. There is no data/test here either."""
    shutil.rmtree("evaluation/old")
    shutil.rmtree("models/old")
    write_model("old", images=40)
    write_settings()
    arrays.save(arrays.DATA / "validation", Split(np.zeros((9, 6, 5), np.uint8), np.arange(9, dtype=np.uint8) % 3))
    for stage in ("compare", "plot"):
        runpy.run_path(str(HERE / f"stages/{stage}.py"))["main"]()
    output = capsys.readouterr().out
    assert "models/old: ignored" in output
    assert "evaluation/old: ignored" in output
    assert "old" not in output.replace("models/old", "").replace("evaluation/old", "")
    comparison, audit = (json.loads(Path("metrics", f"{name}.json").read_text()) for name in ("comparison", "audit"))
    assert {pair[side] for pair in comparison["pairs"] for side in ("model", "baseline")} == set(MODELS)
    assert set(audit["models"]) == set(MODELS)
    assert "old" not in Path("plots/loss.csv").read_text()
    assert Path("evaluation/old/report.json").is_file()


def write_settings() -> None:
    """The project's params.yaml with these models and a data set of three classes."""
    values: Any = params.read_yaml(HERE / "params.yaml")
    values["models"] = {name: values["models"][name] for name in MODELS}
    values["fetch"]["dataset"] = "three"
    YAML().dump(values, Path("params.yaml"))
    Path("datasets.yaml").write_text(json.dumps({"three": {"format": "scikit-learn", "classes": ["a", "b", "c"]}}))
