"""Everything on one page: `python -m mnistflow.commands.report` writes report.html.

The page is made from DVC's outputs, params.yaml, datasets.yaml, dvc.lock and the Git commit, and from nothing else. It
needs no network and runs no script. DVC does not track it, because it names the commit; it is put on the MLflow runs of
its models.
"""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image
from ruamel.yaml import YAML

from mnistflow.commands import pages, repro
from mnistflow.commands.git import git
from mnistflow.core import cli, files, params
from mnistflow.core.errors import WorkflowError, without_password
from mnistflow.data import arrays, catalog
from mnistflow.data.arrays import Images, Labels
from mnistflow.data.catalog import Dataset
from mnistflow.evaluation import audit, occlusion, predictions, robustness
from mnistflow.evaluation.corruptions import FAMILIES
from mnistflow.evaluation.predictions import Predictions
from mnistflow.figures import heat, results
from mnistflow.training import history
from mnistflow.training.history import Epoch

PAGE = Path("report.html")
TEMPLATE = "report.html.jinja"
MOST = 120  # errors of a model
CLASSES = 50  # rows of a table of classes
CONFUSIONS = 25  # rows of a table of confusions
PIXELS = 128  # the longer side of an image on the page
PACKAGES = ("tensorflow-cpu", "tensorflow", "jax", "keras", "numpy", "scikit-learn", "matplotlib", "dvc", "mlflow")


class Point(NamedTuple):
    """A dot of a chart: its position, its radius in pixels, and its tooltip."""

    x: float
    y: float
    radius: float
    words: str


@dataclass(frozen=True)
class Chart:
    """What the template draws as SVG, and its scales in a picture of 360 x 240 pixels."""

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
    """Loss by epoch: validation red, training blue, a dot per epoch, a ring on the best; losses from 0 to `top`."""
    lines = {
        word: [
            Point(row.epoch, getattr(row, key), 2.5, f"epoch {row.epoch}: {word} loss {getattr(row, key):.4f}")
            for row in rows
        ]
        for word, key in (("validation", "val_loss"), ("training", "loss"))
    }
    best = history.best(rows)
    words = f"the lowest validation loss, {best.val_loss:.4f}, is that of epoch {best.epoch}"
    lines["best"] = [Point(best.epoch, best.val_loss, 6, words)]
    return Chart(f"Loss of {name} by epoch; {words}.", (0.5, rows[-1].epoch + 0.5), (0, top), ("epoch", "loss"), lines)


def calibration_chart(name: str, rows: Sequence[dict[str, float]]) -> Chart:
    """Accuracy by confidence, a dot per bin of confidence; on the diagonal, they are equal."""
    images = sum(row["images"] for row in rows)
    dots = [
        Point(
            row["confidence"],
            row["accuracy"],
            3 + 9 * (row["images"] / images) ** 0.5,
            f"{row['images']:,.0f} images: confidence {row['confidence']:.1%}, accuracy {row['accuracy']:.1%}",
        )
        for row in rows
    ]
    words = f"Accuracy of {name} by its confidence; the dashed diagonal is perfect calibration."
    ideal = [Point(0, 0, 0, ""), Point(1, 1, 0, "")]
    return Chart(words, (0, 1), (0, 1.03), ("confidence", "accuracy"), {"ideal": ideal, "bins": dots})


def picture(image: Images, most: int = PIXELS) -> str:
    """An image as a data URL: grey ones as ink on paper; large ones reduced to `most` pixels."""
    drawn = Image.fromarray(255 - image if image.ndim == 2 else np.ascontiguousarray(image))
    drawn.thumbnail((most, most))
    content = BytesIO()
    drawn.save(content, "PNG")
    return _data_url(content.getvalue())


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{pages.encode(png)}"


def most_confident_errors(evaluation: Predictions) -> list[dict[str, Any]]:
    """The first MOST errors of a model, the most confident first, each with its picture and words."""
    order = evaluation.most_confident_errors(MOST)
    return [
        {**error(evaluation, position), "picture": picture(evaluation.error_images[position])} for position in order
    ]


def occlusion_maps(name: str, evaluation: Predictions) -> list[dict[str, Any]]:
    """The most confident errors of a model, each beside what in it spoke for the prediction and for the label."""
    evidence = occlusion.read(files.EVALUATION / name)
    pairs = zip(evaluation.most_confident_errors(len(evidence)), evidence, strict=True)
    return [
        {
            **error(evaluation, position),
            "picture": picture(heat.beside(evaluation.error_images[position], each), 2 * PIXELS),
        }
        for position, each in pairs
    ]


