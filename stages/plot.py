"""Draw all models side by side, the selected model's errors, the audit's images, and how the models break."""

import csv
from collections.abc import Mapping, Sequence

import numpy as np

from mnistflow.core import cli, files, params
from mnistflow.data import arrays
from mnistflow.evaluation import audit, occlusion, predictions, robustness
from mnistflow.figures import results, style
from mnistflow.figures.robustness import sheet
from mnistflow.training import history
from mnistflow.training.history import Epoch

AUDIT = files.METRICS / "audit.json"
VALIDATION = arrays.DATA / "validation"


def main() -> None:
    settings = params.load()
    names, selected = settings.model_names(), settings.evaluate.model
    histories = {name: history.read(files.MODELS / name / "history.csv") for name in names}
    evaluations = predictions.read_all(names)
    classes = evaluations[selected].classes
    evidence = occlusion.read(files.EVALUATION / selected)
    matrices = {name: np.array(each.report["confusion_matrix"]) for name, each in evaluations.items()}
    images, labels = arrays.load(VALIDATION)
    example = np.asarray(images[int((labels == settings.explain.label).argmax())])  # the lesson's image
    figures = {
        "loss.png": results.loss_sheet(histories),
        "confusion.png": results.confusion(matrices, classes),
        "errors.png": results.errors(selected, evaluations[selected]),
        "audit.png": results.audit_sheet(files.read_json(AUDIT), audit.pixels(evaluations), classes),
        "occlusion.png": results.occlusion_sheet(selected, evaluations[selected], evidence),
        "robustness.png": sheet(example, robustness.read_all(names)),
    }
    for file, figure in figures.items():
        style.save(files.PLOTS / file, figure)
    write_losses(histories)
    print(f"{files.PLOTS}: loss.csv, {', '.join(figures)}")


def write_losses(histories: Mapping[str, Sequence[Epoch]]) -> None:
    """Write the losses of all models as one table, for `dvc plots`."""
    with (files.PLOTS / "loss.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("model", "images", "epoch", "loss"))
        for name, rows in histories.items():
            table.writerows((name, "validation", row.epoch, row.val_loss) for row in rows)
            table.writerows((name, "training", row.epoch, row.loss) for row in rows)


if __name__ == "__main__":
    cli.run(main)
