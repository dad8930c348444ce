"""Git, for the commands that need it. The main job does without."""

import os
import subprocess
from pathlib import Path

from mnistflow.core.errors import WorkflowError


def git(*arguments: str, **environment: str) -> str:
    """The output of a git command; `environment` has further variables for it.

    Raises:
        WorkflowError: Git is missing, this is no repository, it belongs to another user, or the command failed.
    """
    english = os.environ | {"LC_ALL": "C"}  # its words are looked at below
    try:
        done = subprocess.run(
            ["git", *arguments], env=english | environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise WorkflowError("this command needs Git, which is not installed here.") from error
    if done.returncode == 0:
        return done.stdout.strip()
    if "dubious ownership" in done.stderr:
        raise WorkflowError(
            "Git refuses this folder, because it belongs to another user; "
            f"git config --global --add safe.directory '{Path.cwd()}' allows it."
        )
    if "not a git repository (or any" in done.stderr:  # and not: a .git that points to a folder which is gone
        raise WorkflowError(
            "this folder is no Git repository, as a downloaded ZIP file is none; clone the project, or run "
            "git init && git add . && git commit -m start."
        )
    reason = done.stderr.strip().partition("\n")[0]  # advice follows
    raise WorkflowError(f"git {' '.join(arguments)} failed: {reason or 'no reason given'}.")


def commit_of(revision: str) -> str:
    """The hash of the commit that a Git revision names.

    Raises:
        WorkflowError: it names none.
    """
    git("rev-parse", "--git-dir")
    verify = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.strip()
    if revision == "HEAD":
        raise WorkflowError("this repository has no commit yet; git add . && git commit -m start makes one.")
    is_shallow = git("rev-parse", "--is-shallow-repository") == "true"
    advice = "this clone is shallow and git fetch --unshallow brings the rest" if is_shallow else "try main or HEAD~1"
    raise WorkflowError(f"{revision!r} is no commit of this repository; {advice}.")


def file_at(commit: str, path: Path) -> bytes | None:
    """The content of a file at a commit; None if it is not there. The project may lie in a larger repository."""
    done = subprocess.run(["git", "show", f"{commit}:./{path.as_posix()}"], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None
