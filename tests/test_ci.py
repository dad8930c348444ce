"""A change as CI sees it: in a fresh checkout, without the data, with DVC's cache or without it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Project, stages_run
from ruamel.yaml import YAML


def ci(project: Project, base: str = "main", status: int = 0, **environment: str) -> str:
    """What `make ci` does."""
    return project.run(
        "python", "-m", "mnistflow.ci", base, "plots", "ci", status=status, PYTHONPATH="src", **environment
    )


def drift(project: Project, status: int = 0) -> str:
    return project.run("python", "-m", "mnistflow.drift", status=status, PYTHONPATH="src")


@pytest.fixture(scope="module")
def upstream(repro: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone whose branch main selects `compact`, which passes the gate on the tiny data, as `cnn` does not."""
    project = Project(tmp_path_factory.mktemp("upstream") / "project")
    repro.run("git", "clone", "--quiet", ".", str(project.folder))
    project.dvc("cache", "dir", "--local", str(repro.folder / ".dvc/cache"))
    project.set(evaluate__model="compact")
    project.dvc("repro")
    project.commit("change")
    return project


@pytest.fixture
def checkout(upstream: Project, tmp_path: Path) -> Callable[[str], Project]:
    """What makes a fresh clone of it with a branch of its own: no data, no models, but DVC's cache."""

    def new(branch: str) -> Project:
        project = Project(tmp_path / branch)
        upstream.run("git", "clone", "--quiet", ".", str(project.folder))
        project.run("git", "checkout", "--quiet", "-b", branch)
        shutil.copy(upstream.folder / ".dvc/config.local", project.folder / ".dvc")
        return project

    return new


def test_a_good_change_passes_and_shows_what_it_brings(checkout: Callable[[str], Project], tmp_path: Path) -> None:
    project = checkout("good")
    project.set(models__dense__epochs=3)
    project.dvc("repro")
    project.run("git", "mv", "README.md", "README")  # what no stage reads is nobody's business
    project.commit("change")
    for folder in ("data", "models", "evaluation", "inside"):
        shutil.rmtree(project.folder / folder)

    shown = tmp_path / "shown.md"
    where = {"GITHUB_SERVER_URL": "https://example.org", "GITHUB_REPOSITORY": "who/what", "GITHUB_SHA": "abc"}
    said = ci(project, GITHUB_STEP_SUMMARY=str(shown), **where)
    assert not [stage for stage in stages_run(said) if stage.startswith("train")]  # DVC's cache has them
    assert project.run("git", "status", "--porcelain") == ""

    page = (project.folder / "ci/summary.md").read_text()
    assert page in said
    assert page.startswith("# Passes\n\n```text\ncompact passes: accuracy ")
    assert "models.dense.epochs" in page
    assert "metrics/dense.json" in page
    assert "metrics/cnn.json" not in page
    assert "| metric | dense | compact | change |\n" in page
    assert "another kind of processor" not in page
    assert "![before](before/loss.png) | ![now](now/loss.png) |" in page
    assert "layers.png" not in page
    assert (project.folder / "ci/now/loss.png").read_bytes() == project.read("plots/loss.png")
    before = project.run("git", "rev-parse", "main").strip()
    assert project.run("git", "hash-object", "ci/before/loss.png") == project.run(
        "git", "rev-parse", "main:plots/loss.png"
    )
    links = f"https://example.org/who/what/raw/{before}/plots/loss.png) | ![now](https://example.org/who/what/raw/abc/"
    assert links in shown.read_text()


def test_a_worse_parameter_fails_on_the_gate(checkout: Callable[[str], Project]) -> None:
    project = checkout("worse")
    project.set(models__compact__learning_rate=1e-9)
    project.dvc("repro")
    project.commit("change")

    said = ci(project, status=1)
    error = said.splitlines()[-1]
    assert error.startswith("error: compact does not pass: accuracy ")
    assert "misses the target of 30.00%" in error
    assert "of commit main" in error
    page = (project.folder / "ci/summary.md").read_text()
    assert page.startswith("# Does not pass\n\n```text\ncompact does not pass: accuracy ")
    assert "models.compact.learning_rate" in page
    assert "metrics/compact.json" in page


