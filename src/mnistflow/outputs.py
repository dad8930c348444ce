"""What is said of a training and what it leaves: its details, a line per epoch, its files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnistflow import figures, history, models, splits
from mnistflow.history import Epoch
from mnistflow.params import ModelParams
from mnistflow.training import Progress
from mnistflow.workspace import write_json, write_text


def details(name: str, chosen: ModelParams, dataset: str, validation: int | str, training_set: Path) -> dict[str, Any]:
    """What is known of a training before it begins, for MLflow and training.json.

    Args:
        name: the model.
        chosen: its settings.
        dataset: fetch.dataset of params.yaml.
        validation: split.validation of params.yaml.
        training_set: the folder of the images that it is trained on.
    """
    return {
        "model": name,
        "settings": chosen.model_dump(exclude_none=True),
        "dataset": dataset,
        "validation": validation,
        "selected_on": "test" if validation == "test" else "validation",
        "training_images": len(splits.load(training_set).labels),
        "training_sha256": splits.sha256(training_set),
    }


def line(rows: Sequence[Epoch], seconds: float) -> str:
    """The last epoch in a line, which fits a terminal of 80 columns."""
    row = rows[-1]
    mark = "  best" if history.best(rows) is row else ""
    return (
        f"epoch {row.epoch:2}  loss {row.loss:.4f} ({row.accuracy:.2%})  "
        f"validation loss {row.val_loss:.4f} ({row.val_accuracy:.2%})  {seconds:5.1f} s{mark}"
    )


def write(folder: Path, details: Mapping[str, Any], model: Any, progress: Progress) -> None:
    """Write a training's files: its kept checkpoint, history, loss curve, table of layers, and training.json."""
    best = history.best(progress.history)
    print(f"{details['model']}: kept epoch {best.epoch}, the lowest loss on the {details['selected_on']} images")
    known = {"epochs": len(progress.history), "best_epoch": best.epoch, "parameters": model.count_params()}
    models.save(folder / "model.keras", model)
    history.write(folder / "history.csv", progress.history)
    write_text(folder / "summary.txt", models.summary(model))
    write_json(folder / "training.json", {**details, **known})
    figures.save(folder / "loss.png", figures.loss_curve(progress.history))
