"""Commands end in one sentence where a person can correct something; files are whole; states are shared."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import HERE

from mnistflow.core.errors import WorkflowError, without_password
from mnistflow.core.files import check_locked, md5, naming, replacing, root, write_text
from mnistflow.training import state

SCRIPT = """
import errno, signal, sys
from pathlib import Path
from mnistflow.core import cli
from mnistflow.core.errors import WorkflowError
def main(name: str, folder: Path) -> None:
    assert isinstance(folder, Path)
    if name == "mistake": raise WorkflowError("the key is wrong.")
    if name == "full": raise OSError(errno.ENOSPC, "No space left on device", str(folder))
    if name == "interrupt": raise KeyboardInterrupt
    if name == "terminate":
        try: signal.raise_signal(signal.SIGTERM)
        finally: signal.raise_signal(signal.SIGTERM)  # it may come from two sides, while the process is ending
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
    ("arguments", "status", "sentence"),
    [
        (["mistake", "x"], 1, "the key is wrong."),
        (["full", "/data"], 1, "/data: No space left on device; free some space, then run the same command again."),
        (["interrupt", "x"], 130, "interrupted; run the same command again to go on."),
        (["terminate", "x"], 130, "interrupted; run the same command again to go on."),
        (["swallow", "x"], 130, "interrupted; run the same command again to go on."),
        (["mistake"], 2, "usage: python -c NAME FOLDER"),
    ],
)
def test_what_a_person_can_correct_is_one_sentence(arguments: list[str], status: int, sentence: str) -> None:
    assert run(*arguments) == (status, "", f"error: {sentence}\n")


def test_arguments_are_converted_and_bugs_keep_their_traceback() -> None:
    assert run("fine", "a/b") == (0, "fine a/b\n", "")
    status, _, error = run("bug", "x")
    assert status == 1
    assert "Traceback" in error


def test_passwords_in_addresses_are_hidden() -> None:
    assert without_password("at postgresql://me:secret@host/db, no") == "at postgresql://me:***@host/db, no"
    assert without_password("http://host:5000/x") == "http://host:5000/x"
    assert without_password("postgresql://me:p@ss:word@host/db") == "postgresql://me:***@host/db"
    assert without_password("postgresql://me:p/ss@host/db") == "postgresql://me:***@host/db"
    assert without_password("http://me:a@b/x and http://me:c@d") == "http://me:***@b/x and http://me:***@d"


def test_the_project_of_an_experiment_s_copy_is_the_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, copy = tmp_path / "real", tmp_path / "real/.dvc/tmp/exps/copy"
    copy.mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(real))
    monkeypatch.chdir(copy)
    assert root() == real.resolve()
    monkeypatch.chdir(tmp_path)  # in a stage of another project, whose DVC_ROOT is inherited
    assert root() == tmp_path


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "first")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_without_a_file_name_gets_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as raised, naming(tmp_path / "file"):
        raise OSError(28, "No space left on device")
    assert raised.value.filename == str(tmp_path / "file")


def test_temporary_files_of_processes_that_are_gone_are_deleted(tmp_path: Path) -> None:
    child, zombie = subprocess.Popen(["true"]), subprocess.Popen(["true"])
    child.wait()
    while psutil.Process(zombie.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    host = platform.node()
    gone = tmp_path / f".{child.pid}@{host}-file.txt"
    others = [
        tmp_path / f".{child.pid}@{host}-other.txt",
        tmp_path / f".{os.getppid()}@{host}-file.txt",
        tmp_path / f".{zombie.pid}@another-host-file.txt",
    ]
    for path in (gone, *others):
        path.touch()
    write_text(tmp_path / "file.txt", "whole")
    zombie.wait()
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "file.txt"])


def test_only_a_file_whose_hash_is_in_dvc_lock_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model.keras"
    with pytest.raises(WorkflowError, match="is missing"):
        check_locked(model)
    model.write_bytes(b"content")
    with pytest.raises(WorkflowError, match="not the file that dvc.lock describes"):
        check_locked(model)
    (tmp_path / "dvc.lock").write_text(f"      md5: {md5(model)}\n      size: 7\n")
    check_locked(model)
    model.write_bytes(b"another")
    with pytest.raises(WorkflowError, match="not the file that dvc.lock describes"):
        check_locked(model)


def test_a_state_stays_until_the_lock_has_the_model_and_the_record_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    states = tmp_path / ".cache/training"
    with pytest.raises(KeyboardInterrupt), state.folder("compact-1") as folder:  # noqa: PT012
        write_text(folder / "state", "after an epoch")
        raise KeyboardInterrupt
    write_text(tmp_path / "model", "trained")
    with state.folder("compact-1") as folder:
        assert (folder / "state").read_text() == "after an epoch"
        (folder / state.UNRECORDED).touch()
        state.finish(folder, md5(tmp_path / "model"))
    state.delete_finished()
    assert (states / "compact-1/state").is_file()
    write_text(tmp_path / "dvc.lock", f"outs:\n- path: model\n  md5: {md5(tmp_path / 'model')}\n")
    state.delete_finished()
    assert (states / "compact-1/state").is_file()
    (states / "compact-1" / state.UNRECORDED).unlink()
    with state.folder("compact-2"):  # another training, that goes on
        state.delete_finished()
        assert {path.name for path in states.iterdir()} == {"compact-2", "compact-2.lock"}


def test_two_processes_with_the_same_training_take_turns(tmp_path: Path) -> None:
    script = """
import sys
from mnistflow.training import state
with state.folder("compact-1") as folder:
    print("in", flush=True)
    assert not (folder / "busy").exists()
    (folder / "busy").touch()
    sys.stdin.readline()
    (folder / "busy").unlink()
"""
    environment = os.environ | {"PYTHONPATH": str(HERE / "src")}
    environment.pop("DVC_ROOT", None)
    command, pipe = [sys.executable, "-c", script], subprocess.PIPE
    processes = []
    for line in ("in", "another process does the same training; waiting for it"):
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=pipe, stdout=pipe, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == line + "\n"
        processes.append(process)
    for process in processes:
        process.communicate("go on\n", timeout=60)
    assert [process.returncode for process in processes] == [0, 0]
