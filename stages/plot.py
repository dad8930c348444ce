"""Draw all models side by side, the selected model's errors, and the images that the audit is about."""

import csv
from collections.abc import Mapping, Sequence

import numpy as np

from mnistflow.core import cli, files, params
from mnistflow.evaluation import audit, predictions
from mnistflow.figures import results, style
from mnistflow.training import history
from mnistflow.training.history import Epoch

AUDIT = files.METRICS / "audit.json"


def main() -> None:
    settings = params.load()
    names, selected = settings.model_names(), settings.evaluate.model
    histories = {name: history.read(files.MODELS / name / "history.csv") for name in names}
    evaluations = predictions.read_all(names)
    classes = evaluations[selected].classes
    matrices = {name: np.array(each.report["confusion_matrix"]) for name, each in evaluations.items()}
    figures = {
        "loss.png": results.loss_sheet(histories),
        "confusion.png": results.confusion(matrices, classes),
        "errors.png": results.errors(selected, evaluations[selected]),
        "audit.png": results.audit_sheet(files.read_json(AUDIT), audit.pixels(evaluations), classes),
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
