"""A mistake in params.yaml or datasets.yaml is one sentence with its key, what was found and what is allowed."""

import json
from collections.abc import Iterator
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
    ("change", "sentence"),
    [
        ({"epochs": 0}, "models.wide.epochs is 0; at least 1 is expected"),
        ({"epochs": "3"}, "models.wide.epochs is '3'; a whole number is expected"),
        ({"epochs": None}, "models.wide.epochs is empty; a whole number is expected"),
        ({"seed": 1e30}, "models.wide.seed is 1e+30; a whole number is expected"),
        ({"seed": 2**32}, "models.wide.seed is 4294967296; less than 4294967296 is expected"),
        ({"learning_rate": 2.0}, "models.wide.learning_rate is 2.0; at most 1 is expected"),
        ({"learning_rate": True}, "models.wide.learning_rate is true; a number is expected"),
        ({"optimizer": "sgd"}, "models.wide.optimizer is 'sgd'; 'adam', 'adamw' or 'nadam' is expected"),
        ({"optimizer": ["adam"]}, "models.wide.optimizer is a list of 1; 'adam', 'adamw' or 'nadam' is expected"),
        ({"network": 5}, 'models.wide.network is 5; a text, as "5", is expected'),
        (
            {"network": "denze"},
            "models.wide.network: 'denze' is no file in src/mnistflow/networks with a name of letters, "
            "digits and _ alone; did you mean dense? known are accurate, cnn, compact, dense",
        ),
        (
            {"schedule": "one_cycle"},
            "models.wide: schedule one_cycle needs warmup and final, each from 0 to 1; add what is missing",
        ),
        (
            {"learningrate": 1},
            "unknown key models.wide.learningrate; remove it or correct its name; did you mean learning_rate? "
            "known are average, batch_size, bend, beta_2, epochs, final, learning_rate, network, optimizer, patience, "
            "rotate, schedule, seed, shift, smoothing, warmup, zoom",
        ),
    ],
)
def test_a_wrong_value_of_a_model_is_named(change: dict[str, Any], sentence: str) -> None:
    assert message(models={"wide": MODEL | change, "base": MODEL}) == f"params.yaml: {sentence}."


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"models": {}}, "models is empty; a section with keys is expected"),
        ({"models": None}, "models is empty; a section with keys is expected"),
        (
            {"models": {"wide": 3}},
            "models.wide is 3; a section with the keys network, seed, epochs, batch_size, optimizer, "
            "learning_rate, beta_2, schedule, patience is expected",
        ),
        ({"models": {5: MODEL}}, "models.5 is no name, because it is no text; choose a name that begins with a letter"),
        ({"split": None}, "split is empty; a section with the keys validation, seed is expected"),
        ({"split": {"validation": 0, "seed": 1}}, "split.validation is 0; at least 1 or 'test' is expected"),
        (
            {"split": {"validation": {"x": 1}, "seed": 1}},
            "split.validation is a section with keys; a whole number or 'test' is expected",
        ),
        (
            {"splits": {}},
            "unknown key splits; remove it or correct its name; did you mean split? "
            "known are evaluate, explain, fetch, models, split",
        ),
    ],
)
def test_a_wrong_section_is_named(changes: dict[str, Any], sentence: str) -> None:
    assert message(**changes) == f"params.yaml: {sentence}."


def test_every_mistake_is_named_in_words_for_people() -> None:
    """At each key, in turn: nothing, and values of every kind."""
    wrong = (None, -1, 0, 10**30, 1e300, float("nan"), [1, 2], "a b", "", {"x": 1}, True, {}, [])
    for source, kind, values in (
        ("params.yaml", params.Settings, settings()),
        ("datasets.yaml, mnist", catalog.Dataset, params.read_yaml(HERE / "datasets.yaml")["mnist"]),
    ):
        for path in paths(values):
            for value in wrong:
                try:
                    params.parse(kind, changed(values, path, value), source)
                except WorkflowError as error:
                    text = str(error)
                    assert all(line.strip().startswith((source, "... and")) for line in text.splitlines())
                    for jargon in (
                        "instance",
                        "dictionary",
                        "valid ",
                        "{",
                        "Literal",
                        "literal",
                        "constrained",
                        "None",
                    ):
                        assert jargon not in text


def paths(values: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The keys that lead to each value and each section."""
    for key, value in values.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in paths(value))


def changed(values: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The values with another one at a path."""
    first, *rest = path
    return values | {first: changed(values[first], tuple(rest), value) if rest else value}


def test_a_missing_value_is_named() -> None:
    model = {key: value for key, value in MODEL.items() if key != "seed"}
    assert "models.wide.seed is missing" in message(models={"wide": model, "base": MODEL})


@pytest.mark.parametrize("name", ["selected", "audit", "a b", "../x", "1st", "x" * 41])
def test_names_that_are_no_folder_or_another_file_are_refused(name: str) -> None:
    assert f"{name!r} can't name a model" in message(models={"wide": MODEL, "base": MODEL, name: MODEL})


def test_a_chosen_model_must_exist() -> None:
    assert message(evaluate={"model": "wid", "baseline": "base", "target_accuracy": 0.9}) == (
        "params.yaml: evaluate.model is 'wid', but models has no section of that name: set it to one that it has; "
        "did you mean wide? known are base, deep, wide."
    )
    assert message(models={"base": MODEL, "deep": MODEL}) == (
        "params.yaml: evaluate.model is 'wide' and explain.model is 'wide', but models has no section of that name: "
        "set each to one that it has; known are base, deep."
    )


def test_a_network_is_a_file_with_a_name_that_python_can_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("Linear", "my-net", "v1.2", "__init__", "_base", "two words", "wide2"):
        (tmp_path / f"{name}.py").touch()
    monkeypatch.setattr(params, "NETWORKS", tmp_path)
    assert params.networks() == ["Linear", "wide2"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: 1\na: 2\n", ', line 2 has the key "a" for a second time; remove one of them.'),
        ("a: [1\n", ", line 2 or the line before it can't be read as YAML: "),
        ("a: 2026-99-99\n", " can't be read as YAML: "),
        ("\ttab: 1\n", ", line 1 or the line before it can't be read as YAML: "),
        ("", ": it is empty; a section with the keys fetch, split, models, evaluate, explain is expected."),
        ("- 1\n", ": it is a list of 1; a section with the keys fetch, split, models, evaluate, explain is expected."),
        ("a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> side\n", ", line 2 begins a conflict of a merge, "),
        ("<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> side\n", ", line 1 begins a conflict of a merge, "),
    ],
)
def test_what_can_t_be_read_is_named_with_its_line(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content)
    with pytest.raises(WorkflowError) as error:
        params.load(path)
    assert str(error.value).startswith(f"{path}{words}")
    for jargon in ("<unicode string>", "suppress", "{"):
        assert jargon not in str(error.value)


def test_the_committed_schema_is_that_of_the_code() -> None:
    assert json.loads((HERE / "params.schema.json").read_text()) == params.Settings.model_json_schema()


def test_every_committed_data_set_is_right() -> None:
    for name in params.read_yaml(HERE / "datasets.yaml"):
        assert len(catalog.load(name, HERE / "datasets.yaml").classes) > 1


def test_an_unknown_data_set_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match=r"'mnits' is no data set .* did you mean mnist\?"):
        catalog.load("mnits", HERE / "datasets.yaml")
