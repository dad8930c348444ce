"""How much of an accuracy is luck: `make seeds MODEL=compact N=10`, or `python bench/seeds.py MODEL N [--set ...]`.

Trains MODEL from seeds 1 to N on Ray, with the settings of params.yaml or those given, and then measures each once on
the test set. Writes bench/results/seeds-NAME.csv and draws all studies into seeds.png. Settings were chosen before, on
validation images; this only reports. Times are not among its figures: what runs side by side shares its processors.
"""

import argparse
import csv
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from ruamel.yaml import YAML
from run import HERE, machine, write_csv
from scipy import stats

from mnistflow import cli, figures, params, splits, training
from mnistflow.sweep import engine, plans, trial
from mnistflow.sweep.board import Board
from mnistflow.sweep.space import Resources
from mnistflow.sweep.trial import OVER, Plan, Trial
from mnistflow.workspace import WorkflowError

RESULTS = HERE / "results"
COLUMNS = ("seed", "accuracy", "epochs")


def train(plan: Plan, seeds: int, resources: Resources, address: str) -> list[Trial]:
    """Train from each seed; the test set stays closed.

    Raises:
        WorkflowError: a training did not come to its end, and why.
    """
    known = {one.number: one for one in trial.read(plan.folder)}
    trials = [known.get(seed, Trial(seed, {"seed": seed})) for seed in range(1, seeds + 1)]
    todo = sum(one.status not in OVER for one in trials)
    if todo:
        screen = Board(plan, trials, seeds)
        search = engine.Search(plan, trials, None, dict)
        watch = engine.Watch(plan, trials, screen, lambda one: plans.settle(plan, [one]))
        engine.run(plan, search, watch, todo, resources, retries=2, address=address or None)
        screen.draw(last=True)
    plans.close(plan, trials, seeds)
    if any(one.status != "finished" for one in trials):
        raise WorkflowError("not all trainings came to their end:\n       " + "\n       ".join(plans.events(trials)))
    return trials


def measure(plan: Plan, trials: list[Trial]) -> list[dict[str, float]]:
    """What each training's kept epoch makes of the test set, which is opened here, when all trainings are over."""
    sets = [splits.load(plan.arrays / part) for part in ("training", "validation")]
    test = splits.load(plan.arrays / "test")
    rows = []
    for one in trials:
        settings = plan.settings(one.settings)
        state = plan.state(one.number, settings.seed)
        # It is over: nothing is trained, the state gives its model.
        model, progress = training.train(
            plan.details["model"], settings, *sets, state, lambda done: None, lambda rows, seconds: None
        )
        predictions = model.predict(test.images, batch_size=1000, verbose=0).argmax(axis=1)
        accuracy = float((predictions == test.labels).mean())
        rows.append({"seed": settings.seed, "accuracy": accuracy, "epochs": len(progress.history)})
    return rows


def summary(rows: list[dict[str, float]]) -> str:
    """The accuracy's mean and deviation, the mean's 95% interval (Student's t), the lowest: a row for README."""
    accuracies = np.array([row["accuracy"] for row in rows])
    mean, deviation = accuracies.mean(), accuracies.std(ddof=1)
    low, high = stats.t.interval(0.95, len(rows) - 1, mean, deviation / np.sqrt(len(rows)))
    return (
        f"| {len(rows)} | {mean:.2%} | {100 * deviation:.2f} | {100 * low:.2f} to {high:.2%} | {accuracies.min():.2%} |"
    )


def read(path: Path) -> list[dict[str, float]]:
    """The rows of a study."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def draw(studies: dict[str, list[dict[str, float]]], title: str) -> Figure:
    """A dot per seed, a line at each mean."""
    figure = Figure(figsize=(7, 0.9 * len(studies) + 1.2), layout="constrained")
    ax = figure.add_subplot()
    for place, rows in enumerate(studies.values()):
        accuracies = [100 * row["accuracy"] for row in rows]
        ax.plot(accuracies, [place] * len(rows), "o", alpha=0.5)
        ax.plot([np.mean(accuracies)] * 2, [place - 0.25, place + 0.25], "k-")
        ax.annotate(f"{np.mean(accuracies):.2f}", (float(np.mean(accuracies)), place + 0.28), ha="center", size=8)
    ax.axvline(99.28, color="grey", linestyle=":", label="the book's 99.28")
    ax.set_yticks(range(len(studies)), studies)
    ax.set(xlabel="test accuracy in %, a dot per seed", ylim=(-0.5, len(studies) - 0.3))
    ax.set_title(title, size=9)
    ax.legend(loc="lower left", fontsize=8)
    ax.grid(axis="x", alpha=0.4)
    return figure


def main(model: str, count: int, name: str, changes: str, cpus: int, address: str) -> None:
    """Train, measure, write, print."""
    settings = params.load()
    if model not in settings.models or count < 2:
        raise WorkflowError(f"{count} seeds of {model}: two or more of {', '.join(settings.models)} are expected.")
    values = settings.model_dump()
    for key, _, text in (change.partition("=") for change in changes.split()):
        values["models"][model][key] = YAML(typ="safe").load(text)
    mine = params.parse(values, "--set").models[model]
    name = name or (model if settings.fetch.dataset == "mnist" else f"{settings.fetch.dataset}-{model}")
    title = f"seed study of {name}"
    with plans.begun(title, model, settings, mine, Path("data/arrays"), "val_accuracy", 1, "seeds") as plan:
        trials = train(plan, count, Resources(cpus=cpus), address)
        rows = measure(plan, trials)
        write_csv(RESULTS / f"seeds-{name}.csv", COLUMNS, rows)
        studies = {path.stem.removeprefix("seeds-"): read(path) for path in sorted(RESULTS.glob("seeds-*.csv"))}
        about = machine()
        figures.save(RESULTS / "seeds.png", draw(studies, f"{about['processor']}, {about['cores']} cores"))
        accuracy = float(np.mean([row["accuracy"] for row in rows]))
        said = f"{model} from seeds 1 to {count}: {accuracy:.3%} of the test images right in the mean."
        plans.end(plan, "FINISHED", said, {"mean_test_accuracy": accuracy}, [RESULTS / f"seeds-{name}.csv"])
        shutil.rmtree(plan.folder)
    for event in plans.events(trials):
        print(event)
    print("| what | seeds | mean | deviation | mean's 95% interval | lowest |")
    for study, each in studies.items():
        print(f"| {study} {summary(each)}")
    print(f"{RESULTS}/seeds-{name}.csv, {RESULTS}/seeds.png; in MLflow, the run `{title}`")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("count", type=int)
    parser.add_argument("--name", default="", help="of the study; else the model's, and the data set's if not mnist")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="instead of what params.yaml says")
    # As many threads as a training has that is alone: with fewer, its last bits may differ.
    parser.add_argument("--cpus", default=str(os.cpu_count()), help="cores a training; all of a machine's unless given")
    parser.add_argument("--address", default="", help="a Ray cluster to join, HOST:PORT; without one, this machine")
    given = parser.parse_args()
    words = (given.model, str(given.count), given.name, " ".join(given.set), given.cpus, given.address)
    sys.argv[1:] = words
    cli.run(main)
