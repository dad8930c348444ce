"""Draw accuracy against training time and against parameters: `python bench/frontier.py`.

Our points come from bench/results/seeds-*.csv, where each file is a study of one recipe and its name begins with the
network's. The points of others are in published.csv, with their protocols. The times of ours, and of the book's script,
are those of a whole process in full.json. Writes bench/results/frontier.png.
"""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from run import HERE, medians

from mnistflow.core import cli
from mnistflow.core.files import read_json
from mnistflow.figures import style

RESULTS = HERE / "results"
KINDS = {  # color, marker, its fill, what it means
    "ours": ("C0", "o", "C0", "ours: validation images chose"),
    "others": ("0.45", "s", "0.45", "others: the last epoch"),
    "chosen": ("0.45", "s", "white", "others: test images chose"),
}
TICKS = (98, 98.5, 99, 99.25, 99.5, 99.7, 99.8)


@dataclass(frozen=True)
class Result:
    """A recipe: the mean and the standard deviation of its accuracy in percent, and its costs where they are known."""

    name: str
    accuracy: float
    deviation: float
    runs: int
    parameters: float
    seconds: float
    kind: str  # of KINDS


def published(seconds: Mapping[str, float]) -> list[Result]:
    """What others report; `seconds` as `measured_seconds` gives them."""
    with (RESULTS / "published.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Result(
            row["name"],
            float(row["accuracy"]),
            float(row["deviation"] or 0),
            int(row["runs"]),
            float(row["parameters"] or math.nan),
            seconds["book-cnn"] if row["name"] == "the book" else float(row["seconds"] or math.nan),
            "chosen" if row["chosen_on_test"] == "yes" else "others",
        )
        for row in rows
    ]


def measured_seconds() -> dict[str, float]:
    """The median time of a whole process by case, from full.json."""
    return {case: medians(runs)["process_s"] for case, runs in read_json(RESULTS / "full.json")["cases"].items()}


def ours(seconds: Mapping[str, float]) -> list[Result]:
    """Our seed studies; `seconds` as `measured_seconds` gives them."""
    from mnistflow.search import seeds
    from mnistflow.training.backend import network

    results = []
    for path in sorted(RESULTS.glob("seeds-*.csv")):
        name = path.stem.removeprefix("seeds-")
        accuracies = [100 * row["accuracy"] for row in seeds.read(path)]
        parameters = network(name.split("-")[0]).build((28, 28), 10).count_params()
        mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
        cost = seconds.get(name, math.nan)
        results.append(Result(name, mean, deviation, len(accuracies), parameters, cost, "ours"))
    return results


def panel(ax: Axes, results: Sequence[Result], cost: str, label: str) -> None:
    """A dot for each result whose cost is known, with a bar of one standard deviation each way."""
    known = [result for result in results if not math.isnan(getattr(result, cost))]
    for result in known:
        x, error = getattr(result, cost), 100 - result.accuracy
        color, marker, fill, _ = KINDS[result.kind]
        bar = result.deviation or None
        ax.errorbar(x, error, yerr=bar, fmt=marker, color=color, markerfacecolor=fill, capsize=3)
        runs = f" ({result.runs})" if result.runs > 1 else ""
        side, offset = ("right", -7) if is_label_left(result, known, cost) else ("left", 7)
        text = f"{result.name}{runs}"
        at = {"xytext": (offset, 0), "textcoords": "offset points", "ha": side, "va": "center"}
        ax.annotate(text, (x, error), size=10, color=color, **at)
    ax.set(xscale="log", yscale="log", xlabel=label, ylim=(2.2, 0.19))
    ax.yaxis.set_major_locator(FixedLocator([100 - tick for tick in TICKS]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 - error:g}%"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    ax.margins(x=0.4)
    ax.grid(alpha=0.4)


def is_label_left(result: Result, known: Sequence[Result], cost: str) -> bool:
    """Whether a name stands to the left of its point: away from the nearest point of about the same accuracy."""

    def distance(other: Result) -> float:
        return math.log(getattr(other, cost) / getattr(result, cost))

    others = [other for other in known if other is not result]
    near = [other for other in others if 0.9 < (100 - other.accuracy) / (100 - result.accuracy) < 1 / 0.9]
    nearest = min((distance(other) for other in near), key=abs, default=0.0)
    return nearest > 0 if nearest else result.kind == "ours"


def draw(results: Sequence[Result]) -> Figure:
    """Both panels."""
    figure = style.new_figure(13, 5.5)
    left, right = figure.subplots(1, 2, sharey=True)
    panel(left, results, "seconds", "seconds of training, log scale; ours with imports, on two cores")
    panel(right, results, "parameters", "parameters, log scale")
    left.set_ylabel("test accuracy (log scale of the error)")
    for color, marker, fill, label in KINDS.values():
        left.plot([], [], marker, color=color, markerfacecolor=fill, label=label)
    left.legend(loc="upper left")
    return figure


def main() -> None:
    """Draw the figure."""
    path = RESULTS / "frontier.png"
    seconds = measured_seconds()
    style.save(path, draw([*published(seconds), *ours(seconds)]))
    print(path)


if __name__ == "__main__":
    cli.run(main)
