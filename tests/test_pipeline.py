"""dvc.yaml against the code: every stage lists what it reads, and the packages lean on each other one way."""

import ast
import re
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from conftest import HERE

from mnistflow.core import params
from mnistflow.data.arrays import PARTS

PACKAGE = HERE / "src/mnistflow"
STAGES: dict[str, Any] = params.read_yaml(HERE / "dvc.yaml")["stages"]
PIPELINE: dict[str, Any] = {name: stage.get("do", stage) for name, stage in STAGES.items()}
SETTINGS = set(params.Settings.model_fields)
# On no stage's list: core (but for `params`), because it shapes no output; tracking, because no output depends on it;
# networks, because each stage has the file of its own network.
UNLISTED = {"core", "tracking", "networks"}
ENTRY = {"datasets.yaml": ["${fetch.dataset}"]}  # the entry of the data set that is used


def script(stage: str) -> Path:
    return HERE / f"stages/{stage}.py"


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, wherever in it: `from a import b` is a.b, a module or something in one."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports by a relative name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def own_imports(path: Path) -> set[Path]:
    """The files of this project's modules that a file imports."""
    found = set()
    for name in imports(path):
        if name.startswith("mnistflow."):
            module = HERE / "src" / name.replace(".", "/")
            places = (module.with_suffix(".py"), module / "__init__.py", module.parent.with_suffix(".py"))
            found.add(next(place for place in places if place.is_file()))
    return found


def reached(path: Path, without: set[str]) -> set[Path]:
    """The modules that a file imports, directly or through others; those of some packages, and past them, left out."""
    found: set[Path] = set()
    to_do = [path]
    while to_do:
        new = {module for module in own_imports(to_do.pop()) if module.parent.name not in without} - found
        found |= new
        to_do += new
    return found


def names(items: Sequence[Any]) -> list[str]:
    """The paths in a list of deps, outs, metrics or plots, some of which have options."""
    return [next(iter(item)) if isinstance(item, dict) else item for item in items]


def outs(stage: str) -> dict[str, bool]:
    """The outputs of a stage, and whether DVC's cache keeps them."""
    listed = [item for key in ("outs", "metrics", "plots") for item in PIPELINE[stage].get(key, [])]
    options = [next(iter(item.values())) if isinstance(item, dict) else {} for item in listed]
    return {name: option.get("cache", True) for name, option in zip(names(listed), options, strict=True)}


def test_every_stage_runs_the_script_of_its_name_and_lists_it() -> None:
    assert {path.stem for path in (HERE / "stages").glob("*.py")} == set(PIPELINE)
    for name, stage in PIPELINE.items():
        model = " ${key}" if "foreach" in STAGES[name] else ""
        assert stage["cmd"] == f"env PYTHONPATH=src python stages/{name}.py{model}"
        assert f"stages/{name}.py" in stage["deps"]
        assert stage["desc"]


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_lists_the_code_that_it_imports_and_no_other(stage: str) -> None:
    listed = {dep for dep in PIPELINE[stage]["deps"] if dep.startswith("src/mnistflow/")}
    listed = {dep for dep in listed if dep.split("/")[2] not in UNLISTED}
    modules = reached(script(stage), UNLISTED)
    missing = {module for module in modules if not any(module.is_relative_to(HERE / dep) for dep in listed)}
    assert not missing, "imported and not listed"
    idle = {dep for dep in listed if not any(module.is_relative_to(HERE / dep) for module in modules)}
    assert not idle, "listed and not imported"


def test_what_is_on_no_list_is_on_none() -> None:
    listed = {stage: [dep for dep in PIPELINE[stage]["deps"] if dep.startswith("src/")] for stage in PIPELINE}
    of = {name: [stage for stage, deps in listed.items() if f"/{name}" in " ".join(deps)] for name in UNLISTED}
    assert of == {"core": ["params"], "tracking": [], "networks": ["train"]}
    assert "src/mnistflow/networks/${item.network}.py" in listed["train"]