def error(evaluation: Predictions, position: int) -> dict[str, Any]:
    """The words around a misclassified image."""
    index, classes = int(evaluation.errors[position]), evaluation.classes
    prediction = classes[evaluation.predictions[index]]
    return {
        "index": index,
        "label": classes[evaluation.labels[index]],
        "lines": [f"predicted {prediction}, {evaluation.confidence[index]:.0%}"],
    }


def audited_images(audited: dict[str, Any], evaluations: dict[str, Predictions]) -> dict[str, list[dict[str, Any]]]:
    """The audit's images in two parts: `disputed`, and `shared` by all models but not disputed; MOST of each.

    Evaluation keeps the pixels of errors alone, so disputed images without an error are missing.
    """
    images, classes = audit.pixels(evaluations), next(iter(evaluations.values())).classes
    disputed = [row for row in audited["disputed"] if row["index"] in images]
    listed = {row["index"] for row in disputed}
    shared = [row for row in audited["wrong_by_all"] if row["index"] not in listed]
    return {
        part: [
            {
                "index": row["index"],
                "picture": picture(images[row["index"]]),
                "label": classes[row["label"]],
                "lines": [
                    *([results.people_votes(row, classes)] if part == "disputed" else []),
                    results.model_predictions(row, classes),
                ],
            }
            for row in rows[:MOST]
        ]
        for part, rows in (("disputed", disputed), ("shared", shared))
    }


def weakest_classes(evaluation: Predictions) -> list[dict[str, float]]:
    """The rows of the per-class table; where there are more than CLASSES, those with the lowest F1."""
    rows: list[dict[str, float]] = evaluation.report["per_class"]
    return rows if len(rows) <= CLASSES else sorted(rows, key=lambda row: row["f1"])[:CLASSES]


def labels_by_part(test: Predictions) -> dict[str, Labels]:
    """The labels of the training, validation and test images."""
    parts = {part: arrays.load(arrays.DATA / part).labels for part in ("training", "validation")}
    return parts | {"test": test.labels}


def images_by_class(labels: Mapping[str, Labels], classes: Sequence[str]) -> list[dict[str, Any]]:
    """How many images of each class the parts have; where there are more than CLASSES, those with the fewest."""
    counts = {part: np.bincount(each, minlength=len(classes)) for part, each in labels.items()}
    rows: list[dict[str, Any]] = [
        {"class": name, **{part: int(count[label]) for part, count in counts.items()}}
        for label, name in enumerate(classes)
    ]
    return rows if len(rows) <= CLASSES else sorted(rows, key=lambda row: row["training"])[:CLASSES]


