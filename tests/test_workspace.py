"""A stage run by hand: wrong arguments, wrong places and interrupts end in one line; bugs keep their traceback."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import HERE

from mnistflow.workspace import WorkflowError, check_vouched, finish, md5, replacing, settle, unfinished, write_text

SCRIPT = """
import errno, signal, sys
from pathlib import Path
from mnistflow import cli
from mnistflow.workspace import WorkflowError
def main(name: str, folder: Path) -> None:
    assert isinstance(folder, Path)
    if name == "mistake": raise WorkflowError("the key is wrong.")
    if name == "full": raise OSError(errno.ENOSPC, "No space left on device", str(folder))
    if name == "interrupt": raise KeyboardInterrupt
    if name == "swallow":
        try: signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt: raise TypeError("no tensor") from None
    if name == "bug": raise ZeroDivisionError
    print(name, folder)
cli.run(main)
"""


def run(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    environment = os.environ | {"PYTHONPATH": str(HERE / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["mistake", "x"], 1, "error: the key is wrong."),
        (["full", "/data"], 1, "error: /data: No space left on device; make room or permit writing, then run again."),
        (["interrupt", "x"], 130, "error: interrupted; the same command goes on."),
        (["swallow", "x"], 130, "error: interrupted; the same command goes on."),
        (["mistake"], 2, "error: usage: python -c NAME FOLDER"),
    ],
)
def test_what_a_person_can_mend_is_one_line(arguments: list[str], status: int, line: str) -> None:
    assert run(*arguments) == (status, "", line + "\n")


def test_arguments_are_converted_and_bugs_are_shown() -> None:
    assert run("fine", "a/b") == (0, "fine a/b\n", "")
    status, _, error = run("bug", "x")
    assert status == 1
    assert "Traceback" in error


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "first")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_process_left_half_written_is_deleted(tmp_path: Path) -> None:
    child, zombie = subprocess.Popen(["true"]), subprocess.Popen(["true"])
    child.wait()
    while psutil.Process(zombie.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    host = platform.node()
    left, unreaped, others, running = (
        tmp_path / f".{child.pid}@{host}-file.txt",
        tmp_path / f".{zombie.pid}@{host}-file.txt",
        tmp_path / f".{child.pid}@{host}-other.txt",
        tmp_path / f".{os.getppid()}@{host}-file.txt",
    )
    for path in (left, unreaped, others, running):
        path.touch()
    write_text(tmp_path / "file.txt", "whole")
    zombie.wait()
    assert sorted(tmp_path.iterdir()) == sorted([others, running, tmp_path / "file.txt"])


def test_a_file_is_vouched_for_by_its_hash_in_dvc_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model.keras"
    with pytest.raises(WorkflowError, match="is missing"):
        check_vouched(model)
    model.write_bytes(b"content")
    with pytest.raises(WorkflowError, match="not the file that dvc.lock describes"):
        check_vouched(model)
    (tmp_path / "dvc.lock").write_text(f"      md5: {md5(model)}\n      size: 7\n")
    check_vouched(model)
    model.write_bytes(b"another")
    with pytest.raises(WorkflowError, match="not the file that dvc.lock describes"):
        check_vouched(model)


def test_the_state_of_a_training_is_kept_until_dvc_has_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    states = tmp_path / ".cache/training"
    with pytest.raises(KeyboardInterrupt), unfinished("compact-1") as folder:  # noqa: PT012
        write_text(folder / "state", "after an epoch")
        raise KeyboardInterrupt
    write_text(tmp_path / "model", "trained")
    with unfinished("compact-1") as folder:
        assert (folder / "state").read_text() == "after an epoch"
        finish(folder, tmp_path / "model")
    settle()
    assert (states / "compact-1/state").is_file()
    write_text(tmp_path / "dvc.lock", f"outs:\n- path: model\n  md5: {md5(tmp_path / 'model')}\n")
    with unfinished("compact-2"):  # still at it
        settle()
        assert {path.name for path in states.iterdir()} == {"compact-2", "compact-2.lock"}


def test_two_processes_at_the_same_training_take_turns(tmp_path: Path) -> None:
    script = """
import sys, time
from mnistflow.workspace import unfinished
with unfinished("compact-1") as folder:
    print("in", flush=True)
    assert not (folder / "busy").exists()
    (folder / "busy").touch()
    sys.stdin.readline()
    (folder / "busy").unlink()
"""
    environment = os.environ | {"PYTHONPATH": str(HERE / "src"), "DVC_ROOT": str(tmp_path)}
    command, pipe = [sys.executable, "-c", script], subprocess.PIPE
    processes = []
    for words in ("in", "another process is at the same training; waiting for it"):
        process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == words + "\n"
        processes.append(process)
    for process in processes:
        process.communicate("go on\n", timeout=60)
    assert [process.returncode for process in processes] == [0, 0]
