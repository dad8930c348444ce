"""A mistake in params.yaml or datasets.yaml is one sentence with its key, what was found and what is allowed."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import HERE

from mnistflow.core import params
from mnistflow.core.errors import WorkflowError
from mnistflow.data import catalog

MODEL: dict[str, Any] = {
    "network": "dense",
    "seed": 1,
    "epochs": 2,
    "batch_size": 10,
    "optimizer": "adam",
    "learning_rate": 0.001,
    "beta_2": 0.99,
    "schedule": "constant",
    "patience": 3,
}


def settings(**changes: Any) -> dict[str, Any]:
    """The values of a right params.yaml, but for some sections."""
    return {
        "fetch": {"dataset": "mnist"},
        "split": {"validation": 5000, "seed": 1},
        "models": {"wide": MODEL, "base": MODEL, "deep": MODEL},
        "evaluate": {"model": "wide", "baseline": "base", "target_accuracy": 0.9},
        "explain": {"model": "wide", "label": 4},
        **changes,
    }


def message(**changes: Any) -> str:
    with pytest.raises(WorkflowError) as error:
        params.parse(params.Settings, settings(**changes), "params.yaml")
    return str(error.value)


def test_the_baseline_comes_first_whatever_the_order_of_sections() -> None:
    values = settings(models={"deep": MODEL, "wide": MODEL, "base": MODEL})
    assert params.parse(params.Settings, values, "params.yaml").model_names() == ["base", "deep", "wide"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, ["models.wide.epochs is 0", "greater than or equal to 1"]),
        ({"epochs": "3"}, ["models.wide.epochs is '3'", "integer"]),
        ({"learning_rate": 2.0}, ["models.wide.learning_rate is 2.0", "less than or equal to 1"]),
        ({"optimizer": "sgd"}, ["models.wide.optimizer is 'sgd'", "'adam'"]),
        ({"learningrate": 1}, ["unknown key models.wide.learningrate", "did you mean learning_rate?"]),
        ({"network": "denze"}, ["models.wide.network", "did you mean dense?"]),
        ({"schedule": "one_cycle"}, ["models.wide", "one_cycle needs 'warmup'"]),
    ],
)
def test_a_wrong_value_of_a_model_is_named(change: dict[str, Any], words: list[str]) -> None:
    text = message(models={"wide": MODEL | change, "base": MODEL})
    assert all(word in text for word in words), text


def test_a_missing_value_is_named() -> None:
    model = {key: value for key, value in MODEL.items() if key != "seed"}
    assert "models.wide.seed is missing" in message(models={"wide": model, "base": MODEL})


@pytest.mark.parametrize("name", ["selected", "audit", "a b", "../x", "1st", "x" * 41])
def test_names_that_are_no_folder_or_another_file_are_refused(name: str) -> None:
    assert f"{name!r} can't name a model" in message(models={"wide": MODEL, "base": MODEL, name: MODEL})


def test_a_chosen_model_must_exist() -> None:
    text = message(evaluate={"model": "wid", "baseline": "base", "target_accuracy": 0.9})
    assert "evaluate.model is 'wid'" in text
    assert "did you mean wide?" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: 1\na: 2\n", "line 2"),
        ("a: [1\n", "not valid YAML"),
        ("a: 2026-99-99\n", "not valid YAML"),
        ("\ttab: 1\n", "not valid YAML"),
    ],
)
def test_what_is_no_yaml_is_named_with_its_line(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content)
    with pytest.raises(WorkflowError) as error:
        params.load(path)
    assert words in str(error.value)
    assert "<unicode string>" not in str(error.value)
    assert "suppress" not in str(error.value)


def test_the_committed_schema_is_that_of_the_code() -> None:
    assert json.loads((HERE / "params.schema.json").read_text()) == params.Settings.model_json_schema()


def test_every_committed_data_set_is_right() -> None:
    for name in params.read_yaml(HERE / "datasets.yaml"):
        assert len(catalog.load(name, HERE / "datasets.yaml").classes) > 1


def test_an_unknown_data_set_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match=r"'mnits' is no data set .* did you mean mnist\?"):
        catalog.load("mnits", HERE / "datasets.yaml")
