"""How much of an accuracy is luck: `python bench/seeds.py MODEL N [--name NAME] [--set KEY=VALUE ...]`.

Trains MODEL from seeds 1 to N, each in a process of its own, with the settings of params.yaml or those given, and
measures each once on the test set. Writes bench/results/seeds-NAME.csv and draws all studies into seeds.png.
Settings are chosen on validation images before; this only reports.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from run import HERE, machine, measure, write_csv
from scipy import stats

from mnistflow import figures

RESULTS = HERE / "results"
COLUMNS = ("seed", "accuracy", "epochs", "process_s", "peak_rss_mib")


def summary(rows: list[dict[str, float]]) -> str:
    """Mean and deviation of the accuracy, the mean's 95% interval (Student's t), and the median time."""
    accuracies = np.array([row["accuracy"] for row in rows])
    mean, deviation = accuracies.mean(), accuracies.std(ddof=1)
    low, high = stats.t.interval(0.95, len(rows) - 1, mean, deviation / np.sqrt(len(rows)))
    seconds = np.median([row["process_s"] for row in rows])
    return (
        f"{len(rows)} seeds: {mean:.3%} ± {deviation:.3%} (mean's 95% interval {low:.3%} to {high:.3%}), "
        f"lowest {accuracies.min():.2%}, {seconds:.0f} s a process"
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


def main() -> None:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("count", type=int)
    parser.add_argument("--name", help="of the study; the model's unless given")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="instead of what params.yaml says")
    arguments = parser.parse_args()
    name = arguments.name or arguments.model
    rows = []
    for seed in range(1, arguments.count + 1):
        row = {"seed": seed, **measure(arguments.model, "--set", f"seed={seed}", *arguments.set)}
        print(f"seed {seed}: {row['accuracy']:.2%}, {row['process_s']:.0f} s", file=sys.stderr, flush=True)
        rows.append(row)
    write_csv(RESULTS / f"seeds-{name}.csv", COLUMNS, rows)
    studies = {path.stem.removeprefix("seeds-"): read(path) for path in sorted(RESULTS.glob("seeds-*.csv"))}
    about = machine()
    figures.save(RESULTS / "seeds.png", draw(studies, f"{about['processor']}, {about['cores']} cores"))
    print(f"{name}, {summary(rows)}")
    print(f"{RESULTS}/seeds-{name}.csv, {RESULTS}/seeds.png")


if __name__ == "__main__":
    main()
