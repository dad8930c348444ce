"""What is not training: `python bench/overheads.py` times each stage around it, an idle `dvc repro`, and the record.

Stages run as DVC runs them, on the outputs of `make repro`, into a temporary folder and a store of its own. An idle
`dvc repro` alternates with one in a repository of two stages that do nothing. Writes bench/results/overheads.json.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mnistflow.workspace import write_json
from run import HERE, machine

MODELS = ("dense", "cnn", "compact")
TIMES = 5
BARE = """
stages:
  one: {cmd: cp params.yaml one, deps: [params.yaml], outs: [one]}
  two: {cmd: cp one two, deps: [one], outs: [two]}
"""
# Trains `dense`, and prints the seconds of the whole training and those that went into the record.
RECORDED = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, "stages")
import train
from mnistflow.record import Recorder

spent = {"training_s": 0.0, "during_s": 0.0, "around_s": 0.0}

def timed(kind, method):
    def run(*arguments):
        if method.__name__ == "outputs":
            spent["training_s"] = arguments[-1]
        started = time.perf_counter()
        method(*arguments)
        spent[kind] += time.perf_counter() - started
    return run

for name in ("__init__", "epochs", "outputs", "end"):
    kind = "during_s" if name == "epochs" else "around_s"
    setattr(Recorder, name, timed(kind, getattr(Recorder, name)))
train.main("dense", Path("data/arrays/training"), Path("data/arrays/validation"), Path(sys.argv[1]))
print(json.dumps(spent))
"""


def seconds(*command: str, folder: Path | None = None, **environment: str) -> float:
    """The wall time of a command."""
    started = time.perf_counter()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # dvc.yaml says `python`
    everything = os.environ | {"PYTHONPATH": "src", "PATH": path} | environment
    done = subprocess.run(command, cwd=folder, env=everything, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stderr}")
    return time.perf_counter() - started


def stages(made: Path, store: dict[str, str]) -> dict[str, float]:
    """The median wall time of each stage's process, imports included."""
    commands = {
        "fetch": ("fetch", made / "raw"),
        "preprocess": ("preprocess", "data/raw", made / "arrays", made / "overview"),
        **{
            f"evaluate {name}": (
                *("evaluate", f"models/{name}", "data/arrays/test"),
                *(made / f"evaluation/{name}", made / f"metrics/{name}.json"),
            )
            for name in MODELS
        },
        "compare": ("compare", "evaluation", "metrics", made / "selected.json", made / "comparison.json"),
        "plot": ("plot", "models", "evaluation", made / "plots"),
    }
    return {
        name: statistics.median(
            seconds(sys.executable, f"stages/{script}.py", *map(str, arguments), **store) for _ in range(TIMES)
        )
        for name, (script, *arguments) in commands.items()
    }


def idle(folder: Path) -> dict[str, float]:
    """The median wall time of a `dvc repro` with nothing to do, here and in a bare repository."""
    (folder / "dvc.yaml").write_text(BARE)
    (folder / "params.yaml").write_text("a: 1\n")
    dvc = (sys.executable, "-m", "dvc")
    seconds("git", "init", "--quiet", folder=folder)
    for command in (("init", "--quiet"), ("config", "core.analytics", "false"), ("repro", "--quiet")):
        seconds(*dvc, *command, folder=folder)
    places = {"here": None, "bare": folder}
    times = [{name: seconds(*dvc, "repro", folder=place) for name, place in places.items()} for _ in range(TIMES)]
    return {name: statistics.median(row[name] for row in times) for name in places}


def main() -> None:
    """Measure, print, write."""
    if subprocess.run([sys.executable, "-m", "dvc", "status", "--quiet"], check=False).returncode:
        sys.exit("outputs are behind params.yaml or the code; run make repro first")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        store = {"MLFLOW_TRACKING_URI": f"sqlite:///{made}/mlflow.db"}
        paths = ("models", "evaluation", "metrics", "data/arrays/validation")
        seconds(sys.executable, "-m", "mnistflow.record", *paths, **store)
        found = {"stages": stages(made, store)}
        (made / "bare").mkdir()
        found["idle_repro"] = idle(made / "bare")
        everything = os.environ | {"PYTHONPATH": "src"} | store
        command = [sys.executable, "-c", RECORDED, str(made / "models/dense")]
        done = subprocess.run(command, env=everything, capture_output=True, text=True, check=True)
        found["record"] = json.loads(done.stdout.splitlines()[-1])
    for name, value in found["stages"].items():
        print(f"{name:18} {value:5.1f} s")
    here, bare = found["idle_repro"].values()
    print(f"idle dvc repro     {here:5.2f} s, in a bare repository {bare:.2f} s: {here / bare:.2f}x")
    training, during, around = found["record"].values()
    print(
        f"the record of a training of {training:.0f} s: {during:.2f} s during it ({during / training:.1%}), "
        f"{around:.2f} s around it"
    )
    path = HERE / "results/overheads.json"
    write_json(path, {"machine": machine(), **found})
    print(path)


if __name__ == "__main__":
    main()
