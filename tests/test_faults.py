"""Nothing is lost: killed in any stage, out of room, without the right to write, beside others. With real faults."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from conftest import COMPACT_EPOCHS, Mirror, Project, client_of, is_clean, kill, runs, stages_run, steps, wait_for
from ruamel.yaml import YAML

from mnistflow.core.files import md5

pytestmark = pytest.mark.slow

New = Callable[[Path], Project]
EPOCHS = {"dense": 2, "compact": COMPACT_EPOCHS}


def check_run(client: mlflow.MlflowClient, run: mlflow.entities.Run) -> None:
    """Make sure that a run is complete: finished, with its model and evaluation, and each value logged once."""
    assert run.info.status == "FINISHED"
    assert run.info.end_time >= run.info.start_time
    assert steps(client, run) == list(range(1, EPOCHS[run.data.params["network"]] + 1))
    assert len(run.outputs.model_outputs) == 1
    assert "test/accuracy" in run.data.metrics
    for metric in run.data.metrics:
        logged = steps(client, run, metric)
        assert len(logged) == len(set(logged)) or metric.startswith("test/"), metric  # each evaluation logs its metrics


def check_outcome(project: Project, expected: Project) -> None:
    """Make sure that a project ended as one that nobody disturbed: the same bytes, one run per model, nothing left."""
    project.record()
    assert project.outputs() == expected.outputs()
    lock, expected_lock = (YAML(typ="safe").load(each.folder / "dvc.lock") for each in (project, expected))
    assert lock == expected_lock
    client = client_of(project)
    recorded = runs(client)
    assert sorted(run.data.tags["model"] for run in recorded) == sorted(EPOCHS)
    for run in recorded:
        check_run(client, run)
    assert not project.states()
    assert not project.temporary_files()


def kill_at(project: Project, pattern: str, *command: str) -> None:
    """Start a command and kill it as soon as there is a file that matches the pattern."""
    process = project.start(*command)
    wait_for(lambda: any(project.folder.glob(pattern)), process)
    kill(process)


def forget_record(project: Project) -> None:
    """Delete the MLflow record, so that it has what a test adds and nothing else."""
    shutil.rmtree(project.folder / "mlruns")
    (project.folder / "mlflow.db").unlink()


def forget_stages(project: Project, *names: str) -> None:
    """Delete stages from dvc.lock, as if they had never run."""
    path = project.folder / "dvc.lock"
    lock = YAML(typ="safe").load(path)
    for name in names:
        del lock["stages"][name]
    YAML().dump(lock, path)


def test_a_training_killed_at_any_moment_ends_in_the_same_bytes_and_in_one_run(
    copy_of_repro: New, repro: Project, tmp_path: Path
) -> None:
    project = copy_of_repro(tmp_path / "project")
    forget_record(project)
    project.forget("models/compact/model.keras")
    shutil.rmtree(project.folder / "models/compact")
    forget_stages(project, "train@compact", "evaluate@compact", "explain")
    moments = (
        ".cache/training/compact-*/state.npz",  # after an epoch
        "mlruns/*/artifacts/history.csv",  # after its outputs, among what is logged
        ".cache/training/compact-*/model.md5",  # between its end and DVC's note of it
    )
    client = client_of(project)
    ids = set()
    for pattern in moments:
        kill_at(project, pattern, "dvc", "repro", "train@compact")
        if (project.folder / "mlflow.db").is_file() and client.get_experiment_by_name("mnistflow"):
            ids |= {run.info.run_id for run in runs(client)}
    output = project.repro()
    assert stages_run(output) == ["train@compact"]
    assert "epoch  1 " not in output
    assert len(ids) == 1
    (run,) = runs(client, "tags.model = 'compact'")
    assert {run.info.run_id} == ids
    assert "restored" not in run.data.tags
    check_outcome(project, repro)


def test_other_stages_killed_end_in_the_same_bytes(copy_of_repro: New, repro: Project, tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / "project")
    for output in ("data/raw", "data/training", "evaluation/compact/predictions.csv", "plots/loss.png"):
        project.forget(output)
    for output in ("data", "evaluation/compact", "plots", ".dvc/cache/runs"):
        shutil.rmtree(project.folder / output)
    (project.folder / "metrics/comparison.json").unlink()
    moments = {
        "fetch": "data/raw/test_images",
        "preprocess": "data/training/images.npy",
        "evaluate@compact": "evaluation/compact/predictions.csv",
        "plot": "plots/loss.png",
    }
    for stage, pattern in moments.items():
        kill_at(project, pattern, "dvc", "repro", stage)
    assert set(stages_run(project.repro())) == {"plot"}
    check_outcome(project, repro)


def test_ctrl_c_marks_the_run_as_killed_and_the_same_command_goes_on(
    copy_of_repro: New, repro: Project, tmp_path: Path
) -> None:
    project = copy_of_repro(tmp_path / "project")
    client = client_of(project)
    before = len(runs(client))
    project.forget("models/compact/model.keras")
    process = project.start("dvc", "repro", "--force", "--single-item", "train@compact")
    wait_for(lambda: project.states("compact-*/state.npz"), process)
    kill(process, signal.SIGINT)
    run = runs(client)[0]
    assert (len(runs(client)), run.info.status) == (before + 1, "KILLED")

    output = project.repro()
    assert stages_run(output) == ["train@compact"]
    assert "epoch  1 " not in output
    assert project.outputs() == repro.outputs()
    assert is_clean(project)
    # DVC did not evaluate the model again, because it is the same, and yet its metrics are on this run too.
    again = client.get_run(run.info.run_id)
    assert len(runs(client)) == before + 1
    check_run(client, again)
    first = runs(client, "tags.model = 'compact'")[-1]
    assert again.data.metrics["test/accuracy"] == first.data.metrics["test/accuracy"]


def test_a_damaged_download_is_fetched_again(
    copy_of_repro: New, tiny_files: Path, mirror: Mirror, tmp_path: Path
) -> None:
    project = copy_of_repro(tmp_path / "project")
    datasets = project.folder / "datasets.yaml"
    datasets.write_text(datasets.read_text().replace(json.dumps(str(tiny_files)), json.dumps(mirror.url)))
    raw = {path.name: path.read_bytes() for path in (project.folder / "data/raw").iterdir()}
    fetch = ("repro", "--force", "--single-item", "fetch")
    mirror.requests.clear()
    project.dvc(*fetch)
    assert sorted(mirror.requests) == ["/test_images", "/test_labels", "/train_images", "/train_labels"]
    damaged = project.folder / ".cache/downloads/tiny/train_labels"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    mirror.requests.clear()
    project.dvc(*fetch)
    assert mirror.requests == ["/train_labels"]
    assert {path.name: path.read_bytes() for path in (project.folder / "data/raw").iterdir()} == raw


def test_a_damaged_output_is_made_or_fetched_again(copy_of_repro: New, repro: Project, tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / "project")
    for path in (
        "data/raw/test_labels",
        "data/training/images.npy",
        "models/dense/model.keras",
        "models/compact/history.csv",
        "evaluation/dense/predictions.csv",
        "metrics/dense.json",
        "plots/loss.png",
    ):
        (project.folder / path).write_bytes(project.read(path)[:-1])
    project.dvc("repro")
    assert project.outputs() == repro.outputs()
    assert is_clean(project)


def test_damage_that_dvc_does_not_see_is_named_and_the_advice_mends_it(
    copy_of_repro: New, repro: Project, tmp_path: Path
) -> None:
    """As a failing disk does it: size and time stay."""
    project = copy_of_repro(tmp_path / "project")
    for path, command in (
        ("models/dense/model.keras", "-m mnistflow.tracking.record"),
        ("models/dense/history.csv", "stages/plot.py"),
        ("evaluation/dense/predictions.csv", "stages/compare.py"),
        ("data/raw/test_labels", "stages/preprocess.py"),
        ("metrics/selected.json", "-m mnistflow.commands.gate"),
    ):
        file = project.folder / path
        stat = file.stat()
        file.chmod(0o644)
        file.write_bytes(bytes(byte ^ 128 for byte in file.read_bytes()))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        output = project.run("python", *command.split(), status=1, PYTHONPATH="src").splitlines()[-1]
        assert re.match(rf"error: {path}|error: {Path(path).parent} ", output), output
        advice = re.findall(r"; (delete it and )?run `([^`]+)`", output)
        if path.startswith("data/raw"):
            advice = [("", f"rm -r {file.parent} && dvc checkout")]  # docs/faults.md
        ((delete, correction),) = advice
        if delete:
            file.unlink()
        project.run("sh", "-c", correction)
        assert project.outputs() == repro.outputs(), output
    project.record()


def test_two_clones_start_the_same_training_at_once_with_one_store(copy_of_repro: New, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/shared.db"
    projects = [copy_of_repro(tmp_path / name) for name in ("one", "two")]
    for project in projects:
        project.forget("models/dense/model.keras")
        shutil.rmtree(project.folder / "models/dense")
    processes = [project.start("dvc", "repro", "evaluate@dense", MLFLOW_TRACKING_URI=uri) for project in projects]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all("train@dense" in stages_run(output) for output in outputs)
    recorded = runs(mlflow.MlflowClient(uri))
    assert len(recorded) == 2
    for run, project in zip(recorded, projects, strict=True):
        assert run.data.tags["model_md5"] == md5(project.folder / "models/dense/model.keras")
        assert (run.info.status, len(run.outputs.model_outputs)) == ("FINISHED", 1)


def test_two_workers_of_the_queue_record_each_its_own(copy_of_repro: New, tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / "project")
    client = client_of(project)
    before = {run.info.run_id for run in runs(client)}
    for name, seed in (("left", 11), ("right", 12)):
        seeded = ("--name", name, "--set-param", f"models.dense.seed={seed}")
        project.dvc("exp", "run", "--queue", *seeded, "evaluate@dense")
    project.start("dvc", "queue", "start", "--jobs", "2").wait(timeout=60)  # the workers keep its output open
    try:
        until = time.monotonic() + 240
        while re.search(r"Running|Queued", status := project.dvc("queue", "status")):
            assert time.monotonic() < until, status
            time.sleep(3)  # each look takes a second of a processor
        assert status.count("Success") == 2, status + project.dvc("queue", "logs", "left")
    finally:
        project.dvc("queue", "stop", "--kill")
    new = {run.data.tags["dvc_experiment"]: run for run in runs(client) if run.info.run_id not in before}
    assert {name: run.data.params["seed"] for name, run in new.items()} == {"left": "11", "right": "12"}
    for name, run in new.items():
        check_run(client, run)
        changes = json.loads(project.dvc("metrics", "diff", "--all", "--json", "HEAD", name))
        assert run.data.metrics["test/accuracy"] == changes["metrics/dense.json"]["accuracy"]["new"]
    assert is_clean(project)
    assert not project.states()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A real file system of `size` in place of a folder; yields what changes its mount options."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("making a full disk takes a root that may mount")

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_on_a_full_or_read_only_disk_a_stage_ends_in_one_sentence_and_goes_on_later(
    new_project: New, repro: Project, tmp_path: Path
) -> None:
    project = new_project(tmp_path / "project")
    full = "No space left on device; free some space"

    def fails(target: str, file: str, reason: str) -> None:
        output = project.dvc("repro", target, status=255)
        assert re.search(rf"^error: {file}: {reason}, then run the same command again\.$", output, re.MULTILINE), output
        assert "Traceback" not in output
        assert not project.temporary_files()

    with small_disk(project.folder / "data", "500k") as data, small_disk(project.folder / "models", "50k") as models:
        fails("preprocess", "data/training/images.npy", full)
        data("size=20m")
        with small_disk(project.folder / ".cache/training", "100k") as cache:
            fails("train@compact", r"\S+/state.npz", full)
            cache("size=20m")
            fails("train@compact", "models/compact/model.keras", full)
            cache("ro")
            fails("train@compact", r"\S+", "Read-only file system; give yourself the right to write there")
            cache("rw")
            models("size=20m")
            assert "epoch  1 " not in project.dvc("repro", "train@compact")
        made = project.outputs()
        assert made == {path: content for path, content in repro.outputs().items() if path in made}
        assert "models/compact/model.keras" in made


def test_a_record_that_can_t_be_written_stops_no_training(copy_of_repro: New, repro: Project, tmp_path: Path) -> None:
    """Its disk is full: the reason names the record, and after there is room, the record becomes complete."""
    project = copy_of_repro(tmp_path / "project")
    forget_record(project)
    project.forget("models/dense/model.keras")
    shutil.rmtree(project.folder / "models/dense")
    with small_disk(project.folder / "mlruns", "1k"):
        output = project.dvc("repro")
    assert stages_run(output) == ["train@dense"]
    assert output.count("not recorded: ") == 1
    assert "No space left on device" in output
    assert "Traceback" not in output
    check_outcome(project, repro)
    (run,) = runs(client_of(project), "tags.model = 'dense'")
    assert "restored" not in run.data.tags


def test_a_training_that_diverges_leaves_nothing_and_is_on_record_as_failed(copy_of_repro: New, tmp_path: Path) -> None:
    project = copy_of_repro(tmp_path / "project")
    # No learning rate that params.yaml may hold is sure to diverge.
    code = project.folder / "src/mnistflow/core/params.py"
    code.write_text(code.read_text().replace("Field(gt=0, le=1)]  # the peak", "Field(gt=0)]  # the peak"))
    project.set(models__dense__learning_rate=1e30)
    output = project.dvc("repro", "train@dense", status=255)
    assert re.search(
        r"^error: training of dense diverged: its loss is .* at a learning rate of 1e\+30; lower ", output, re.MULTILINE
    )
    assert "Traceback" not in output
    assert not project.states("dense-*/state.npz")
    assert not (project.folder / "models/dense/model.keras").exists()
    run = runs(client_of(project), "tags.model = 'dense'")[0]
    assert run.info.status == "FAILED"
    assert run.data.tags["failure"] in output
    assert run.data.tags["mlflow.note.content"].startswith(f"It failed: {run.data.tags['failure']}")
    assert not run.outputs.model_outputs