def test_no_code_hides_in_the_file_that_python_runs_for_a_package() -> None:
    """A stage may list one module of a package; its __init__.py is on no list then."""
    for path in PACKAGE.rglob("__init__.py"):
        (docstring,) = tree(path).body
        assert isinstance(docstring, ast.Expr), path


def sections_read(path: Path) -> set[str]:
    """The sections of params.yaml that a stage's script reads: settings.SECTION, params.load().SECTION."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("settings", "params.load()"):
            found |= {"models", "evaluate"} if node.attr == "model_names" else {node.attr} & SETTINGS
    return found


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_lists_the_settings_that_it_reads_and_no_other(stage: str) -> None:
    listed = PIPELINE[stage].get("params", [])
    sections = {item.split(".")[0] for item in listed if isinstance(item, str)}
    reads_catalog = "catalog.load(" in script(stage).read_text()
    if stage == "params":  # both files as a whole
        assert {"params.yaml", "datasets.yaml"} <= set(PIPELINE[stage]["deps"])
    else:
        assert sections == sections_read(script(stage))
        assert (ENTRY in listed) == reads_catalog


def test_every_input_is_an_output_of_another_stage_or_in_git() -> None:
    made = {out for stage in PIPELINE for out in outs(stage)}
    tracked = subprocess.run(["git", "ls-files"], cwd=HERE, capture_output=True, text=True, check=True).stdout.split()
    for stage, content in PIPELINE.items():
        for dep in content["deps"]:
            start = re.sub(r"\$\{.*", "", dep).rstrip("/")  # of models/${key}/model.keras: models
            files = made - set(outs(stage)) | set(tracked)
            assert any(f"{file}/".startswith(f"{start}/") for file in files), f"{stage}: {dep}"


@pytest.mark.parametrize("stage", PIPELINE)
def test_an_output_is_kept_by_dvc_s_cache_or_by_git(stage: str) -> None:
    """Not by both, and not by neither."""
    for out, is_cached in outs(stage).items():
        inside = f"{out.replace('${key}', 'a-model')}/file"
        ignored = subprocess.run(["git", "check-ignore", "--quiet", "--no-index", inside], cwd=HERE, check=False)
        assert (ignored.returncode == 0) == is_cached, out


# The test set


def parts_opened(path: Path) -> set[str]:
    """The parts of the data that a script opens, by its expressions `arrays.DATA / part`."""
    root = tree(path)
    found: set[str] = set()
    for node in ast.walk(root):
        if isinstance(node, ast.BinOp) and ast.unparse(node.left) == "arrays.DATA":
            if isinstance(node.right, ast.Constant):
                found.add(node.right.value)
            else:
                found |= values_of(ast.unparse(node.right), root)
    return found


def values_of(variable: str, root: ast.Module) -> set[str]:
    """What a loop's variable stands for; every part, where the loop is over something else than constants."""
    loops = [node for node in ast.walk(root) if isinstance(node, ast.For | ast.comprehension)]
    over = [loop.iter for loop in loops if variable in ast.unparse(loop.target)]
    assert over, f"{variable} comes from no loop"
    found: set[str] = set()
    for values in over:
        is_plain = isinstance(values, ast.Tuple) and all(isinstance(item, ast.Constant) for item in values.elts)
        found |= set(ast.literal_eval(values)) if is_plain else set(PARTS)
    return found


def test_the_test_images_are_opened_by_the_stage_that_makes_them_and_by_those_that_measure() -> None:
    opened = {stage: parts_opened(script(stage)) for stage in PIPELINE}
    assert {stage: parts for stage, parts in opened.items() if parts} == {
        "preprocess": set(PARTS),
        "train": {"training", "validation"},
        "evaluate": {"test"},
        "plot": {"validation"},
        "explain": {"validation"},
    }
    for stage, parts in opened.items():
        listed = {dep.removeprefix("data/") for dep in PIPELINE[stage]["deps"]} & {*PARTS, "data"}
        assert listed == (set() if stage == "preprocess" else parts), stage
    assert [stage for stage in PIPELINE if "data/raw" in PIPELINE[stage]["deps"]] == ["preprocess"]


