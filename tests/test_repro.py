"""The main job, `make repro`: it needs no Git and leaves Git alone, in whatever state a folder is."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import chdir, suppress
from pathlib import Path

import psutil
import pytest
from conftest import REPRO, Project, client_of, is_clean, kill, runs, stages_run, wait_for

from mnistflow.commands import repro as repro_command
from mnistflow.core.errors import WorkflowError

pytestmark = pytest.mark.slow

New = Callable[[Path], Project]
COMPARE = ("python", "-m", "mnistflow.commands.compare")
IDENTITY = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
# Letters that mean something in an address or in a shell.
PATH = "50% #1 ? a:b 'c' ü 数"


def git_state(project: Project) -> str:
    """Everything of a repository that a job must leave alone: HEAD, the branch, all refs, a merge in progress."""
    commands = (("symbolic-ref", "HEAD"), ("rev-parse", "HEAD"), ("for-each-ref",), ("reflog",), ("stash", "list"))
    merge = project.folder / ".git/MERGE_HEAD"
    return "".join(project.run("git", *command) for command in commands) + str(merge.is_file() and merge.read_text())


def fail_with(project: Project, dataset: str) -> None:
    """What `make repro DATASET=...` does when the pipeline fails."""
    with repro_command.chosen(dataset):
        assert project.params()["fetch"]["dataset"] == dataset
        raise WorkflowError("failed.")


def refused_port() -> int:
    """A port on loopback where nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def fake_packages(folder: Path, *names: str) -> str:
    """A folder with packages that fail when they are imported, for PYTHONPATH."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise AssertionError('{name} was imported')\n")
    return f"src{os.pathsep}{folder}"


def test_it_shows_the_models_and_what_to_do_next(repro: Project) -> None:
    table = repro.read(".cache/repro.log").decode().rpartition("\n\n  model ")[2].splitlines()
    assert [line.split()[0 if line[0] == " " else 1] for line in table[1:3]] == ["dense", "compact"]
    assert "McNemar p" in table[2]
    assert table[3].startswith("* the selected model: its ")
    assert "make report" in table[-1]


def test_with_nothing_to_do_it_loads_neither_mlflow_nor_tensorflow(repro: Project, tmp_path: Path) -> None:
    repro.repro()  # another test may have changed something
    database = (repro.folder / "mlflow.db").stat().st_mtime_ns
    output = repro.repro(PYTHONPATH=fake_packages(tmp_path, "mlflow", "tensorflow", "keras"))
    assert stages_run(output) == []
    assert "* the selected model: " in output
    assert (repro.folder / "mlflow.db").stat().st_mtime_ns == database


def test_a_record_that_is_away_costs_a_warning(repro: Project) -> None:
    address = f"http://127.0.0.1:{refused_port()}"
    output = repro.repro(MLFLOW_TRACKING_URI=address, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert f"not recorded: the MLflow tracking store {address} can't be used" in output
    assert "Traceback" not in output
    assert "* the selected model: " in output


def test_a_folder_without_git_in_a_path_with_any_letters(copy_of_repro: New, tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / PATH)
    shutil.rmtree(project.folder / ".git")
    project.set(models__dense__epochs=3)
    assert stages_run(project.repro()) == ["params", "train@dense", "evaluate@dense", "compare", "plot"]
    shutil.copy(project.folder / "mlflow.db", tmp_path)  # the path can't stand in an address
    run = runs(client_of(Project(tmp_path)), "tags.model = 'dense'")[0]
    assert run.info.status == "FINISHED"
    assert "test/accuracy" in run.data.metrics
    assert (project.folder / run.info.artifact_uri / "evaluation/predictions.csv").is_file()
    assert "outside of a git repository" in run.data.tags["mlflow.note.content"]


def test_a_shallow_clone(repro: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "shallow")
    repro.run("git", "clone", "--quiet", "--depth", "1", f"file://{repro.folder}", str(project.folder))
    shutil.copytree(repro.folder / ".dvc/cache", project.folder / ".dvc/cache")
    before = git_state(project)
    assert stages_run(project.repro()) == []
    assert project.outputs() == repro.outputs()
    check_comparison(project, project.run(*COMPARE, PYTHONPATH="src"))
    assert git_state(project) == before
    assert {run.data.tags["restored"] for run in runs(client_of(project))} == {"true"}


def test_a_repository_without_a_commit(copy_of_repro: New, tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / "project")
    shutil.rmtree(project.folder / ".git")
    project.run("git", "init", "--quiet")
    project.set(evaluate__target_accuracy=0.2)
    assert stages_run(project.repro()) == ["params", "compare", "plot"]
    assert project.run(*COMPARE, status=1, PYTHONPATH="src").startswith("error: this repository has no commit yet;")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_checkout_of_another_owner(copy_of_repro: New, tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / "project")
    for path in [project.folder, *project.folder.rglob("*")]:
        os.chown(path, 65534, 65534, follow_symlinks=False)
    project.set(evaluate__target_accuracy=0.2)
    assert stages_run(project.repro()) == ["params", "compare", "plot"]
    assert "safe.directory" in project.run(*COMPARE, status=1, PYTHONPATH="src")


def test_a_merge_in_progress(copy_of_repro: New, tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / "project")
    lock = project.read("dvc.lock").decode()
    project.run("git", "checkout", "--quiet", "-b", "side")
    md5 = lock.partition("md5: ")[2][:32]
    for branch, other in (("side", "a" * 32), ("main", "b" * 32)):
        project.run("git", "checkout", "--quiet", branch)
        (project.folder / "dvc.lock").write_text(lock.replace(md5, other))
        project.commit("change")
    project.run("git", *IDENTITY, "merge", "--quiet", "side", status=1)
    before = git_state(project)
    assert (project.folder / ".git/MERGE_HEAD").is_file()
    output = project.repro(status=1)
    assert output.startswith("error: dvc.lock has both sides of a merge in it; take one, as by `git checkout --ours")
    assert len(output.splitlines()) == 1

    project.run("git", "checkout", "--quiet", "--ours", "dvc.lock")  # as it says
    project.repro()
    assert project.read("dvc.lock").decode() == lock
    check_comparison(project, project.run(*COMPARE, PYTHONPATH="src"))
    assert git_state(project) == before


def test_a_lock_of_dvc_s_that_a_kill_left_half_written(repro: Project) -> None:
    (repro.folder / ".dvc/tmp/rwlock").write_text("")
    assert "RWLock-file" in repro.dvc("repro", status=255)
    assert stages_run(repro.repro()) == []


def test_a_lock_file_that_a_kill_left_half_written(copy_of_repro: New, tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / "project")
    lock = project.read("dvc.lock")
    sentence = "error: dvc.lock is damaged, as by a kill or a full disk while it was written; run `rm dvc.lock && make"
    for part in (b"", lock.partition(b"md5:")[0] + b"md"):
        (project.folder / "dvc.lock").write_bytes(part)
        for command in (REPRO, COMPARE):
            assert sentence in project.run(*command, status=1, PYTHONPATH="src")
    (project.folder / "dvc.lock").unlink()  # as it says
    assert not {"train@dense", "train@compact"} & set(stages_run(project.repro()))
    assert project.read("dvc.lock") == lock


def test_a_mistake_is_one_sentence_before_anything_runs(copy_of_repro: New, tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / "project")
    params = project.read("params.yaml")
    for arguments, sentence in (
        (("digit",), "'digit' is no data set in datasets.yaml; did you mean digits?"),
        (("digits", "more"), "usage: "),
    ):
        output = project.repro(*arguments, status=1 if len(arguments) == 1 else 2)
        assert output.startswith(f"error: {sentence}")
    project.set(models__dense__epochs=0)
    output = project.repro("digits", status=1)
    assert output.startswith("error: params.yaml: models.dense.epochs is 0; ")
    assert len(output.splitlines()) == 1
    (project.folder / "params.yaml").write_bytes(params)


def test_a_data_set_that_can_t_be_fetched_leaves_params_as_they_were(copy_of_repro: New, tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / "project")
    datasets = project.read("datasets.yaml").decode()
    assert datasets.count("http://codh.rois.ac.jp/kmnist/dataset/kmnist/") == 1
    nowhere = f"http://127.0.0.1:{refused_port()}/"
    (project.folder / "datasets.yaml").write_text(
        datasets.replace("http://codh.rois.ac.jp/kmnist/dataset/kmnist/", nowhere)
    )
    params, before = project.read("params.yaml"), git_state(project)
    output = project.repro("kmnist", status=1, MNISTFLOW_SOURCE=str(tmp_path / "no folder"))
    assert "no such folder" in output
    assert f"{nowhere}: can't be reached" in output
    assert "error: `dvc repro` failed, see above. params.yaml is again as it was before." in output
    assert "Traceback" not in output
    assert project.read("params.yaml") == params
    assert git_state(project) == before
    assert project.temporary_files() == []


def test_another_data_set_and_kills_leave_git_and_params_whole(copy_of_repro: New, tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / "project")
    project.set(evaluate__model="dense", explain__model="dense")
    project.remove_models("compact")
    before, state = project.read("params.yaml"), git_state(project)
    expected = before.decode().replace("dataset: tiny", "dataset: digits")

    # What it is killed by, and when: params.yaml is either as it was or as it should be.
    moments = (
        (signal.SIGKILL, ".cache/params.own.yaml"),
        (signal.SIGTERM, "data/training/labels.npy"),
        (signal.SIGINT, ".cache/training/dense-*/state.npz"),
    )
    for how, pattern in moments:
        if pattern.startswith("data"):
            shutil.rmtree(project.folder / "data/training", ignore_errors=True)
        process = project.start(*REPRO, "digits", PYTHONPATH="src")
        wait_for(lambda pattern=pattern: any(project.folder.glob(pattern)), process)
        if how == signal.SIGINT:
            second = project.repro("digits", status=1)
            assert second.startswith(
                f"error: another run works in this folder; wait until it ends, or stop it by `kill {process.pid} "
            )
            assert len(second.splitlines()) == 1
        kill(process, how)
        assert git_state(project) == state
        assert (project.read("params.yaml") == before) or project.params()["fetch"]["dataset"] == "digits"

    output = project.repro("digits")
    assert git_state(project) == state
    after = project.read("params.yaml").decode()
    assert [line.partition("#")[2] for line in after.splitlines()] == [
        line.partition("#")[2] for line in expected.splitlines()
    ]
    changed = {"fetch.dataset": "digits", "split.validation": 200, "evaluate.target_accuracy": 0.9}
    for key, value in changed.items():
        section, name = key.split(".")
        assert project.params()[section][name] == value
    assert json.loads(project.read("data/dataset.json"))["dataset"] == "digits"
    # A killed training went on in its run.
    assert [run.data.params["dataset"] for run in runs(client_of(project))][:2] == ["digits", "tiny"]
    assert not project.states()
    assert not project.temporary_files()

    assert "To go back: make repro DATASET=tiny" in output
    with chdir(project.folder):
        with pytest.raises(WorkflowError, match="again as it was"):
            fail_with(project, "kmnist")
        assert project.read("params.yaml").decode() == after
        with repro_command.chosen("tiny"):  # as `make repro DATASET=tiny` begins
            assert project.read("params.yaml") == before


def working_in(project: Project) -> list[int]:
    """The processes that work in the project's folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.cwd()) == project.folder:
                found.append(process.pid)
    return found


