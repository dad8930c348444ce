"""Provenance of a run: the state of the code, the machine, the DVC experiment."""

import hashlib
import os
import platform
import subprocess
from pathlib import Path

from mnistflow.core.files import md5, root

COMMIT = "mlflow.source.git.commit"  # MLflow's own tag
EXPERIMENT = "dvc_experiment"
CODE = ("params.yaml", "datasets.yaml", "dvc.yaml", "stages", "src", "requirements.lock")


def tags(model: str) -> dict[str, str]:
    """Tags for a run: its model, the machine, the state of the code, the DVC experiment."""
    from mnistflow.training.backend import NAME  # here, because it imports TensorFlow

    machine = {
        "model": model,
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "keras_backend": NAME,
        "pipeline": pipeline(),
    }
    experiment = _of_experiment("NAME")
    return machine | ({EXPERIMENT: experiment} if experiment else {}) | code_state()


def code_state() -> dict[str, str]:
    """Tags for the commit and the files that differ from it; none outside of a Git repository."""
    # In DVC's copy of the project for an experiment, HEAD is a temporary commit.
    commit = _of_experiment("BASELINE_REV") or _git("rev-parse", "HEAD")
    changed = _git("diff", "--name-only", commit or "HEAD", "--", *CODE)
    new = _git("ls-files", "--others", "--exclude-standard", "--", *CODE)
    if not commit or changed is None or new is None:
        return {}
    files = [*changed.splitlines(), *new.splitlines()]
    state = {COMMIT: commit, "git_dirty": str(bool(files)).lower()}
    return state | ({"git_changes": ", ".join(files)[:4000]} if files else {})


def pipeline() -> str:
    """A hash of settings and code, the same for all trainings of one `dvc repro`."""
    digest = hashlib.sha256()
    for path in sorted(path for name in CODE for path in [Path(name), *Path(name).rglob("*.py")] if path.is_file()):
        digest.update(f"{path.as_posix()}\0{md5(path)}\0".encode())
    return digest.hexdigest()[:10]


def _of_experiment(key: str) -> str | None:
    """A variable of the DVC experiment that runs; None where that is one of a project in whose stage this one runs."""
    is_ours = Path(os.environ.get("DVC_ROOT", "")).resolve() == root().resolve()
    return os.environ.get(f"DVC_EXP_{key}") if is_ours else None


def _git(*arguments: str) -> str | None:
    """The output of git, or None if it fails, as outside of a repository."""
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
