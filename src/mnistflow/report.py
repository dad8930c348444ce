"""Everything on one page: `python -m mnistflow.report MODELS EVALUATION METRICS INSIDE PAGE`.

The page is made from DVC's outputs, params.yaml, dvc.lock and the Git commit, and from nothing else. It needs no
network and runs no script. DVC does not track it, because it names the commit; it is put on the MLflow runs of its
models.
"""

import base64
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator
from ruamel.yaml import YAML

from mnistflow import audit, cli, evaluation, history, params, store, tracking
from mnistflow.datasets import DATASETS, Images
from mnistflow.evaluation import Evaluated
from mnistflow.history import Epoch
from mnistflow.workspace import WorkflowError, md5, read_json, without_password, write_text

MOST = 120  # errors of a model
LOCK = Path("dvc.lock")
PACKAGES = ("tensorflow-cpu", "tensorflow", "jax", "keras", "numpy", "scikit-learn", "matplotlib", "dvc", "mlflow")


class Point(NamedTuple):
    """A dot of a chart: where, how large in pixels, and what it says when it is pointed at."""

    x: float
    y: float
    radius: float
    words: str


@dataclass(frozen=True)
class Chart:
    """What the template draws as SVG, and where it falls in a picture of 360 x 240 pixels."""

    words: str  # for those who can't see it
    across: tuple[float, float]  # from, to
    up: tuple[float, float]
    labels: tuple[str, str]  # of the axes
    lines: Mapping[str, Sequence[Point]]  # by the line's class in the style sheet

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return round(46 + 300 * (value - self.across[0]) / (self.across[1] - self.across[0]), 1)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return round(200 - 188 * (value - self.up[0]) / (self.up[1] - self.up[0]), 1)

    def ticks(self, bounds: tuple[float, float], *, whole: bool = False) -> list[float]:
        """Round values within bounds."""
        values = MaxNLocator(6, integer=whole, steps=[1, 2, 5, 10]).tick_values(*bounds)
        return [float(value) for value in values if bounds[0] <= value <= bounds[1]]


def loss_chart(name: str, rows: Sequence[Epoch], top: float) -> Chart:
    """Loss by epoch, as in the book: validation red, training blue, a dot per epoch; losses from 0 to `top`."""
    lines = {
        word: [
            Point(row.epoch, getattr(row, key), 2.5, f"epoch {row.epoch}: {word} loss {getattr(row, key):.4f}")
            for row in rows
        ]
        for word, key in (("validation", "val_loss"), ("training", "loss"))
    }
    best = history.best(rows)
    words = f"Loss of {name} by epoch; the lowest validation loss, {best.val_loss:.4f}, is that of epoch {best.epoch}."
    return Chart(words, (0.5, rows[-1].epoch + 0.5), (0, top), ("epoch", "loss"), lines)


def calibration_chart(name: str, rows: Sequence[dict[str, float]]) -> Chart:
    """How often a model is right by how sure it is: on the diagonal, if it is as right as it is sure."""
    images = sum(row["images"] for row in rows)
    dots = [
        Point(
            row["confidence"],
            row["accuracy"],
            3 + 9 * (row["images"] / images) ** 0.5,
            f"{row['images']:,.0f} images: {row['confidence']:.1%} sure, {row['accuracy']:.1%} right",
        )
        for row in rows
    ]
    words = f"Accuracy of {name} by its confidence; the dashed diagonal is perfect calibration."
    ideal = [Point(0, 0, 0, ""), Point(1, 1, 0, "")]
    return Chart(words, (0, 1), (0, 1.03), ("confidence", "accuracy"), {"ideal": ideal, "right": dots})


def picture(image: Images) -> str:
    """A (28, 28) image, ink on white, as an address that holds it."""
    held = BytesIO()
    imsave(held, image, cmap="gray_r", vmin=0, vmax=255, format="png", metadata={"Software": ""})
    return _address(held.getvalue())


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def surest_errors(said: Evaluated) -> list[dict[str, Any]]:
    """The first MOST errors of a model, the surest first, each with its picture and words."""
    wrong = said.wrong
    order = sorted(range(len(wrong)), key=lambda place: -said.confidence[wrong[place]])
    return [
        {
            "index": int(wrong[place]),
            "picture": picture(said.wrong_images[place]),
            "label": said.classes[said.labels[wrong[place]]],
            "lines": [f"said {said.classes[said.predictions[wrong[place]]]}, {said.confidence[wrong[place]]:.0%} sure"],
        }
        for place in order[:MOST]
    ]