def test_what_it_started_ends_with_it_or_is_named_to_the_next(copy_of_repro: New, tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / "project")
    project.set(models__dense__epochs=1000, models__dense__patience=1000)

    def start() -> subprocess.Popen[str]:
        before = {path: path.stat().st_mtime_ns for path in project.states("dense-*/state.npz")}
        process = project.start(*REPRO, PYTHONPATH="src")
        wait_for(
            lambda: any(before.get(path) != path.stat().st_mtime_ns for path in project.states("dense-*/state.npz")),
            process,
        )
        return process

    process = start()
    process.terminate()  # it alone, as `docker stop` does
    output, _ = process.communicate()
    assert process.returncode == 130
    assert output.endswith("\nerror: interrupted; run the same command again to go on.\n")
    assert working_in(project) == []
    assert "git add" not in output

    process = start()
    process.kill()
    process.wait()
    message = project.repro(status=1)
    assert message.startswith("error: another run works in this folder; wait until it ends, or stop it by `kill ")
    assert len(message.splitlines()) == 1
    os.system(message.split("`")[1])
    until = time.monotonic() + 30
    while working_in(project):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert runs(client_of(project))[0].info.status == "KILLED"


def test_stages_make_the_same_bytes_again_whatever_a_user_s_own_settings_are(
    copy_of_repro: New, tmp_path: Path
) -> None:
    project = copy_of_repro(tmp_path / "project")
    before, lock = project.outputs(), project.read("dvc.lock")
    recorded = len(runs(client_of(project)))
    home, outer = tmp_path / "home", tmp_path / "outer"
    (home / ".keras").mkdir(parents=True)
    keras = {"floatx": "float64", "epsilon": 1e-3, "image_data_format": "channels_first"}
    (home / ".keras/keras.json").write_text(json.dumps(keras))
    (home / ".config/matplotlib").mkdir(parents=True)
    (home / ".config/matplotlib/matplotlibrc").write_text("text.usetex: True\nfigure.dpi: 300\nfont.size: 30\n")
    (outer / ".dvc").mkdir(parents=True)
    evaluation = "evaluation/compact/predictions.csv"
    for output in ("data/overview", "models/compact/model.keras", evaluation, "inside", "plots/loss.png"):
        project.forget(output)
    for folder in ("data/overview", "models/compact", "evaluation/compact", "inside", "plots", ".dvc/cache/runs"):
        shutil.rmtree(project.folder / folder)
    for output in ("compact", "comparison"):
        (project.folder / f"metrics/{output}.json").unlink()

    output = project.repro(
        HOME=str(home),
        SHELL="/usr/sbin/nologin",
        DVC_ROOT=str(outer),  # as in a stage of another project, in an experiment there
        DVC_STAGE="theirs.yaml:stage",
        DVC_EXP_NAME="theirs",
        DVC_EXP_BASELINE_REV="0" * 40,
        PATH="/usr/local/bin:/usr/bin:/bin",  # nobody has activated the virtual environment
        XDG_CONFIG_HOME=str(home / ".config"),
        LC_ALL="C",
        CDPATH="/",
        PYTHONHASHSEED="7",
    )
    of_compact = {"train@compact", "evaluate@compact"}
    assert set(stages_run(output)) == {"preprocess", "compare", "plot", "explain"} | of_compact
    assert project.outputs() == before
    assert project.read("dvc.lock") == lock
    assert is_clean(project)
    assert len(runs(client_of(project))) == recorded + 1
    run = runs(client_of(project))[0]
    assert (run.info.run_name, run.data.tags.get("dvc_experiment")) == ("compact", None)
    assert run.data.tags["mlflow.source.git.commit"] == project.run("git", "rev-parse", "HEAD").strip()
    assert [path.name for path in outer.rglob("*")] == [".dvc"]


