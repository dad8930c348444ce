"""The variance of the test accuracy over seeds: `python -m mnistflow.search.seeds MODEL N [--set KEY=VALUE ...]`.

Trains MODEL from the seeds 1 to N on Ray, with the settings of params.yaml and --set, and then evaluates each model
once on the test set, and the first two, three and so on together, by the mean of their probabilities. Nothing is chosen
by it. Writes bench/results/seeds-NAME.csv, and draws all studies in that folder into seeds.png. Times are not reported,
because concurrent trainings share the processors.
"""

import argparse
import csv
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from ruamel.yaml import YAML

from mnistflow.core import cli, params
from mnistflow.core.errors import WorkflowError
from mnistflow.core.params import ModelSettings
from mnistflow.data import arrays
from mnistflow.data.arrays import Labels
from mnistflow.figures import style
from mnistflow.search import plans, ray_cluster
from mnistflow.search.plans import Plan, Trial
from mnistflow.search.space import Resources
from mnistflow.search.trials import STATE
from mnistflow.tracking import provenance
from mnistflow.training import loop, state
from mnistflow.training.backend import probabilities

RESULTS = Path("bench/results")
BOOK = "mnist"  # the book's data set: its studies have no prefix
Row = dict[str, float]  # seed, accuracy, epochs


def main(model: str, count: int, name: str, changes: Sequence[str], cpus: int, address: str) -> None:
    """Train from each seed, evaluate, then write, record and print the results."""
    settings = params.load()
    if model not in settings.models or count < 2:
        raise WorkflowError(f"{count} seeds of {model}: two or more of {', '.join(settings.models)} are expected.")
    values = settings.models[model].model_dump(exclude_none=True)
    for key, _, text in (change.partition("=") for change in changes):
        values[key] = YAML(typ="safe", pure=True).load(text)
    chosen = params.parse(ModelSettings, values, "--set")
    dataset = settings.fetch.dataset
    name = name or (model if dataset == BOOK else f"{dataset}-{model}")
    path, figure = RESULTS / f"seeds-{name}.csv", RESULTS / "seeds.png"
    resources = params.parse(Resources, {"cpus": cpus}, "--cpus")
    with plans.begin("seed study", model, chosen, "val_accuracy") as plan:
        trials = ray_cluster.run(plan, count, lambda known: {"seed": len(known) + 1}, resources, address=address)
        trials = trials[:count]  # an interrupted study may have had more seeds
        if any(trial.status != "finished" for trial in trials):
            raise WorkflowError("\n       ".join(["not all trainings are finished:", *plans.failures(trials)]))
        results = [measure(plan, trial) for trial in trials]
        rows = [row for row, _ in results]
        labels = arrays.load(arrays.DATA / "test").labels
        sums = np.cumsum([predicted for _, predicted in results], axis=0)
        together = {number: accuracy(sums[number - 1], labels) for number in range(2, count + 1)}
        write(path, rows)
        studies = {file.stem.removeprefix("seeds-"): read(file) for file in sorted(RESULTS.glob("seeds-*.csv"))}
        style.save(figure, draw(studies, f"{provenance.processor()}, {os.cpu_count()} cores"))
        mean = float(np.mean([row["accuracy"] for row in rows]))
        text = f"{model} from the seeds 1 to {count}: a mean of {mean:.3%} of the test images right."
        metrics = {"mean_test_accuracy": mean, "averaged_test_accuracy": together[count]}
        plans.finish(plan, text, metrics, [path, figure])
    with state.folder(plan.name) as folder:
        shutil.rmtree(folder)  # without their models, the trials are of no further use
    print("| study | seeds | mean | deviation | 95% interval of the mean | lowest |")
    for study, study_rows in studies.items():
        print(f"| {study} {summary(study_rows)}")
    for number, value in together.items():
        print(f"the first {number} models together, by the mean of their probabilities: {value:.2%}")
    print(f"{path}, {figure}; in MLflow, the run `seed study of {model}`")


def measure(plan: Plan, trial: Trial) -> tuple[Row, npt.NDArray[np.float32]]:
    """A finished trial's row, and its model's probabilities (n, classes) for the test images."""
    settings = plan.settings.model_copy(update=trial.settings)
    training, validation, test = (arrays.load(arrays.DATA / part) for part in arrays.PARTS)
    classes = len(arrays.describe().classes)
    with state.folder(plan.training(trial.number, settings.seed)) as folder:
        # The training's state is complete, so this restores the model and trains nothing.
        model, progress = loop.train(
            plan.model, settings, training, validation, classes, folder / STATE, lambda rows, seconds: None
        )
    predicted = probabilities(model, test.images)
    row = {"seed": settings.seed, "accuracy": accuracy(predicted, test.labels), "epochs": len(progress.history)}
    return row, predicted


def accuracy(predicted: npt.NDArray[np.float32], labels: Labels) -> float:
    """The share of images whose label has the highest of the probabilities `predicted` (n, classes)."""
    return float((predicted.argmax(axis=1) == labels).mean())


def summary(rows: Sequence[Row]) -> str:
    """A table row: seeds, mean accuracy, standard deviation, 95% interval of the mean (Student's t), lowest."""
    from scipy import stats

    accuracies = np.array([row["accuracy"] for row in rows])
    mean, deviation = accuracies.mean(), accuracies.std(ddof=1)
    margin = stats.t.ppf(0.975, len(rows) - 1) * deviation / np.sqrt(len(rows))
    interval = f"{100 * (mean - margin):.2f} to {mean + margin:.2%}"
    return f"| {len(rows)} | {mean:.2%} | {100 * deviation:.2f} | {interval} | {accuracies.min():.2%} |"


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write a row per seed as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def read(path: Path) -> list[Row]:
    """The rows that `write` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def draw(studies: Mapping[str, Sequence[Row]], title: str) -> Figure:
    """A dot per seed, a line at each mean."""
    figure = style.new_figure(7, 0.9 * len(studies) + 1.2)
    ax = figure.add_subplot()
    for index, rows in enumerate(studies.values()):
        accuracies = [100 * row["accuracy"] for row in rows]
        mean = float(np.mean(accuracies))
        ax.plot(accuracies, [index] * len(rows), "o", alpha=0.5)
        ax.plot([mean] * 2, [index - 0.25, index + 0.25], "k-")
        ax.annotate(f"{mean:.2f}", (mean, index + 0.28), ha="center", size=8)
    ax.axvline(99.28, color="grey", linestyle=":", label="the book's 99.28")
    ax.set_yticks(range(len(studies)), list(studies))
    ax.set(xlabel="test accuracy in %, a dot per seed", ylim=(-0.5, len(studies) - 0.3))
    ax.set_title(title, size=9)
    ax.legend(loc="lower left", fontsize=8)
    ax.grid(axis="x", alpha=0.4)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m mnistflow.search.seeds", description=str(__doc__).splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("count", type=int)
    parser.add_argument("--name", default="", help="of the study; by default, the names of data set and model")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings that differ from params.yaml"
    )
    # By default, the threads of a training that runs alone: with fewer, the last bits of its results may differ.
    parser.add_argument("--cpus", type=int, default=os.cpu_count(), help="cores per training (all)")
    parser.add_argument("--address", default="", help="a Ray cluster to join, HOST:PORT; by default, this machine")
    options = parser.parse_args()
    cli.run(main, options.model, options.count, options.name, options.set, options.cpus, options.address)
