"""A change as CI sees it: in a fresh checkout, without the data, with DVC's cache."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Project, is_clean, stages_run
from ruamel.yaml import YAML

pytestmark = pytest.mark.slow


def ci(project: Project, base: str = "main", status: int = 0, **environment: str) -> str:
    """What `make ci` does."""
    return project.run("python", "-m", "mnistflow.commands.ci", base, status=status, PYTHONPATH="src", **environment)


@pytest.fixture
def checkout(repro: Project, tmp_path: Path) -> Callable[[str], Project]:
    """What makes a fresh clone with a branch of its own: no data, no models, but DVC's cache."""

    def new(branch: str) -> Project:
        project = Project(tmp_path / branch)
        repro.run("git", "clone", "--quiet", ".", str(project.folder))
        project.run("git", "checkout", "--quiet", "-b", branch)
        config = f"[cache]\n    dir = {repro.folder}/.dvc/cache\n"
        (project.folder / ".dvc/config.local").write_text(config)
        return project

    return new


def test_a_good_change_passes_and_its_summary_shows_what_it_brings(
    checkout: Callable[[str], Project], tmp_path: Path
) -> None:
    project = checkout("good")
    project.set(models__dense__epochs=3)
    project.dvc("repro")
    project.run("git", "mv", "README.md", "README")  # a file that no stage reads
    project.commit("change")
    for folder in ("data", "models", "evaluation", "inside"):
        shutil.rmtree(project.folder / folder)

    shown = tmp_path / "shown.md"
    where = {"GITHUB_SERVER_URL": "https://example.org", "GITHUB_REPOSITORY": "who/what", "GITHUB_SHA": "abc"}
    output = ci(project, GITHUB_STEP_SUMMARY=str(shown), **where)
    assert stages_run(output) == []  # DVC's cache has everything
    assert is_clean(project)

    page = (project.folder / "ci/summary.md").read_text()
    assert page in output
    assert page.startswith("# Passes\n\n```text\ncompact passes: accuracy ")
    assert "models.dense.epochs" in page
    assert "metrics/dense.json" in page
    assert "metrics/compact.json" not in page
    assert "| metric | dense | compact | change |\n" in page
    assert "another kind of processor" not in page
    assert "![before](before/loss.png) | ![now](now/loss.png) |" in page
    assert "layers.png" not in page
    assert (project.folder / "ci/now/loss.png").read_bytes() == project.read("plots/loss.png")
    committed = project.run("git", "rev-parse", "main:plots/loss.png")
    assert project.run("git", "hash-object", "ci/before/loss.png") == committed
    before = project.run("git", "rev-parse", "main").strip()
    links = f"https://example.org/who/what/raw/{before}/plots/loss.png) | ![now](https://example.org/who/what/raw/abc/"
    assert links in shown.read_text()


def test_a_worse_model_fails_at_the_gate(checkout: Callable[[str], Project]) -> None:
    project = checkout("worse")
    project.set(evaluate__model="dense", evaluate__target_accuracy=0.99, evaluate__target_robustness=0.98)
    project.dvc("repro")
    project.commit("change")

    error = ci(project, status=1).splitlines()[-1]
    assert error.startswith("error: dense does not pass: accuracy ")
    assert "misses the target of 99.00%" in error
    assert "on corrupted images misses the target of 98.00%" in error
    assert "of commit main" in error
    page = (project.folder / "ci/summary.md").read_text()
    assert page.startswith("# Does not pass\n\n```text\ndense does not pass: accuracy ")
    assert "evaluate.target_accuracy" in page
    assert "metrics/selected.json" in page
    assert "The selected model is the baseline, dense." in page


def test_other_bytes_than_the_committed_ones_are_mentioned_and_do_not_fail(checkout: Callable[[str], Project]) -> None:
    project = checkout("elsewhere")
    lock = project.folder / "dvc.lock"
    before = lock.read_text()
    outs = YAML(typ="safe").load(before)["stages"]["preprocess"]["outs"]
    (md5,) = (out["md5"] for out in outs if out["path"] == "data/overview")
    lock.write_text(before.replace(md5, "f" * 32 + ".dir"))  # as if a processor of another kind had made it
    output = ci(project)
    assert "\n\nOutputs made here are not the committed bytes: another kind of processor" in output
    assert output.count("# Passes") == 1
    assert lock.read_text() == before


def test_a_stale_lock_is_named_before_anything_runs(checkout: Callable[[str], Project]) -> None:
    project = checkout("stale")
    project.set(models__compact__learning_rate=0.123)
    output = ci(project, status=1)
    assert stages_run(output) == []
    assert not (project.folder / "data").exists()
    assert output.splitlines()[-1] == (
        "error: dvc.lock does not describe the code and params.yaml (it would run params, train@compact); "
        "run `make repro` and commit dvc.lock, metrics and plots with the change."
    )
    assert (project.folder / "ci/summary.md").read_text().startswith("# Does not pass\n\n```text\ndvc.lock does not")


def test_what_is_out_of_step_is_found(checkout: Callable[[str], Project]) -> None:
    project = checkout("ways")

    def error_of(name: str, old: str, new: str) -> str:
        text = (project.folder / name).read_text()
        assert old in text
        (project.folder / name).write_text(text.replace(old, new, 1))
        try:
            return ci(project, status=1).splitlines()[-1]
        finally:
            (project.folder / name).write_text(text)

    assert "it would run compare" in error_of("dvc.yaml", "python stages/compare.py", "python  stages/compare.py")
    assert "it would run compare" in error_of("metrics/comparison.json", '"target_met": true', '"target_met": false')
    assert "it would run" in error_of("dvc.yaml", "\n  plot:", "\n  sketch:")
    assert "both sides of a merge" in error_of("dvc.lock", "stages:\n", "stages:\n<<<<<<< HEAD\n")


def test_a_base_that_is_no_commit_is_one_sentence_before_all_else(checkout: Callable[[str], Project]) -> None:
    project = checkout("lost")
    for base in ("origin/nowhere", "--help"):
        output = ci(project, base, status=1)
        assert output.startswith(f"error: '{base}' is no commit of this repository")
        assert len(output.splitlines()) == 1


def test_without_git_ci_and_gate_are_one_sentence(repro: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(repro.folder, project.folder, ignore=shutil.ignore_patterns(".git", ".dvc", "mlruns"))
    for command in ("ci", "gate", "compare"):
        output = project.run("python", "-m", f"mnistflow.commands.{command}", status=1, PYTHONPATH="src")
        assert output.startswith("error: this folder is no Git repository")
        assert len(output.splitlines()) == 1
    output = project.run(sys.executable, "-m", "mnistflow.commands.ci", status=1, PYTHONPATH="src", PATH="")
    assert output == "error: this command needs Git, which is not installed here.\n"
