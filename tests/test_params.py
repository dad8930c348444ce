"""params.yaml is accepted as it is, and every slip gets a sentence with its key, its value and what is allowed."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import HERE
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from mnistflow import params
from mnistflow.workspace import WorkflowError

VALUES = YAML(typ="safe", pure=True).load(HERE / "params.yaml")
ABSENT = object()


def leaves(values: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every value in params.yaml that is not itself a section."""
    if not isinstance(values, dict):
        return [path]
    return [leaf for key, value in values.items() for leaf in leaves(value, (*path, key))]


def changed(path: str, value: Any) -> Any:
    """The values of params.yaml with one of them changed, added or taken away."""
    values = copy.deepcopy(VALUES)
    *sections, last = path.split(".")
    section = values
    for key in sections:
        section = section[key]
    if value is ABSENT:
        del section[last]
    else:
        section[last] = value
    return values


def test_the_file_is_accepted_and_frozen() -> None:
    settings = params.load(HERE / "params.yaml")
    assert settings.models["dense"].learning_rate == 0.001
    with pytest.raises(ValueError, match="frozen"):
        settings.split.seed = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        ("models.cnn.epochs", -1, ["models.cnn.epochs is -1", "a whole number from 1 to 10000 is allowed"]),
        ("models.cnn.epochs", "5", ["models.cnn.epochs is '5'", "whole number"]),
        ("models.cnn.epochs", True, ["models.cnn.epochs is True", "whole number"]),
        ("models.cnn.learning_rate", 0, ["models.cnn.learning_rate is 0", "a number above 0 to 1 is allowed"]),
        ("models.cnn.learning_rate", float("nan"), ["models.cnn.learning_rate is nan", "a number above 0 to 1"]),
        ("models.cnn.learning_rat", 1, ["unknown key 'models.cnn.learning_rat'", "did you mean learning_rate?"]),
        ("models.cnn.optimizer", "sgd", ["models.cnn.optimizer is 'sgd'", "'adam', 'adamw' or 'nadam'"]),
        ("models.cnn.warmup", ABSENT, ["models.cnn", "one_cycle needs 'warmup'"]),
        ("models.cnn", ABSENT, ["models.cnn is missing"]),
        ("models.cnnn", {}, ["unknown key 'models.cnnn'", "did you mean cnn?", "dense, cnn, compact"]),
        ("modles", {}, ["unknown key 'modles'", "did you mean models?"]),
        ("split", ABSENT, ["split is missing"]),
        ("split.1", 2, ["unknown key 'split.1', which is 2", "validation, seed"]),
        ("fetch.dataset", 7, ["fetch.dataset is 7", "mnist, fashion_mnist, kmnist, digits"]),
        ("split.validation", 60_000, ["split.validation is 60000", "60000 training images", "10 to 59990, or test"]),
        ("split.validation", 9, ["split.validation is 9", "from 10 up, or test"]),
        ("split.validation", "tset", ["split.validation is 'tset'", "or test"]),
        ("fetch.dataset", "minst", ["fetch.dataset", "'minst'", "did you mean mnist?", "kmnist, digits"]),
        ("fetch.sources.mnist", [], ["fetch.sources.mnist lists no source"]),
        ("evaluate.model", "cnnn", ["evaluate.model is 'cnnn'", "'dense', 'cnn' or 'compact'"]),
        ("evaluate.target_accuracy", 99.28, ["evaluate.target_accuracy is 99.28", "a number from 0 to 1 is allowed"]),
    ],
)
def test_a_slip_gets_a_sentence(path: str, value: Any, parts: list[str]) -> None:
    with pytest.raises(WorkflowError) as raised:
        params.parse(changed(path, value))
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert sentence.startswith("params.yaml: ")
    for part in parts:
        assert part in sentence


@pytest.mark.parametrize("path", leaves(VALUES))
def test_no_value_is_accepted_whatever_its_type(path: tuple[str, ...]) -> None:
    for value in ({"a": 1}, None):
        if path[-1] in ("warmup", "final") and path[1] == "dense":
            continue
        with pytest.raises(WorkflowError, match=path[-1]):
            params.parse(changed(".".join(path), value))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=1500, deadline=None)
@given(path=st.sampled_from([leaf[:depth] for leaf in leaves(VALUES) for depth in range(1, len(leaf) + 1)]), value=JSON)
def test_any_value_is_accepted_or_refused_with_a_sentence(path: tuple[str, ...], value: Any) -> None:
    try:
        params.parse(changed(".".join(path), value))
    except WorkflowError as error:
        assert str(error).startswith("params.yaml: ")


@settings(max_examples=500, deadline=None)
@given(value=JSON)
def test_any_document_is_refused_with_a_sentence(value: Any) -> None:
    with pytest.raises(WorkflowError, match=r"params\.yaml: "):
        params.parse(value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a: [1", "not valid YAML"),
        ("a: 1\na: 2", "duplicate key"),
        ("\x00", "not valid YAML"),
        ("", "should hold the sections"),
    ],
)
def test_what_is_no_yaml_gets_a_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(WorkflowError, match=sentence):
        params.load(tmp_path / "params.yaml")


def test_a_misspelt_key_is_told_once() -> None:
    values = changed("split.sede", VALUES["split"]["seed"])
    del values["split"]["seed"]
    with pytest.raises(
        WorkflowError, match=r"^params\.yaml: unknown key 'split\.sede', which is 1; did you mean seed\?"
    ) as raised:
        params.parse(values)
    assert "\n" not in str(raised.value)


def test_a_missing_file_and_a_binary_one_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match="is missing"):
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WorkflowError, match="not UTF-8"):
        params.load(tmp_path / "params.yaml")


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    text = (HERE / "params.yaml").read_text().replace("learning_rate: 0.001", "learning_rate: 1e-3")
    (tmp_path / "params.yaml").write_text(text)
    assert params.load(tmp_path / "params.yaml").models["dense"].learning_rate == 0.001


def test_the_committed_schema_is_that_of_the_code() -> None:
    assert json.loads((HERE / "params.schema.json").read_text()) == params.Params.model_json_schema()


def test_hostile_yaml_is_one_sentence(tmp_path: Path) -> None:
    bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{n}: &{n} [{','.join([f'*{p}'] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
    )
    good = (HERE / "params.yaml").read_text()
    cases = {
        "a: 2001-99-99": "not valid YAML",
        "a: !!int x": "not valid YAML",
        "a: !!bool foo": "not valid YAML",
        "a: " + "[" * 3000: "not valid YAML",
        "a: " + "9" * 5000: "(not valid YAML|more than settings do)",
        bomb: "more than settings do",
        good + bomb: "more than settings do",
        good.replace("dataset: mnist", f"dataset: {'x' * 100_000}"): "more than settings do",
        good + "~: c": "the key None is no text",
        good + "2001-01-01: c": "the key 2001-01-01 is no text",
        good + "? [a, b]\n: c": "is no text",
    }
    for text, sentence in cases.items():
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(WorkflowError, match=sentence) as raised:
            params.load(tmp_path / "params.yaml")
        assert len(str(raised.value)) < 400
        assert "\n" not in str(raised.value)
