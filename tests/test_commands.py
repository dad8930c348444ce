"""The commands that need Git, in small repositories: what they say where something is missing, and the gate.

test_ci.py has `make ci` as a whole, in clones with DVC's cache.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import HERE
from ruamel.yaml import YAML

from mnistflow.commands import ci, compare, dataset, gate, git, plots, predict, repro
from mnistflow.core.errors import WorkflowError

GIT = shutil.which("git") or ""
IDENTITY = ("-c", "user.name=Test", "-c", "user.email=test@example.org")


def run_git(*arguments: str) -> str:
    done = subprocess.run([GIT, *IDENTITY, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(message: str = "change") -> str:
    """Commit everything in the current folder; the hash of the commit."""
    run_git("add", "--all", ".")
    run_git("commit", "--quiet", "--allow-empty", "--message", message)
    return run_git("rev-parse", "HEAD")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder of its own, outside of any Git repository, with Git as nobody has set it up."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    return tmp_path / "here"


@pytest.fixture
def repository(folder: Path) -> Path:
    """A repository without a commit, which is the current folder."""
    run_git("init", "--quiet", "--initial-branch", "main")
    return folder


def reason(revision: str = "HEAD") -> str:
    """Why a revision is no commit."""
    with pytest.raises(WorkflowError) as error:
        git.commit_of(revision)
    assert "\n" not in str(error.value)
    return str(error.value)


# Git


@pytest.mark.parametrize("language", ["en", "de"])
def test_a_folder_that_is_no_repository(folder: Path, language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.utf8")  # with which Git speaks a language that is asked for
    monkeypatch.setenv("LANGUAGE", language)
    assert reason() == (
        "this folder is no Git repository, as a downloaded ZIP file is none; clone the project, or run "
        "git init && git add . && git commit -m start."
    )
    (folder / "file").touch()
    for command in ("init --quiet", "add .", "commit --quiet -m start"):  # the advice works
        run_git(*command.split())
    assert len(git.commit_of("HEAD")) == 40


def test_a_worktree_whose_repository_has_moved(folder: Path) -> None:
    (folder / ".git").write_text("gitdir: /nowhere/else\n")
    assert reason() == "git rev-parse --git-dir failed: fatal: not a git repository: /nowhere/else."


def test_a_machine_without_git(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert reason() == "this command needs Git, which is not installed here."


def test_a_repository_of_another_user(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Git itself takes the folder for another user's, as its own tests make it do."""
    commit()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    sentence = reason()
    assert sentence.startswith("Git refuses this folder, because it belongs to another user; git config --global ")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    subprocess.run(sentence.partition("; ")[2].removesuffix(" allows it."), shell=True, check=True)
    assert len(git.commit_of("HEAD")) == 40


def test_a_repository_without_a_commit(repository: Path) -> None:
    assert reason() == "this repository has no commit yet; git add . && git commit -m start makes one."


@pytest.mark.parametrize("revision", ["nowhere", "HEAD~1", "--help", "", "HEAD:file", "main..main"])
def test_a_revision_that_is_no_commit(repository: Path, revision: str) -> None:
    (repository / "file").touch()
    commit()
    assert reason(revision) == f"{revision!r} is no commit of this repository; try main or HEAD~1."


