"""Train one network, keep its best checkpoint, and record the training in MLflow."""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mnistflow import cli, figures, history, models, params, record, splits, training
from mnistflow.history import Epoch
from mnistflow.params import ModelParams
from mnistflow.splits import Split
from mnistflow.workspace import finish, unfinished, write_json, write_text


def main(name: str, training_set: Path, validation_set: Path, output: Path) -> None:
    settings = params.load()
    chosen = settings.models[name]
    train, validation = splits.load(training_set), splits.load(validation_set)
    details: dict[str, Any] = {
        "model": name,
        "settings": chosen.model_dump(exclude_none=True),
        "dataset": settings.fetch.dataset,
        "validation": settings.split.validation,
        "selected_on": "test" if settings.split.validation == "test" else "validation",
        "training_images": len(train.labels),
        "training_sha256": splits.sha256(training_set),
    }
    data = (details["training_sha256"], splits.sha256(validation_set))
    with unfinished(f"{name}-{training.fingerprint(name, chosen, *data)}") as folder:
        try:
            with record.training(folder / "journal.json", details) as recorder:
                model, progress = fit(name, chosen, train, validation, folder / "state.npz", recorder.epochs)
                best = history.best(progress.history)
                print(f"{name}: kept epoch {best.epoch}, the lowest loss on the {details['selected_on']} images")
                details |= {"epochs": len(progress.history), "best_epoch": best.epoch}
                details["parameters"] = model.count_params()
                models.save(output / "model.keras", model)
                history.write(output / "history.csv", progress.history)
                write_text(output / "summary.txt", models.summary(model))
                write_json(output / "training.json", details)
                figures.save(output / "loss.png", figures.loss_curve(progress.history))
                recorder.outputs(output, validation, progress.seconds)
        except training.Diverged:
            shutil.rmtree(folder)  # it would diverge again
            raise
        finish(folder, output / "model.keras")


def fit(
    name: str,
    chosen: ModelParams,
    train: Split,
    validation: Split,
    state: Path,
    log: Callable[[Sequence[Epoch], float], None],
) -> tuple[Any, training.Progress]:
    """Train with a line per epoch on the screen, and log the epochs while it goes on."""
    steps = -(-len(train.labels) // chosen.batch_size)
    print(f"{name}: {len(train.labels):,} images, {chosen.epochs} epochs at most, {steps} steps each; loss (accuracy):")
    with tqdm(total=steps, unit="step", leave=False, disable=not sys.stderr.isatty()) as bar:

        def on_step(done: int) -> None:
            bar.update(done - bar.n)

        def on_epoch(rows: Sequence[Epoch], seconds: float) -> None:
            bar.clear()
            print(describe(rows, seconds), flush=True)
            bar.reset()
            log(rows, seconds)

        return training.train(name, chosen, train, validation, state, on_step, on_epoch)


def describe(rows: Sequence[Epoch], seconds: float) -> str:
    """The last epoch in a line, which fits a terminal of 80 columns."""
    row = rows[-1]
    mark = "  best" if history.best(rows) is row else ""
    return (
        f"epoch {row.epoch:2}  loss {row.loss:.4f} ({row.accuracy:.2%})  "
        f"validation loss {row.val_loss:.4f} ({row.val_accuracy:.2%})  {seconds:5.1f} s{mark}"
    )


if __name__ == "__main__":
    cli.run(main)