def smaller_and_better(
    metrics: Mapping[str, Mapping[str, Any]], selected: str, pairs: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The models that have at most half of the selected one's parameters, and more right answers.

    Returns:
        Rows with `model`, `times` fewer parameters, `more` right answers, and McNemar's `p`.
    """
    against = {pair["model"]: pair for pair in pairs if pair["baseline"] == selected}
    rows = []
    for name, values in metrics.items():
        times = metrics[selected]["parameters"] / values["parameters"]
        more = metrics[selected]["errors"] - values["errors"]
        if times >= 2 and more > 0 and name in against:
            rows.append({"model": name, "times": round(times), "more": more, "p": against[name]["mcnemar_p"]})
    return rows


def locked_outputs() -> dict[str, str]:
    """The MD5 of each output in dvc.lock, by path.

    Raises:
        WorkflowError: there is no dvc.lock.
    """
    if not files.LOCK.is_file():
        raise WorkflowError(f"{files.LOCK} is missing; `dvc repro` makes it.")
    stages = YAML(typ="safe").load(files.LOCK)["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def git_state(outputs: Iterable[str]) -> dict[str, Any] | None:
    """The Git commit that is checked out and what differs from it; None outside a repository.

    Returns:
        `commit`, its hash; `results`, whether dvc.lock or one of the `outputs` differs, as after a run on another kind
        of processor; `inputs`, the other files that differ: settings, code, documents.
    """
    try:
        head = git("rev-parse", "HEAD")
        # With --relative, the paths are those of this folder, which may be a part of a larger repository.
        changed = set(filter(None, git("diff", "--name-only", "--relative", "-z", "HEAD").split("\0")))
    except WorkflowError:
        return None
    made = changed & {str(files.LOCK), *outputs}
    return {"commit": head, "results": bool(made), "inputs": sorted(changed - made)}


def published_hashes(dataset: Dataset) -> dict[str, str]:
    """The published checksums of the data set's files, by name; those of files without one are in dvc.lock alone."""
    published = [*dataset.files.values(), *([dataset.archive] if dataset.archive else [])]
    md5s = {file.name: f"MD5 {file.md5}" for file in published if file.md5}
    return md5s | {file.name: f"SHA-256 {file.sha256}" for file in published if file.sha256}


def versions() -> list[str]:
    """Python and those of PACKAGES that are installed, each as NAME==VERSION."""
    installed = [f"python=={platform.python_version()}"]
    for package in PACKAGES:
        try:
            installed.append(f"{package}=={version(package)}")
        except PackageNotFoundError:
            continue
    return installed


def render() -> str:
    """The page as HTML; the same outputs, settings and commit give the same text.

    Raises:
        WorkflowError: an output is missing or damaged.
    """
    settings, outputs = params.load(), locked_outputs()
    names, dataset = settings.model_names(), catalog.load(settings.fetch.dataset)
    evaluations = predictions.read_all(names)
    classes = evaluations[names[0]].classes
    labels = labels_by_part(evaluations[names[0]])
    histories = {name: history.read(files.MODELS / name / "history.csv") for name in names}
    matrices = {name: np.array(each.report["confusion_matrix"]) for name, each in evaluations.items()}
    metrics = {name: each.metrics for name, each in evaluations.items()}
    comparison, audited = (files.read_json(files.METRICS / f"{name}.json") for name in ("comparison", "audit"))
    top = results.loss_limit(histories.values())
    data = {str(arrays.DATA / part) for part in arrays.PARTS} | {str(files.RAW)}
    models = {str(files.MODELS / name / "model.keras") for name in names}
    general = settings.model_dump(exclude={"models"})
    return pages.render(
        TEMPLATE,
        names=names,
        selected=settings.evaluate.model,
        explained=settings.explain.model,
        dataset=settings.fetch.dataset,
        classes=classes,
        grey=evaluations[names[0]].error_images.ndim == 3,
        models={name: settings.models[name].model_dump() for name in names},
        keys=list(
            dict.fromkeys(key for each in settings.models.values() for key in each.model_dump(exclude_none=True))
        ),
        general={f"{section}.{key}": value for section, keys in general.items() for key, value in keys.items()},
        sources=[without_password(source) for source in dataset.sources],
        published=published_hashes(dataset),
        metrics=metrics,
        training={name: files.read_json(files.MODELS / name / "training.json") for name in names},
        comparison=comparison,
        better=smaller_and_better(metrics, settings.evaluate.model, comparison["pairs"]),
        parts={part: len(each) for part, each in labels.items()},
        size=evaluations[names[0]].error_images.shape[1:3],
        counts=images_by_class(labels, classes),
        samples=_data_url((files.OVERVIEW / "samples.png").read_bytes()),
        summaries={name: (files.MODELS / name / "summary.txt").read_text(encoding="utf-8") for name in names},
        per_class={name: weakest_classes(each) for name, each in evaluations.items()},
        calibration={name: each.report["calibration"] for name, each in evaluations.items()},
        matrices={name: matrix.tolist() for name, matrix in matrices.items()} if len(classes) <= results.COUNTS else {},
        confusions={name: results.largest_confusions(matrix, CONFUSIONS) for name, matrix in matrices.items()},
        losses={name: loss_chart(name, histories[name], top) for name in names},
        calibrations={name: calibration_chart(name, each.report["calibration"]) for name, each in evaluations.items()},
        errors={name: most_confident_errors(each) for name, each in evaluations.items()},
        occlusions={name: occlusion_maps(name, each) for name, each in evaluations.items()},
        robustness=robustness.read_all(names),
        corruptions={name: family.settings() for name, family in FAMILIES.items()},
        breaking=_data_url((files.PLOTS / "robustness.png").read_bytes()),
        audit=audited,
        audited=audited_images(audited, evaluations),
        inside=[
            {**each, "address": _data_url((files.INSIDE / each["file"]).read_bytes())}
            for each in files.read_json(files.INSIDE / "captions.json")
        ],
        git=git_state(outputs),
        locks={name: files.md5(Path(name)) for name in ("dvc.lock", "requirements.lock")},
        tracked={path: md5 for path, md5 in outputs.items() if path in data | models},
        versions=versions(),
    )


def main() -> None:
    """Write the page, and put it on the runs of the models that it is about."""
    # Here, because MLflow takes seconds to import, in which Ctrl-C should end in one sentence too.
    from mnistflow.tracking import runs, store

    repro.check_up_to_date()
    repro.record()
    files.write_text(PAGE, render())
    print(f"{PAGE}: open it in a browser")
    store.connect()
    for name in params.load().models:
        runs.attach(PAGE, files.md5(files.MODELS / name / "model.keras"))


if __name__ == "__main__":
    cli.run(main)