def test_a_shallow_clone_tells_how_to_get_the_rest(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = commit(), commit()
    run_git("clone", "--quiet", "--depth", "1", f"file://{repository}", str(tmp_path / "shallow"))
    monkeypatch.chdir(tmp_path / "shallow")
    assert git.commit_of("main") == last
    assert reason(first) == (
        f"{first!r} is no commit of this repository; this clone is shallow and git fetch --unshallow brings the rest."
    )
    run_git("fetch", "--quiet", "--unshallow")
    assert git.commit_of(first) == first


def test_tags_branches_and_short_hashes_are_commits(repository: Path) -> None:
    first = commit()
    run_git("tag", "-a", "v1", "-m", "a tag that is an object of its own")
    run_git("branch", "side")
    commit()
    assert {git.commit_of(name) for name in ("v1", "side", "HEAD~1", first[:8], first)} == {first}


def test_a_failing_command_gives_git_s_reason(repository: Path) -> None:
    with pytest.raises(WorkflowError) as error:
        git.git("log", "nowhere")
    assert str(error.value).startswith("git log nowhere failed: fatal: ambiguous argument 'nowhere': unknown revision")
    assert "\n" not in str(error.value)


def test_a_file_is_read_at_a_commit_also_where_the_project_is_a_subfolder(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "project/plots").mkdir(parents=True)
    content = bytes(range(256))
    (repository / "project/plots/a ü.png").write_bytes(content)
    (repository / "a ü.png").write_bytes(b"another")
    first = commit()
    (repository / "project/plots/a ü.png").write_bytes(b"changed")
    monkeypatch.chdir(repository / "project")
    assert git.file_at(first, Path("plots/a ü.png")) == content
    assert git.file_at(first, Path("plots/new.png")) is None


# What is looked for first


@pytest.mark.parametrize("before", ["", "schema: '2.0'\n"])
def test_a_lock_file_with_both_sides_of_a_merge(project: Path, before: str) -> None:
    Path("dvc.lock").write_text(f"{before}<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> side\n")
    for check in (repro.check_lock, repro.check_up_to_date, repro.check_described, compare.main, plots.main):
        with pytest.raises(
            WorkflowError, match="dvc.lock has both sides of a merge in it; take one, as by `git checkout"
        ):
            check()


def test_what_dvc_can_t_tell_is_not_called_out_of_date(project: Path) -> None:
    with pytest.raises(WorkflowError, match=r"`dvc status` failed \(ERROR: you are not inside of a DVC repository"):
        repro.check_up_to_date()


def test_a_command_without_what_it_works_on(project: Path) -> None:
    with pytest.raises(WorkflowError, match="no picture is named; `make predict FILES="):
        predict.find([])
    with pytest.raises(WorkflowError, match="no folder is named; `make dataset FOLDER="):
        dataset.main(None, dataset.Options(None, None, None, None))


@pytest.mark.parametrize("command", ["predict", "export"])
def test_an_unknown_model_is_named_before_tensorflow_is_loaded(project: Path, command: str) -> None:
    script = f"""
import sys
from mnistflow.commands import {command}
try: {command}.load("compct")
except Exception as error: print(error)
assert "tensorflow" not in sys.modules
"""
    environment = os.environ | {"PYTHONPATH": str(HERE / "src")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("there is no model compct; did you mean compact? known are cnn, compact, dense")


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("splt.validation", "unknown key splt; .* did you mean split?"),
        ("split.validation.images", "split.validation is a section with keys; a whole number or 'test' is expected"),
    ],
)
def test_a_mistake_in_the_values_that_suit_a_data_set(project: Path, key: str, sentence: str) -> None:
    entry = f"tiny: {{format: scikit-learn, classes: [a, b], params: {{{key}: 3, models.gone.seed: 2}}}}"
    Path("datasets.yaml").write_text(entry)
    pattern = f"^datasets.yaml, tiny.params: {sentence}".replace("?", r"\?")
    with pytest.raises(WorkflowError, match=pattern):
        repro.with_dataset(Path("params.yaml").read_text(), "tiny")


# The gate


def put(**values: Any) -> None:
    """Write the metrics of models, and `selected` as that of the selected model: its accuracy, within 0.01."""
    for name, accuracy in values.items():
        metrics = {"accuracy": accuracy, "accuracy_low": accuracy - 0.01, "accuracy_high": accuracy + 0.01, "errors": 3}
        Path("metrics", f"{name}.json").write_text(json.dumps(metrics))


@pytest.fixture
def project(repository: Path) -> Path:
    """A repository with metrics: the selected `cnn` of 99%, the baseline `dense` of 98%, a target of 98.5%."""
    values = YAML(typ="safe").load(HERE / "params.yaml")
    values["evaluate"] = {"model": "cnn", "baseline": "dense", "target_accuracy": 0.985}
    YAML().dump(values, repository / "params.yaml")
    (repository / "metrics").mkdir()
    put(cnn=0.99, selected=0.99, dense=0.98)
    commit()
    return repository


def refusal(revision: str = "HEAD") -> str:
    with pytest.raises(WorkflowError) as error:
        gate.verdict(revision)
    return str(error.value)


def test_a_good_model_passes(project: Path) -> None:
    assert gate.verdict("HEAD") == (
        "cnn passes: accuracy 99.00% reaches 98.50%, the baseline dense has 98.00%, commit HEAD has 99.00%"
    )


def test_what_a_model_fails_at_is_named_all_at_once(project: Path) -> None:
    put(cnn=0.97, selected=0.97, dense=0.985)
    assert refusal("main") == (
        "cnn does not pass: accuracy 97.00% misses the target of 98.50%; accuracy 97.00% (95% interval up to 98.00%) "
        "is worse than the 98.50% of the baseline dense; accuracy 97.00% (95% interval up to 98.00%) is worse than "
        "the 99.00% of commit main."
    )


@pytest.mark.parametrize(("accuracy", "passes"), [(0.985, True), (0.9849, False), (0.991, True)])
def test_a_target_is_reached_exactly(project: Path, accuracy: float, passes: bool) -> None:
    put(cnn=accuracy, selected=accuracy, dense=0.5)
    if passes:
        assert gate.verdict("HEAD").startswith("cnn passes")
    else:
        assert "misses the target of 98.50%" in refusal()


def test_worse_by_less_than_chance_passes_and_by_more_does_not(project: Path) -> None:
    put(cnn=0.997, selected=0.997)
    better = commit()
    put(cnn=0.9875, selected=0.9875, dense=0.9974)
    assert f"commit {better} has 99.70%" in gate.verdict(better)
    put(dense=0.9976)
    assert refusal(better) == (
        "cnn does not pass: accuracy 98.75% (95% interval up to 99.75%) is worse than the 99.76% of the baseline dense."
    )