def audited(found: dict[str, Any], said: dict[str, Evaluated]) -> dict[str, list[dict[str, Any]]]:
    """The audit's images that evaluation kept, in two parts: disputed, and shared by all models but not disputed."""
    images, classes = audit.pixels(said), next(iter(said.values())).classes
    disputed = [row for row in found["disputed"] if row["index"] in images]
    listed = {row["index"] for row in disputed}
    shared = [row for row in found["wrong_by_all"] if row["index"] not in listed]
    return {
        part: [
            {
                "index": row["index"],
                "picture": picture(images[row["index"]]),
                "label": classes[row["label"]],
                "lines": [*([audit.people(row, classes)] if part == "disputed" else []), audit.models(row, classes)],
            }
            for row in rows[:MOST]
        ]
        for part, rows in (("disputed", disputed), ("shared", shared))
    }


def _errors_in(matrix: list[list[int]]) -> list[int]:
    """The counts of a confusion matrix that lie off its diagonal."""
    return [count for row, line in enumerate(matrix) for column, count in enumerate(line) if row != column]


def commit() -> tuple[str, bool] | None:
    """The Git commit that is checked out, and whether tracked files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.removesuffix("-dirty"), said.endswith("-dirty")


def tracked_hashes() -> dict[str, str]:
    """The MD5 of each data set and model in dvc.lock, by path.

    Raises:
        WorkflowError: there is no dvc.lock.
    """
    if not LOCK.is_file():
        raise WorkflowError(f"{LOCK} is missing; `dvc repro` makes it.")
    stages = YAML(typ="safe").load(LOCK)["stages"]
    outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}
    return {path: md5 for path, md5 in outs.items() if path.startswith(("data/raw", "data/arrays")) or ".keras" in path}


def render(trained: Path, evaluated: Path, metrics: Path, inside: Path) -> str:
    """The page as HTML; the same outputs, params and commit give the same text.

    Raises:
        WorkflowError: an output is missing or damaged.
    """
    settings, tracked = params.load(), tracked_hashes()
    dataset = settings.fetch.dataset
    names = list(settings.models)
    said = {name: evaluation.read(evaluated / name) for name in names}
    histories = {name: history.read(trained / name / "history.csv") for name in names}
    reports = {name: read_json(evaluated / name / "report.json") for name in names}
    found = read_json(metrics / "audit.json")
    comparison = read_json(metrics / "comparison.json")
    top = 1.05 * max(max(row.loss, row.val_loss) for rows in histories.values() for row in rows)
    keys = dict.fromkeys(key for name in names for key in settings.models[name].model_dump(exclude_none=True))
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(Path(__file__).parent),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"percent": "{:.2%}".format, "count": "{:,.0f}".format}
    return environment.get_template("report.html.jinja").render(
        names=names,
        selected=settings.evaluate.model,
        settings=settings,
        sources=[without_password(source) for source in settings.fetch.sources.get(dataset, [])],
        keys=list(keys),
        classes=said[names[0]].classes,
        metrics={name: read_json(metrics / f"{name}.json") for name in names},
        training={name: read_json(trained / name / "training.json") for name in names},
        pairs={key: value for key, value in comparison.items() if "_vs_" in key},
        target=comparison["target_accuracy"],
        met=comparison["target_met"],
        reports=reports,
        worst={name: max(_errors_in(reports[name]["confusion_matrix"])) for name in names},
        losses={name: loss_chart(name, histories[name], top) for name in names},
        calibrations={name: calibration_chart(name, reports[name]["calibration"]) for name in names},
        errors={name: surest_errors(said[name]) for name in names},
        audit=found,
        audited=audited(found, said),
        inside=[
            {**each, "address": _address((inside / each["file"]).read_bytes())}
            for each in read_json(inside / "captions.json")
        ],
        commit=commit(),
        locks={name: md5(Path(name)) for name in ("dvc.lock", "requirements.lock")},
        tracked=tracked,
        published=DATASETS[dataset].sha256,
        versions=[f"python=={platform.python_version()}", *tracking.installed(*PACKAGES)],
    )


def main(trained: Path, evaluated: Path, metrics: Path, inside: Path, page: Path) -> None:
    """Write the page, and put it on the runs of the models that it is about."""
    write_text(page, render(trained, evaluated, metrics, inside))
    print(f"{page}: open it in a browser")
    store.connect()
    for folder in sorted(path.parent for path in trained.glob("*/model.keras")):
        tracking.attach(page, md5(folder / "model.keras"))


if __name__ == "__main__":
    cli.run(main)
