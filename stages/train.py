"""Train one network, keep its best checkpoint, and record the training in MLflow."""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mnistflow import cli, outputs, params, record, splits, training
from mnistflow.history import Epoch
from mnistflow.params import ModelParams
from mnistflow.splits import Split
from mnistflow.workspace import finish, unfinished


def main(name: str, training_set: Path, validation_set: Path, output: Path) -> None:
    settings = params.load()
    chosen = settings.models[name]
    train, validation = splits.load(training_set), splits.load(validation_set)
    details = outputs.details(name, chosen, settings.fetch.dataset, settings.split.validation, training_set)
    data = (details["training_sha256"], splits.sha256(validation_set))
    with unfinished(f"{name}-{training.fingerprint(name, chosen, *data)}") as folder:
        try:
            with record.training(folder / "journal.json", details) as recorder:
                model, progress = fit(name, chosen, train, validation, folder / "state.npz", recorder.epochs)
                outputs.write(output, details, model, progress)
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
            print(outputs.line(rows, seconds), flush=True)
            bar.reset()
            log(rows, seconds)

        return training.train(name, chosen, train, validation, state, on_step, on_epoch)


if __name__ == "__main__":
    cli.run(main)