def test_a_commit_without_metrics_is_told_whether_the_model_passes_or_not(project: Path) -> None:
    run_git("checkout", "--quiet", "--orphan", "old")
    run_git("rm", "--quiet", "--cached", "-r", ".")
    run_git("commit", "--quiet", "--allow-empty", "--message", "no metrics yet")
    assert gate.verdict("old").endswith("; commit old has no metrics on mnist to compare with")
    put(cnn=0.9, selected=0.9)
    assert refusal("old").endswith("; commit old has no metrics on mnist to compare with.")


def test_metrics_of_another_model_than_the_selected_one_are_refused(project: Path) -> None:
    put(selected=0.98)
    assert refusal() == "metrics/selected.json does not hold the metrics of cnn; run `dvc repro`."
    Path("metrics/selected.json").unlink()
    assert refusal() == "metrics/selected.json is missing; `dvc repro` makes it."


def test_in_a_subfolder_of_a_repository_the_project_s_own_metrics_count(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project, project / "inner/project", ignore=shutil.ignore_patterns(".git", "inner"))
    monkeypatch.chdir(project / "inner/project")
    put(cnn=0.995, selected=0.995)
    commit()
    assert "commit HEAD has 99.50%" in gate.verdict("HEAD")


# The comparison with the baseline


def test_the_commit_of_the_baseline_s_metrics_is_on_no_branch(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit()
    (repository / "part/metrics").mkdir(parents=True)
    monkeypatch.chdir(repository / "part")  # a project in a part of a larger repository
    Path("metrics/dense.json").write_text("{}")
    before = run_git("for-each-ref"), run_git("status", "--porcelain")
    made = compare.commit_metrics(Path("metrics/dense.json"))
    assert compare.commit_metrics(Path("metrics/dense.json")) == made
    assert run_git("show", f"{made}:part/metrics/selected.json") == "{}"
    assert (run_git("for-each-ref"), run_git("status", "--porcelain")) == before


def test_a_damaged_index_of_git_is_a_sentence(repository: Path) -> None:
    shutil.copy(HERE / "params.yaml", repository)
    commit()
    (repository / ".git/index").write_bytes(b"\xff" * 100)
    with pytest.raises(WorkflowError, match=r"^git ls-files metrics/selected.json failed: error: bad signature"):
        compare.main()


# The summary


def test_the_summary_s_title_tells_whether_it_passes() -> None:
    assert ci.title("it is good") == "# Passes\n\n```text\nit is good\n```"
    assert ci.title(WorkflowError("it is bad.")) == "# Does not pass\n\n```text\nit is bad.\n```"


def test_the_selected_model_stands_beside_the_baseline(project: Path) -> None:
    heading, table = ci.against_baseline()
    assert heading == "## cnn against the baseline dense"
    assert table.splitlines()[2:] == [
        "| accuracy | 0.98000 | 0.99000 | +0.01000 |",
        "| accuracy_low | 0.97000 | 0.98000 | +0.01000 |",
        "| accuracy_high | 0.99000 | 1.00000 | +0.01000 |",
        "| errors | 3 | 3 | +0 |",
    ]
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("model: cnn\n  baseline", "model: dense\n  baseline"))
    assert ci.against_baseline() == ["The selected model is the baseline, dense."]


def test_figures_that_differ_are_shown_before_and_now(repository: Path) -> None:
    plots = repository / "plots"
    plots.mkdir()
    for name in ("same", "changed", "gone"):
        (plots / f"{name}.png").write_bytes(name.encode())
    first = commit()
    (plots / "changed.png").write_bytes(b"other")
    (plots / "gone.png").unlink()
    (plots / "new.png").write_bytes(b"new")
    (repository / "ci/now").mkdir(parents=True)
    (repository / "ci/now/of an earlier summary.png").touch()
    text = "\n\n".join(ci.figures(first, "main"))
    assert "| plots/changed.png at main | now |" in text
    assert "| ![before](before/changed.png) | ![now](now/changed.png) |" in text
    assert "| none | ![now](now/new.png) |" in text
    assert "same.png" not in text
    shown = {str(path.relative_to("ci")): path.read_bytes() for path in Path("ci").rglob("*.png")}
    assert shown == {"before/changed.png": b"changed", "now/changed.png": b"other", "now/new.png": b"new"}
    assert ci.figures(commit(), "HEAD") == ["## Figures", "No figure differs from HEAD."]


def test_a_summary_on_github_has_addresses_of_committed_figures(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"SERVER_URL": "https://example.org", "REPOSITORY": "a/b", "STEP_SUMMARY": "shown.md"}.items():
        monkeypatch.setenv(f"GITHUB_{name}", value)
    (folder / "shown.md").write_text("from an earlier step\n")
    ci.publish("# Passes\n\n![before](before/x.png) ![now](now/x.png)", {"before": "c0ffee", "now": "f00d"})
    assert (folder / "ci/summary.md").read_text().endswith("![before](before/x.png) ![now](now/x.png)\n")
    raw = "https://example.org/a/b/raw"
    shown = (folder / "shown.md").read_text()
    assert shown.startswith("from an earlier step\n# Passes\n")
    assert f"![before]({raw}/c0ffee/plots/x.png) ![now]({raw}/f00d/plots/x.png)" in shown
    assert "ci/summary.md: the same, with its figures" in capsys.readouterr().out