# The packages


def test_packages_lean_on_each_other_one_way() -> None:
    leans = {
        folder.name: {module.parent.name for path in folder.glob("*.py") for module in own_imports(path)}
        - {folder.name}
        for folder in (path.parent for path in PACKAGE.glob("*/__init__.py"))
    }
    TopologicalSorter(leans).prepare()  # raises a CycleError
    assert leans["core"] == set()
    assert leans["data"] == {"core"}
    assert leans["networks"] == set()
    assert not [name for name, others in leans.items() if "commands" in others]
    assert not [path for path in (HERE / "stages").glob("*.py") if imports(path) & {"stages", *PIPELINE}]


@pytest.mark.parametrize(("library", "packages"), [
    ("mlflow", {"tracking"}),
    ("tensorflow", {"training"}),
    ("keras", {"networks", "training", "tracking"}),
    ("ray", {"search"}),
    ("optuna", {"search"}),
])  # fmt: skip
def test_a_heavy_library_has_its_rooms(library: str, packages: set[str]) -> None:
    paths = [*PACKAGE.rglob("*.py"), *(HERE / "stages").glob("*.py")]
    users = [path for path in paths if any(name.split(".")[0] == library for name in imports(path))]
    assert {path.parent.name for path in users} == packages


@pytest.mark.parametrize("light", ["core", "data", "evaluation", "figures"])
def test_light_packages_reach_neither_keras_nor_mlflow(light: str) -> None:
    """Directly or through others: what they draw and count needs no seconds of imports."""
    paths = set((PACKAGE / light).glob("*.py"))
    for path in list(paths):
        paths |= reached(path, set())
    libraries = {name.split(".")[0] for path in paths for name in imports(path)}
    assert libraries.isdisjoint({"keras", "tensorflow", "mlflow", "dvc", "ray"})


# One place for each name


def words(path: Path) -> Iterator[str]:
    """The words of a file's code: in Python, those of identifiers, strings and docstrings; elsewhere, all."""
    if path.suffix == ".py":
        nodes = (ast.iter_fields(node) for node in ast.walk(tree(path)))
        texts = [value for fields in nodes for _, value in fields if isinstance(value, str)]
    else:
        texts = [path.read_text(encoding="utf-8")]
    for text in texts:
        yield from (word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", text))


def test_words_are_found_whatever_their_spelling(tmp_path: Path) -> None:
    path = tmp_path / "code.py"
    path.write_text('cnn_1 = "\\ndense"  # compact\nclass MyCompactNet: "of CNNs"\nprint(f"{1}dense-2", end=Relu.of)\n')
    assert {"cnn", "dense", "compact", "net", "relu"} <= set(words(path))
    comment = tmp_path / "comment.py"
    comment.write_text("# compact, and condensed = dense\ncondensed = 1\n")
    assert set(words(comment)) == {"condensed"}


def test_no_model_is_named_in_code() -> None:
    models = {*params.networks(), *params.load(HERE / "params.yaml").models}
    paths = [HERE / "dvc.yaml", *(HERE / "stages").glob("*.py")]
    paths += [
        path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".jinja") and path.parent.name != "networks"
    ]
    named = {(str(path.relative_to(HERE)), word) for path in paths for word in words(path) if word in models}
    # As kinds of layers and networks, not as names of models.
    files = ("training/backend.py", *(f"commands/{file}" for file in ("draw.py", "lesson.py", "lesson.html.jinja")))
    kinds = {(f"src/mnistflow/{file}", "dense") for file in files}
    assert named <= kinds | {("src/mnistflow/commands/lesson.html.jinja", "cnn")}
