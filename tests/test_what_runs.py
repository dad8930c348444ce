"""What runs again: an edit -> the stages that DVC runs. And models that are added and removed."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from conftest import Project, client_of, runs, stages_run
from dvc.repo import Repo
from ruamel.yaml import YAML

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning"),  # DVC 3.67 with pygtrie
]

MODELS = ("dense", "compact")
TRAINS, EVALUATES = ({f"{stage}@{model}" for model in MODELS} for stage in ("train", "evaluate"))
# A file that is edited -> the stages that run, and after them only those whose inputs have become other bytes.
EDITS: dict[str, set[str]] = {
    "src/mnistflow/networks/dense.py": {"train@dense"},
    "src/mnistflow/networks/cnn.py": set(),  # no model here is of that network
    "src/mnistflow/networks/compact.py": {"train@compact"},
    "src/mnistflow/networks/__init__.py": set(),
    "src/mnistflow/core/errors.py": {"params"},
    "src/mnistflow/core/params.py": {"params"},
    "src/mnistflow/core/files.py": {"params"},
    "src/mnistflow/core/cli.py": {"params"},
    "src/mnistflow/core/processes.py": {"params"},
    "src/mnistflow/data/sources.py": {"fetch", "preprocess", "compare"},
    "src/mnistflow/data/catalog.py": {"params", "fetch", "preprocess", "compare", "plot"},
    "src/mnistflow/data/arrays.py": {"fetch", "preprocess", "compare", "plot", "explain"} | TRAINS | EVALUATES,
    "src/mnistflow/training/loop.py": {"explain"} | TRAINS | EVALUATES,
    "src/mnistflow/training/history.py": {"plot", "explain"} | TRAINS | EVALUATES,
    "src/mnistflow/evaluation/metrics.py": {"compare", "plot"} | EVALUATES,
    "src/mnistflow/evaluation/occlusion.py": {"compare", "plot"} | EVALUATES,
    "src/mnistflow/data/background.py": {"fetch", "preprocess", "compare", "plot"} | EVALUATES,
    "src/mnistflow/figures/results.py": {"preprocess", "plot", "explain"},
    "src/mnistflow/figures/lesson.py": {"preprocess", "plot", "explain"},
    "src/mnistflow/tracking/runs.py": set(),
    "src/mnistflow/tracking/descriptions.py": set(),
    "src/mnistflow/tracking/serving.py": set(),
    "src/mnistflow/commands/repro.py": set(),
    "src/mnistflow/commands/gate.py": set(),
    "src/mnistflow/search/sweep.py": set(),
    "stages/params.py": {"params"},
    "stages/train.py": TRAINS,
    "stages/compare.py": {"compare"},
    "README.md": set(),
    "requirements.lock": set(),
    # Files that editors and Python leave are not part of a package.
    "src/mnistflow/training/__pycache__/loop.cpython-311.pyc": set(),
    "src/mnistflow/training/loop.py~": set(),
    "src/mnistflow/data/.arrays.py.swp": set(),
    "src/mnistflow/evaluation/.ipynb_checkpoints/metrics.py": set(),
}
# A key of params.yaml -> a new value, and the stages that run.
VALUES: dict[str, tuple[Any, set[str]]] = {
    "fetch.dataset": ("digits", {"params", "fetch", "preprocess", "compare"}),
    "split.validation": (60, {"params", "preprocess"}),
    "split.seed": (2, {"params", "preprocess"}),
    "models.dense.seed": (2, {"params", "train@dense", "compare", "plot"}),
    "models.compact.shift": (2, {"params", "train@compact", "compare", "plot"}),
    "models.compact.network": ("cnn", {"params", "train@compact", "compare", "plot"}),
    "evaluate.model": ("dense", {"params", "compare", "plot"}),
    "evaluate.baseline": ("compact", {"params", "compare", "plot"}),
    "evaluate.target_accuracy": (0.5, {"params", "compare", "plot"}),
    "evaluate.target_robustness": (0.5, {"params", "compare", "plot"}),
    "explain.model": ("dense", {"params", "explain"}),
    "explain.label": (7, {"params", "plot", "explain"}),
}


def would_run(project: Project) -> set[str]:
    """The stages of which an input differs from dvc.lock: they run; those after them, if these make other bytes."""
    with Repo(str(project.folder)) as repo:
        return {re.sub(r"^.*dvc\.yaml:", "", name) for name in repo.status()}


@contextmanager
def as_before(project: Project) -> Iterator[None]:
    """Undo, at the end of the block, what it does to files that git has, and to new ones in src."""
    try:
        yield
    finally:
        project.run("git", "checkout", "--quiet", ".")
        project.run("git", "clean", "--quiet", "--force", "-dx", "src")


@pytest.mark.parametrize("path", EDITS)
def test_an_edited_file_concerns_the_stages_that_use_it(repro: Project, path: str) -> None:
    with as_before(repro):
        (repro.folder / path).parent.mkdir(exist_ok=True)
        with (repro.folder / path).open("a") as file:
            file.write("# edited\n")
        assert would_run(repro) == EDITS[path]


@pytest.mark.parametrize("key", VALUES)
def test_a_changed_value_concerns_the_stages_that_read_it(repro: Project, key: str) -> None:
    value, stages = VALUES[key]
    with as_before(repro):
        repro.set(**{key.replace(".", "__"): value})
        assert would_run(repro) == stages


def test_order_and_comments_in_params_concern_no_result(repro: Project) -> None:
    with as_before(repro):
        values = YAML(typ="safe").load(repro.folder / "params.yaml")
        values["models"] = dict(reversed(values["models"].items()))
        YAML().dump(values, repro.folder / "params.yaml")
        assert would_run(repro) == {"params"}


def test_the_entry_of_another_data_set_concerns_no_result(repro: Project) -> None:
    with as_before(repro):
        path = repro.folder / "datasets.yaml"
        path.write_text(path.read_text().replace("classes: [o, ki, su,", "classes: [O, ki, su,"))
        assert would_run(repro) == {"params"}


def test_the_entry_of_this_data_set_concerns_what_reads_it(repro: Project) -> None:
    with as_before(repro):
        path = repro.folder / "datasets.yaml"
        path.write_text(path.read_text().replace('"prepare": "digit"', '"prepare": null'))
        assert would_run(repro) == {"params", "fetch", "preprocess", "compare"}


@pytest.mark.parametrize("model", MODELS)
def test_after_a_training_come_its_evaluation_and_what_shows_all_models(repro: Project, model: str) -> None:
    with Repo(str(repro.folder)) as repository:
        graph = nx.relabel_nodes(repository.index.graph, {stage: stage.name for stage in repository.index.graph})
    after = {f"evaluate@{model}", "compare", "plot"} | ({"explain"} if model == "compact" else set())
    assert nx.ancestors(graph, f"train@{model}") == after


def test_edited_figures_and_messages_train_and_evaluate_nothing(
    copy_of_repro: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = copy_of_repro(tmp_path / "project")
    before = project.outputs()
    for package in ("core", "tracking", "commands", "figures", "search"):
        with (project.folder / f"src/mnistflow/{package}/__init__.py").open("a") as file:
            file.write("# edited\n")
    assert stages_run(project.dvc("repro")) == ["params", "preprocess", "plot", "explain"]
    assert project.outputs() == before


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory, copy_of_repro: Callable[[Path], Project]) -> Project:
    """A project with one more network and a model of it.

    It is added as somebody would who read README: a file and a section; the file's name and the model's differ.
    """
    project = copy_of_repro(tmp_path_factory.mktemp("extended") / "project")
    network = project.read("src/mnistflow/networks/dense.py").decode()
    (project.folder / "src/mnistflow/networks/tanh.py").write_text(
        network.replace('Dense(512, activation="relu"', 'Dense(40, activation="tanh"')
    )
    values = project.params()
    values["models"]["a-small-one"] = {**values["models"]["dense"], "network": "tanh", "learning_rate": 0.01}
    YAML().dump(values, project.folder / "params.yaml")
    (project.folder / ".cache/extended.log").write_text(project.dvc("repro"))
    return project


def names_shown(project: Project) -> dict[str, set[str]]:
    """The names of models in each place that shows models."""
    read = {name: json.loads(project.read(f"metrics/{name}.json")) for name in ("comparison", "audit")}
    pairs = read["comparison"]["pairs"]
    metrics = json.loads(project.dvc("metrics", "show", "--json"))[""]["data"]
    plots = project.dvc("plots", "show", "--json")
    return {
        "comparison": {pair[side] for pair in pairs for side in ("model", "baseline")},
        "audit": set(read["audit"]["models"]),
        "metrics/": {path.stem for path in (project.folder / "metrics").glob("*.json")} - {"selected", *read},
        "metrics/robustness/": {path.stem for path in (project.folder / "metrics/robustness").iterdir()},
        "models/": {path.name for path in (project.folder / "models").iterdir() if path.is_dir()},
        "evaluation/": {path.name for path in (project.folder / "evaluation").iterdir() if path.is_dir()},
        "dvc metrics": {Path(path).stem for path in metrics} - {"selected"},
        "dvc plots": set(re.findall(r"evaluation/([\w-]+)/predictions\.csv", plots)),
    }


def test_a_model_is_added_by_a_file_and_a_section(extended: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = stages_run(extended.read(".cache/extended.log").decode())
    of_model = [f"{stage}@a-small-one" for stage in ("train", "evaluate")]
    assert sorted(ran) == sorted(["params", "compare", "plot", *of_model])
    everywhere = {*MODELS, "a-small-one"}
    for place, names in names_shown(extended).items():
        assert names == everywhere, place
    parameters = {name: json.loads(extended.read(f"metrics/{name}.json"))["parameters"] for name in everywhere}
    assert parameters["a-small-one"] < parameters["dense"]

    client = client_of(extended)
    on_record = {run.data.tags["model"]: run for run in runs(client)}
    assert set(on_record) == everywhere
    assert on_record["a-small-one"].data.params["network"] == "tanh"
    assert "test/accuracy" in on_record["a-small-one"].data.metrics

    extended.run("python", "-m", "mnistflow.commands.report", PYTHONPATH="src")
    page = extended.read("report.html").decode()
    assert "a-small-one" in page


def test_a_removed_model_is_gone_from_everywhere(extended: Project) -> None:
    text = extended.read("params.yaml")
    try:
        extended.remove_models("a-small-one")
        shutil.copytree(extended.folder / "models/a-small-one", extended.folder / "models/somebody-else-s")
        (extended.folder / "models/somebody-else-s/model.keras").write_text("not made by DVC")
        output = extended.dvc("repro")
        assert stages_run(output) == ["params", "compare", "plot"]
        for folder in ("models/a-small-one", "evaluation/a-small-one"):
            assert re.search(rf"^{folder}: deleted, .*\.?$", output, re.MULTILINE)
        assert re.search(r"^models/somebody-else-s: ignored, ", output, re.MULTILINE)
        assert extended.read("models/somebody-else-s/model.keras") == b"not made by DVC"

        shown = names_shown(extended)
        assert shown.pop("models/") == {*MODELS, "somebody-else-s"}
        for place, names in shown.items():
            assert names == set(MODELS), place
        extended.run("python", "-m", "mnistflow.commands.report", PYTHONPATH="src")
        assert "a-small-one" not in extended.read("report.html").decode()
        assert stages_run(extended.dvc("repro")) == []

        # DVC's cache has it: bringing the section back trains nothing.
        shutil.rmtree(extended.folder / "models/somebody-else-s")
        (extended.folder / "params.yaml").write_bytes(text)
        output = extended.dvc("repro")
        assert not [stage for stage in stages_run(output) if "@" in stage]
        assert (extended.folder / "models/a-small-one/model.keras").is_file()
    finally:
        (extended.folder / "params.yaml").write_bytes(text)