def test_compare_leaves_git_alone(copy_of_repro: New, tmp_path: Path) -> None:
    """In a part of a larger repository, with an experiment of the user's called `baseline`, and a file new to Git."""
    project = copy_of_repro(tmp_path / "larger" / "part")
    shutil.rmtree(project.folder / ".git")
    whole = Project(tmp_path / "larger")
    whole.run("git", "init", "--quiet", "--initial-branch", "main")
    whole.commit("start")
    roles = [f"GIT_{role}_{key}" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")]
    project.dvc("exp", "save", "--name", "baseline", **dict.fromkeys(roles, "test@example.org"))
    (project.folder / "src/mnistflow/networks/new.py").touch()
    before = git_state(project)
    assert "/baseline" in before
    output = project.run(*COMPARE, PYTHONPATH="src")
    assert git_state(project) == before
    check_comparison(project, output)


def check_comparison(project: Project, output: str) -> None:
    """Make sure that `make compare` has shown the baseline's errors, the selected model's and the difference."""
    dense, compact = (json.loads(project.read(f"metrics/{model}.json"))["errors"] for model in ("dense", "compact"))
    (row,) = [line.split() for line in output.splitlines() if " errors " in line]
    assert row[1:] == ["errors", str(dense), str(compact), str(compact - dense)]
