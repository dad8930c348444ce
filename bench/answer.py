"""From an edit to its answer: `python bench/answer.py [REVISION ...]` times `dvc repro` after a change of `compact`.

Each Git revision (by default, HEAD) is cloned, with the DVC cache of this project, and what it lacks there is trained
first. Then, in turn, one value of models.compact is changed and `dvc repro` is run, three times for each revision with
another value each time, and once more with the first value, which DVC has in its cache. Writes
bench/results/answer.json and a figure of where the seconds of the median run go.
"""

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure
from run import HERE, machine, project_environment

from mnistflow.commands.git import commit_of
from mnistflow.commands.repro import DVC
from mnistflow.core import cli
from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import write_text
from mnistflow.figures import style

RATES = ("0.0059", "0.0058", "0.0057")
EPOCH = re.compile(r"epoch +\d+ .*? (\d+\.\d) s( |$)")
OTHER, TRAIN, EPOCHS = "DVC itself", "train@compact", "its epochs"


def timed_repro(project: Path) -> dict[str, float]:
    """The seconds of each stage that `dvc repro` runs, those of the epochs apart, and its own.

    Raises:
        WorkflowError: it failed.
    """
    # Lines are timed as they are printed, and each clone has a record of its own.
    environment = project_environment(PYTHONUNBUFFERED="1", MLFLOW_TRACKING_URI="")
    spent, stage, started = {OTHER: 0.0}, OTHER, time.perf_counter()
    with subprocess.Popen([*DVC, "repro"], cwd=project, env=environment, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout
        for line in process.stdout:
            running, epoch = re.match(r"Running stage '(.+)'", line), EPOCH.search(line)
            if epoch:
                spent[EPOCHS] = spent.get(EPOCHS, 0) + float(epoch[1])
            if running or line.startswith("Updating lock file"):
                ended = time.perf_counter()
                spent[stage] = spent.get(stage, 0) + ended - started
                stage, started = running[1] if running else OTHER, ended
    spent[stage] += time.perf_counter() - started
    if process.returncode:
        raise WorkflowError(f"`dvc repro` failed in a clone of revision {project.name}, see above.")
    if EPOCHS in spent:
        spent[TRAIN] -= spent[EPOCHS]
    return spent


def set_rate(project: Path, rate: str) -> None:
    """Change the learning rate of `compact`."""
    path = project / "params.yaml"
    head, compact = re.split(r"(?=^ *compact:)", path.read_text(encoding="utf-8"), maxsplit=1, flags=re.MULTILINE)
    compact = re.sub(r"learning_rate: \S+", f"learning_rate: {rate}", compact, count=1)
    path.write_text(head + compact, encoding="utf-8")


def clone(revision: str, folder: Path) -> Path:
    """A clone of a revision, with this project's DVC cache and all its outputs."""
    project = folder / revision
    cache = str(Path(".dvc/cache").resolve())
    for command in (
        ["git", "clone", "--quiet", ".", str(project)],
        ["git", "-C", str(project), "checkout", "--quiet", "--detach", revision],
        [*DVC, "--cd", str(project), "cache", "dir", "--local", cache],
    ):
        subprocess.run(command, check=True)
    print(f"{revision}: what its cache lacks is trained first ...", flush=True)
    timed_repro(project)
    return project


def draw(results: dict[str, Any]) -> Figure:
    """A bar for each revision: the seconds of each stage in its median run, one after the other."""
    figure = style.new_figure(11, 1.2 + 0.9 * len(results))
    ax = figure.add_subplot()
    names = list(dict.fromkeys(name for each in results.values() for name in each["median"]))
    left = dict.fromkeys(results, 0.0)
    for index, name in enumerate(names):
        widths = [each["median"].get(name, 0.0) for each in results.values()]
        bars = ax.barh(list(results), widths, left=list(left.values()), label=name, color=f"C{index}")
        ax.bar_label(bars, [f"{width:.0f}" if width >= 1 else "" for width in widths], label_type="center")
        left = {key: start + width for (key, start), width in zip(left.items(), widths, strict=True)}
    for key, total in left.items():
        ax.text(total, key, f"  {total:.0f} s", va="center")
    ax.set(xlabel="seconds from `dvc repro` to its end", xlim=(0, 1.1 * max(left.values())))
    ax.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=5, fontsize=9, frameon=False)
    return figure


def main(revisions: list[str]) -> None:
    """Measure, print, write."""
    with TemporaryDirectory(prefix="answer-") as folder:
        commits = [commit_of(revision)[:7] for revision in revisions or ("HEAD",)]
        projects = {commit: clone(commit, Path(folder)) for commit in commits}
        rounds: dict[str, list[dict[str, float]]] = {revision: [] for revision in projects}
        back = {}
        for rate in RATES:
            for revision, project in projects.items():
                set_rate(project, rate)
                rounds[revision].append(timed_repro(project))
                print(f"{revision}: {sum(rounds[revision][-1].values()):.1f} s", flush=True)
        for revision, project in projects.items():
            set_rate(project, RATES[0])
            back[revision] = sum(timed_repro(project).values())
            print(f"{revision}: {back[revision]:.1f} s for a value that was run before", flush=True)
    results = {}
    for revision, each in rounds.items():
        totals = [sum(spent.values()) for spent in each]
        median = each[totals.index(statistics.median(totals))]
        results[revision] = {"seconds": totals, "median": median, "back_s": back[revision]}
    write_text(HERE / "results/answer.json", json.dumps({"machine": machine(), "revisions": results}, indent=2) + "\n")
    style.save(HERE / "results/answer.png", draw(results))


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
