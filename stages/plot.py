"""Draw all models side by side: loss curves, confusion matrices, and the images that the CNN got wrong."""

from pathlib import Path
from typing import get_args

from mnistflow import cli, evaluation, figures, history
from mnistflow.params import ModelName

MODELS = get_args(ModelName)


def main(trained: Path, evaluated: Path, plots: Path) -> None:
    figures.save(
        plots / "loss.png", figures.loss_sheet({name: history.read(trained / name / "history.csv") for name in MODELS})
    )
    said = {name: evaluation.read(evaluated / name) for name in MODELS}
    matrices = {name: evaluation.confusion_matrix(each.labels, each.predictions) for name, each in said.items()}
    figures.save(plots / "confusion.png", figures.confusion(matrices, said["cnn"].classes))
    figures.save(plots / "errors.png", figures.errors("cnn", said["cnn"]))
    print(f"{plots}/loss.png, {plots}/confusion.png, {plots}/errors.png")


if __name__ == "__main__":
    cli.run(main)
