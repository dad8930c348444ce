"""What a run ran: tags that name the state of the code, and the machine."""

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mnistflow.workspace import md5

COMMIT = "mlflow.source.git.commit"  # MLflow's own tag for it
EXPERIMENT = "dvc_experiment"  # the tag that names the DVC experiment which a run belongs to
BASELINE = "baseline"  # the experiment that `make compare` compares with
CODE = ("params.yaml", "dvc.yaml", "stages", "src", "requirements.lock")


def tags(name: str) -> dict[str, str]:
    """Tags that say what was run, where, and from which state of the code."""
    from mnistflow.backend import keras  # `record` has no need of it, and it takes seconds to import

    said = {
        "model": name,
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "keras_backend": keras.backend.backend(),
        "pipeline": pipeline(),
    }
    if experiment := os.environ.get("DVC_EXP_NAME"):
        said[EXPERIMENT] = experiment
    return said | code_state()


def code_state() -> dict[str, str]:
    """Tags that name the commit and what differs from it; none outside of a git repository."""
    # In a copy that DVC made for an experiment, HEAD is a commit of DVC's own.
    commit = os.environ.get("DVC_EXP_BASELINE_REV") or _git("rev-parse", "HEAD")
    changed = _git("diff", "--name-only", commit or "HEAD", "--", *CODE)
    new = _git("ls-files", "--others", "--exclude-standard", "--", *CODE)
    if not commit or changed is None or new is None:
        return {}
    files = [*changed.splitlines(), *new.splitlines()]
    said = {COMMIT: commit, "git_dirty": str(bool(files)).lower()}
    return said | ({"git_changes": ", ".join(files)} if files else {})


def pipeline() -> str:
    """A name for the state of the parameters and the code, the same for all trainings of one `dvc repro`.

    The first digits of a SHA-256 over the files of CODE: a repetition of the same state has the same name.
    """
    digest = hashlib.sha256()
    for path in sorted(path for name in CODE for path in [Path(name), *Path(name).rglob("*.py")] if path.is_file()):
        digest.update(f"{path.as_posix()}\0{md5(path)}\0".encode())
    return digest.hexdigest()[:10]


def experiments() -> Iterator[tuple[str, set[str]]]:
    """DVC's experiments: the name of each, and the MD5s of those models that it made and its commit has not.

    The Makefile's own, which only selects another model, is none of them.
    """
    for ref in (_git("for-each-ref", "--format=%(refname)", "refs/exps/*/*/*") or "").splitlines():
        *_, start, rest, name = ref.split("/")
        if name != BASELINE:
            yield name, _models(ref) - _models(start + rest)


def _models(revision: str) -> set[str]:
    """The MD5s of the models in a revision's dvc.lock."""
    return set(
        re.findall(r"path: \S+/model\.keras\s+hash: md5\s+md5: (\w+)", _git("show", f"{revision}:dvc.lock") or "")
    )


def _git(*arguments: str) -> str | None:
    """What git prints, or None outside of a repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def processor() -> str:
    """The name of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
