"""The graph says what the code does: deps are what a stage runs and reads, params what it reads, paths its arguments.

DVC does not follow imports and does not look into scripts; these tests do.
"""

import ast
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import HERE, Project
from dvc.repo import Repo
from ruamel.yaml import YAML
from test_params import leaves

MODELS = ("dense", "cnn", "compact")
# Files that a module uses without importing them.
STORED = {"tracking": {"src/mnistflow/serving.py"}}


def pipeline() -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml by name, foreach stages unrolled."""
    stages = {}
    for name, stage in YAML(typ="safe").load(HERE / "dvc.yaml")["stages"].items():
        for item in stage.get("foreach", [None]):
            text = repr(stage.get("do", stage)).replace("${item}", str(item))
            stages[name if item is None else f"{name}@{item}"] = ast.literal_eval(text)
    return stages


PIPELINE = pipeline()


def names(entries: list[Any]) -> set[str]:
    """The paths of deps, outs or metrics, whether they have options or not."""
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def script(stage: dict[str, Any]) -> str:
    return next(word for word in shlex.split(stage["cmd"]) if word.endswith(".py"))


@cache
def modules_of(path: Path) -> frozenset[str]:
    """This project's modules that a file imports, at any depth of its code, themselves and through others."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "mnistflow":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mnistflow."):
            found.add(str(node.module).removeprefix("mnistflow."))
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("mnistflow") for alias in node.names), "import it with from"
    for module in list(found):
        found |= modules_of(HERE / f"src/mnistflow/{module}.py")
    return frozenset(found)


@pytest.mark.parametrize("name", PIPELINE)
def test_code_deps_are_what_the_stage_imports(name: str) -> None:
    stage = PIPELINE[name]
    modules = modules_of(HERE / script(stage))
    expected = {script(stage)} | {f"src/mnistflow/{module}.py" for module in modules}
    expected = expected.union(*(STORED.get(module, set()) for module in modules))
    assert {dep for dep in names(stage["deps"]) if dep.endswith(".py")} == expected


def test_the_package_itself_runs_nothing() -> None:
    body = ast.parse((HERE / "src/mnistflow/__init__.py").read_text()).body
    assert all(isinstance(node, ast.Expr) for node in body)


def reads_of(path: Path) -> set[str]:
    """The params that a script reads: attribute chains that start at `params.load()` or at a name bound to one."""
    tree = ast.parse(path.read_text())
    bound: dict[str, str] = {}
    found: set[str] = set()

    def chain(node: ast.expr) -> str | None:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "params.load":
            return ""
        if isinstance(node, ast.Name):
            return bound.get(node.id)
        if isinstance(node, ast.Attribute | ast.Subscript):
            start = chain(node.value)
            if start is None or isinstance(node, ast.Subscript):
                return start
            return f"{start}.{node.attr}".lstrip(".")
        return None

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            path_read = chain(node.value)
            if path_read is not None:
                bound[node.targets[0].id] = path_read
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (path_read := chain(node)):
            found.add(path_read)
    # A chain is found with all that it passes through; the longest ones say what is read.
    return {path_read for path_read in found if not any(other.startswith(f"{path_read}.") for other in found)}


@pytest.mark.parametrize("name", [name for name in PIPELINE if name != "params"])
def test_declared_params_are_those_that_the_stage_reads(name: str) -> None:
    declared = set(PIPELINE[name].get("params", []))
    read = reads_of(HERE / script(PIPELINE[name]))
    model = name.partition("@")[2]
    # What a stage reads of its own model's settings, it reads through settings.models[name].
    read = {f"models.{model}" if path.startswith("models") else path for path in read}
    for path in read:
        assert any(f"{path}.".startswith(f"{key}.") for key in declared), f"{name} reads {path} undeclared"
    for key in declared:
        assert any(f"{path}.".startswith(f"{key}.") for path in read), f"{name} declares {key} and does not read it"


@pytest.mark.parametrize("name", PIPELINE)
def test_paths_in_the_command_are_deps_and_outs(name: str) -> None:
    stage = PIPELINE[name]
    declared = names(stage["deps"]) | names(stage.get("outs", [])) | names(stage.get("metrics", []))
    words = [word for word in shlex.split(stage["cmd"])[2:] if word != name.partition("@")[2]]
    for word in words:
        assert any(path == word or path.startswith(f"{word}/") for path in declared), f"{word} is not declared"
    for path in declared - {dep for dep in declared if dep.startswith("src/")} - {"params.schema.json"}:
        assert any(path == word or path.startswith(f"{word}/") for word in words), f"{path} is not in the command"


def test_the_test_set_is_opened_by_evaluate_alone() -> None:
    readers = {name for name, stage in PIPELINE.items() if any("arrays/test" in dep for dep in names(stage["deps"]))}
    assert readers == {f"evaluate@{model}" for model in MODELS}


def test_stages_do_not_import_each_other_and_light_ones_stay_light() -> None:
    for name, stage in PIPELINE.items():
        text = (HERE / script(stage)).read_text()
        assert not re.search(r"^(from|import) stages", text, re.MULTILINE)
        heavy = {"backend", "models", "training", "store", "tracking", "serving"} & modules_of(HERE / script(stage))
        assert not heavy or name.startswith(("train@", "evaluate@", "explain"))


def test_only_four_modules_know_mlflow_and_one_tensorflow() -> None:
    users: dict[str, set[str]] = {"mlflow": set(), "tensorflow": set()}
    for path in [*(HERE / "src").rglob("*.py"), *(HERE / "stages").glob("*.py")]:
        for package, found in users.items():
            if re.search(rf"^\s*(from|import) {package}", path.read_text(), re.MULTILINE):
                found.add(path.stem)
    assert users == {"mlflow": {"store", "tracking", "seal", "serving"}, "tensorflow": {"backend"}}


def expected_stages(key: tuple[str, ...]) -> set[str]:
    """The stages that read a params key themselves, as README promises it."""
    trains = {f"train@{model}" for model in MODELS}
    evaluates = {f"evaluate@{model}" for model in MODELS}
    match key:
        case ("fetch", "dataset"):
            return {"fetch", "preprocess", "audit", "explain"} | trains | evaluates
        case ("fetch", "sources", *_):
            return {"fetch"}
        case ("split", "validation"):
            return {"preprocess"} | trains
        case ("split", "seed"):
            return {"preprocess"}
        case ("models", model, *_):
            return {f"train@{model}"}
        case ("evaluate", *_):
            return {"compare"}
    raise AssertionError(f"nobody has said what {key} is for")


def test_a_changed_value_reaches_the_stages_that_read_it_and_no_others(repro: Project) -> None:
    original = (repro.folder / "params.yaml").read_text()
    try:
        for key in leaves(YAML(typ="safe").load(original)):
            values = repro.params()
            section = values
            for name in key[:-1]:
                section = section[name]
            section[key[-1]] = "another value"
            with (repro.folder / "params.yaml").open("w") as file:
                YAML().dump(values, file)
            with Repo(str(repro.folder)) as repo:
                changed = {re.sub(r"^.*dvc\.yaml:", "", name) for name in repo.status()}
            assert changed == {"params"} | expected_stages(key), key
            (repro.folder / "params.yaml").write_text(original)
    finally:
        (repro.folder / "params.yaml").write_text(original)
