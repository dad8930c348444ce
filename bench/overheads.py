"""Overheads: `python bench/overheads.py` times the stages besides `train`, an idle `dvc repro`, and the MLflow record.

Stages run in a copy of the project, on the outputs of `make repro`, with an MLflow store of its own. An idle `dvc
repro` is compared with one in a repository of two trivial stages. Writes bench/results/overheads.json.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from run import HERE, machine, project_environment

from mnistflow.core import cli, files, params
from mnistflow.core.errors import WorkflowError
from mnistflow.data import catalog

TIMES = 5
NOT_COPIED = (".venv", ".git", ".dvc", ".cache", "mlruns", "mlflow.db*", "server")
BARE = """
stages:
  one: {cmd: cp params.yaml one, deps: [params.yaml], outs: [one]}
  two: {cmd: cp one two, deps: [one], outs: [two]}
"""
# Trains a model; prints the seconds of its training, and those of the record during it and around it.
RECORDED = """
import json, sys, time
sys.path.insert(0, "stages")
import train
from mnistflow.core import cli
from mnistflow.tracking.runs import LiveRun

spent = {"training_s": 0.0, "during_s": 0.0, "around_s": 0.0}

def timed(name, method):
    def run(*arguments):
        if name == "log_outputs":
            spent["training_s"] = arguments[-1]
        started = time.perf_counter()
        method(*arguments)
        spent["during_s" if name == "log_epochs" else "around_s"] += time.perf_counter() - started
    return run

for name in ("__init__", "log_epochs", "log_outputs", "end"):
    setattr(LiveRun, name, timed(name, getattr(LiveRun, name)))
cli.run(train.main, sys.argv[1])
print(json.dumps(spent))
"""


def run(*command: str, folder: Path | None = None, **environment: str) -> tuple[float, str]:
    """Run a command; returns its wall time in seconds and what it printed.

    Raises:
        WorkflowError: it failed.
    """
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=project_environment(**environment), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise WorkflowError(f"{' '.join(command)} failed:\n{done.stderr}")
    return time.perf_counter() - started, done.stdout


def stages(project: Path, settings: params.Settings, **environment: str) -> dict[str, float]:
    """The median wall time of each stage's process in seconds, imports included."""
    commands: dict[str, tuple[str, ...]] = {"params": (), "fetch": (), "preprocess": ()}
    commands |= {f"evaluate {name}": (name,) for name in settings.model_names()}
    commands |= {"compare": (), "plot": (), "explain": ()}
    return {
        stage: statistics.median(
            run(sys.executable, f"stages/{stage.split()[0]}.py", *arguments, folder=project, **environment)[0]
            for _ in range(TIMES)
        )
        for stage, arguments in commands.items()
    }


def link_source(folder: Path, dataset: str) -> None:
    """Make a source for the fetch stage: links to the decompressed files, under their published names."""
    folder.mkdir()
    for role, file in catalog.load(dataset).files.items():
        (folder / file.name.removesuffix(".gz")).symlink_to((files.RAW / role).resolve())


def idle(folder: Path) -> dict[str, float]:
    """The median wall time of a `dvc repro` with nothing to do, here and in a bare repository, in seconds."""
    folder.mkdir()
    (folder / "dvc.yaml").write_text(BARE)
    (folder / "params.yaml").write_text("a: 1\n")
    dvc = (sys.executable, "-m", "dvc")
    run("git", "init", "--quiet", folder=folder)
    for command in (("init", "--quiet"), ("config", "core.analytics", "false"), ("repro", "--quiet")):
        run(*dvc, *command, folder=folder)
    folders = {"here": None, "bare": folder}
    times = [{name: run(*dvc, "repro", folder=each)[0] for name, each in folders.items()} for _ in range(TIMES)]
    return {name: statistics.median(row[name] for row in times) for name in folders}


def main() -> None:
    """Measure everything, print the figures, write them."""
    if subprocess.run([sys.executable, "-m", "dvc", "status", "--quiet"], check=False).returncode:
        raise WorkflowError("outputs are behind params.yaml or the code; run `make repro` first.")
    settings = params.load()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, project = Path(name), Path(name, "project")
        shutil.copytree(Path.cwd(), project, ignore=shutil.ignore_patterns(*NOT_COPIED))
        link_source(folder / "source", settings.fetch.dataset)
        store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MNISTFLOW_SOURCE": str(folder / "source")}
        run(sys.executable, "-m", "mnistflow.tracking.record", folder=project, **store)
        figures["stages"] = stages(project, settings, **store)
        figures["idle_repro"] = idle(folder / "bare")
        _, output = run(sys.executable, "-c", RECORDED, settings.evaluate.baseline, folder=project, **store)
        figures["record"] = json.loads(output.splitlines()[-1])
    for stage, seconds in figures["stages"].items():
        print(f"{stage:18} {seconds:5.1f} s")
    here, bare = figures["idle_repro"].values()
    print(f"idle dvc repro     {here:5.2f} s, in a bare repository {bare:.2f} s: {here / bare:.2f}x")
    training, during, around = figures["record"].values()
    print(
        f"the record of a training of {training:.0f} s: {during:.2f} s during it ({during / training:.1%}), "
        f"{around:.2f} s around it"
    )
    path = HERE / "results/overheads.json"
    files.write_text(path, json.dumps({"machine": machine(), **figures}, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    cli.run(main)