def test_other_bytes_than_the_committed_ones_are_said_and_do_not_fail(checkout: Callable[[str], Project]) -> None:
    project = checkout("elsewhere")
    lock = project.folder / "dvc.lock"
    before = lock.read_text()
    made = YAML(typ="safe").load(before)["stages"]["train@dense"]["outs"]
    (md5,) = (out["md5"] for out in made if out["path"] == "models/dense/model.keras")
    lock.write_text(before.replace(md5, "f" * 32))  # what a processor of another kind would have recorded
    said = ci(project)
    assert "\n\nOutputs made here are not the committed bytes: another kind of processor" in said
    assert said.count("# Passes") == 1
    assert lock.read_text() == before


def test_a_stale_lock_is_named_before_anything_runs(checkout: Callable[[str], Project]) -> None:
    project = checkout("stale")
    assert "dvc.lock is in step" in drift(project)
    assert not (project.folder / "data").exists()

    project.set(models__compact__learning_rate=0.123)
    with (project.folder / "stages/compare.py").open("a") as file:
        file.write("# more\n")
    said = ci(project, status=1)
    assert not stages_run(said)
    assert "train@compact: models.compact.learning_rate is 0.123, recorded is 0.006\n" in said
    assert "compare: changed: stages/compare.py\n" in said
    assert "train@dense" not in said
    assert "Run `make repro` and commit dvc.lock" in said
    assert (project.folder / "ci/summary.md").read_text().startswith("# Does not pass\n\n```text\ndvc.lock is not in")


def test_every_way_to_be_out_of_step_is_found(checkout: Callable[[str], Project]) -> None:
    project = checkout("ways")
    original = {name: (project.folder / name).read_text() for name in ("dvc.yaml", "dvc.lock", "params.yaml")}

    def said(name: str, old: str, new: str) -> str:
        assert old in original[name]
        (project.folder / name).write_text(original[name].replace(old, new, 1))
        try:
            return drift(project, status=1)
        finally:
            (project.folder / name).write_text(original[name])

    assert "compare: cmd has changed" in said(
        "dvc.yaml", "stages/compare.py evaluation", "stages/compare.py  evaluation"
    )
    assert "fetch: new: README.md" in said("dvc.yaml", "- stages/fetch.py\n", "- stages/fetch.py\n      - README.md\n")
    assert "audit: missing: nowhere" in said("dvc.yaml", "- stages/audit.py\n", "- stages/audit.py\n      - nowhere\n")
    assert "sketch: dvc.lock has no run of it" in said("dvc.yaml", "\n  plot:", "\n  sketch:")
    assert "train@cnn: models.cnn.warmup is gone" in said("params.yaml", "    warmup: 0.2", "    # warmup: 0.2")
    assert "train@dense: models.dense.zoom is new" in said("params.yaml", "  dense:", "  dense:\n    zoom: 0.1")

    assert "error: DVC can't read this project" in said("dvc.lock", "stages:\n", "<<<<<<< HEAD\nstages:\n")
    # A stage that was run alone: what follows was made from what it made before.
    lines = original["dvc.lock"].splitlines()
    at = next(number for number, line in enumerate(lines) if line.endswith("path: models/cnn/model.keras"))
    md5 = lines[at + 2]
    assert "models/cnn/model.keras is recorded otherwise than train@cnn made it" in said(
        "dvc.lock", md5, md5[:-1] + "_"
    )
    # Metrics that were edited, or not committed with the lock.
    (project.folder / "metrics/cnn.json").write_text("{}\n")
    assert "evaluate@cnn: changed: metrics/cnn.json" in drift(project, status=1)


def test_a_base_that_is_no_commit_is_an_error_before_all_else(checkout: Callable[[str], Project]) -> None:
    project = checkout("lost")
    said = ci(project, "origin/nowhere", status=1)
    assert said.startswith("error: 'origin/nowhere' is no commit of this repository")
    assert len(said.splitlines()) == 1
