"""sweep.yaml is accepted as it is, and every slip gets a sentence with its key, its value and what is allowed."""

import copy
from pathlib import Path
from typing import Any

import pytest
from conftest import HERE
from ruamel.yaml import YAML

from mnistflow import params
from mnistflow.params import Params
from mnistflow.sweep import space
from mnistflow.workspace import WorkflowError

VALUES = YAML(typ="safe", pure=True).load(HERE / "sweep.yaml")
ABSENT = object()


@pytest.fixture(scope="module")
def settings() -> Params:
    return params.load(HERE / "params.yaml")


def load(folder: Path, settings: Params, **changes: Any) -> space.Sweep:
    """sweep.yaml with some values changed, added or taken away; space__shift__low sets space.shift.low."""
    values = copy.deepcopy(VALUES)
    for path, value in changes.items():
        *sections, last = path.split("__")
        section = values
        for key in sections:
            section = section[key]
        section[last] = value
        if value is ABSENT:
            del section[last]
    YAML(typ="safe").dump(values, folder / "sweep.yaml")
    return space.load(folder / "sweep.yaml", settings)


def test_the_file_is_accepted_and_holds_what_params_yaml_has(settings: Params) -> None:
    sweep = space.load(HERE / "sweep.yaml", settings)
    assert sweep.model == "compact"
    mine = settings.models["compact"]
    assert sweep.present(mine) == {"learning_rate": 0.006, "batch_size": 200, "shift": 1}
    assert sweep.present(mine.model_copy(update={"shift": 3})) is None
    assert sweep.present(mine.model_copy(update={"batch_size": 300})) is None


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"space__learning_rat": {"low": 0.1, "high": 0.2}}, ["'space.learning_rat'", "did you mean learning_rate?"]),
        ({"space__learning_rate__high": 2}, ["space.learning_rate", "is 2", "a number above 0 to 1 is allowed"]),
        ({"space__learning_rate__low": 0.02}, ["space.learning_rate", "low is 0.02", "below high"]),
        ({"space__learning_rate__low": ABSENT}, ["space.learning_rate", "low is None"]),
        ({"space__learning_rate__lo": 1}, ["unknown key 'space.learning_rate.lo'", "did you mean low?"]),
        ({"space__shift__log": True}, ["space.shift", "low is 0", "above 0"]),
        ({"space__shift__high": 1.5}, ["space.shift", "is 1.5", "a whole number from 0 to 8"]),
        ({"space__shift__values": [1, 2]}, ["space.shift", "either values, or low and high"]),
        ({"space__shift": {}}, ["space.shift", "either values, or low and high"]),
        ({"space__batch_size__values": [100]}, ["space.batch_size.values", "a list", "at least 2"]),
        ({"space__batch_size__values": [100, 100]}, ["space.batch_size", "a value is there twice"]),
        ({"space__batch_size__values": [0, 100]}, ["space.batch_size", "is 0", "a whole number from 1 to 60000"]),
        ({"space__optimizer": {"low": 0, "high": 1}}, ["space.optimizer", "'adam', 'adamw' or 'nadam'"]),
        ({"space__seed": {"values": [1, 2]}}, ["space.seed", "no setting to choose by"]),
        ({"space__epochs": {"low": 2, "high": 4}}, ["space.epochs and early_stopping"]),
        ({"space": {}}, ["space", "at least 1"]),
        ({"space": ABSENT}, ["space is missing"]),
        ({"early_stopping__epochs": 4}, ["early_stopping.epochs is 4", "no trial has more than 4"]),
        ({"early_stopping__reduction": 1}, ["early_stopping.reduction is 1", "greater than 1"]),
        ({"objective": "test_accuracy"}, ["objective is 'test_accuracy'", "'val_loss' or 'val_accuracy'"]),
        ({"model": "cnnn"}, ["model is 'cnnn'", "'dense', 'cnn' or 'compact'"]),
        ({"trials": 0}, ["trials is 0", "greater than or equal to 1"]),
        ({"trial": 3}, ["unknown key 'trial'", "did you mean trials?"]),
        ({"resources__cpu": 3}, ["unknown key 'resources.cpu'", "did you mean cpus?"]),
    ],
)
def test_a_slip_gets_a_sentence(tmp_path: Path, settings: Params, changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(WorkflowError) as raised:
        load(tmp_path, settings, **changes)
    sentence = str(raised.value).splitlines()[0]
    assert sentence.startswith(f"{tmp_path}/sweep.yaml")
    for part in parts:
        assert part in sentence


def test_a_setting_that_needs_another_may_be_searched_with_it(tmp_path: Path, settings: Params) -> None:
    schedule: dict[str, Any] = {"model": "dense", "space": {"schedule": {"values": ["constant", "one_cycle"]}}}
    with pytest.raises(WorkflowError, match="schedule one_cycle needs 'warmup'"):
        load(tmp_path, settings, **schedule)
    schedule["space"] |= {"warmup": {"low": 0.1, "high": 0.4}, "final": {"values": [0.01, 0.1]}}
    assert load(tmp_path, settings, **schedule).space["warmup"].ends("warmup") == [0.1, 0.4]


def test_a_search_on_the_test_set_is_refused(settings: Params) -> None:
    book = settings.model_copy(update={"split": settings.split.model_copy(update={"validation": "test"})})
    with pytest.raises(WorkflowError, match="a search would choose on the test set"):
        space.load(HERE / "sweep.yaml", book)


@pytest.mark.parametrize("content", ["a: [1", "a: 1\na: 2", "\x00", "a: 2001-99-99", "- 1", "", "a: " + "[" * 3000])
def test_what_is_no_such_file_gets_a_sentence(tmp_path: Path, settings: Params, content: str) -> None:
    (tmp_path / "sweep.yaml").write_text(content)
    with pytest.raises(WorkflowError, match=r"sweep\.yaml"):
        space.load(tmp_path / "sweep.yaml", settings)
    with pytest.raises(WorkflowError, match="is missing"):
        space.load(tmp_path / "none.yaml", settings)
