"""One trial: a training from each seed, with early stopping, in a worker process on any machine."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import accumulate, count, takewhile

from mnistflow.data import arrays
from mnistflow.search import plans
from mnistflow.search.plans import SOURCE, Plan, Trial
from mnistflow.tracking import runs
from mnistflow.training import loop, state
from mnistflow.training.history import Epoch

STATE = "state.npz"


class Stopped(Exception):
    """Raised in a training to stop it early."""


@dataclass(frozen=True)
class ScoredEpoch(Epoch):
    """An epoch, with the losses and accuracies of the best epoch so far, by which trials are compared."""

    best_val_loss: float
    best_val_accuracy: float


def scored(rows: Sequence[Epoch]) -> list[ScoredEpoch]:
    """A history with the best epoch so far in each row."""
    bests: Iterator[Epoch] = accumulate(rows, lambda best, row: row if row.val_loss < best.val_loss else best)
    return [
        ScoredEpoch(**asdict(row), best_val_loss=best.val_loss, best_val_accuracy=best.val_accuracy)
        for row, best in zip(rows, bests, strict=True)
    ]


def train(plan: Plan, number: int) -> None:
    """Train a trial, and keep its file up to date."""
    os.chdir(plan.project)
    trial = plans.read(plan)[number - 1]
    trial.status, trial.failure = "running", None
    trial.write(plan)
    try:
        for index in range(plan.seeds):
            if trial.status == "running":
                _train_once(plan, trial, index)
        trial.status = "finished" if trial.status == "running" else trial.status
    except loop.Diverged as error:
        trial.status, trial.failure = "diverged", str(error)
        trial.values.append(plan.worst())
    trial.write(plan)


def _train_once(plan: Plan, trial: Trial, index: int) -> None:
    """Train a trial from one of its seeds, in an MLflow run of its own; resumes an interrupted attempt.

    Raises:
        Diverged: the loss is no longer a number.
    """
    settings = plan.settings.model_copy(update=trial.settings)
    settings = settings.model_copy(update={"seed": settings.seed + index})
    details = {**plan.details, "settings": settings.model_dump(exclude_none=True)}
    name = f"{plan.model} trial {trial.number}" + (f", seed {settings.seed}" if plan.seeds > 1 else "")
    changes = {**trial.settings, "seed": settings.seed}
    tags = {"mlflow.parentRunId": plan.parent, "trial": str(trial.number), "overrides": plan.options(changes)}
    training, validation = (arrays.load(arrays.DATA / part) for part in ("training", "validation"))
    before = trial.values[: index * settings.epochs]  # of the earlier seeds

    def update(rows: Sequence[ScoredEpoch]) -> None:
        done = before[-1] * index if before else 0.0
        values = (float(getattr(row, f"best_{plan.objective}")) for row in rows)
        trial.values = [*before, *((done + value) / (index + 1) for value in values)]

    def on_epoch(rows: Sequence[Epoch], seconds: float) -> None:
        update(scored(rows))
        trial.write(plan)
        run.log_epochs(scored(rows), seconds)
        if is_behind(plan, trial, plans.read(plan), settings.epochs * plan.seeds):
            trial.status = "stopped"
            raise Stopped

    with (
        state.folder(plan.training(trial.number, settings.seed)) as folder,
        runs.training(folder / runs.FILE, details, name, {**SOURCE, **tags}) as run,
        suppress(Stopped),  # for MLflow, the run is finished
    ):
        classes = len(arrays.describe().classes)
        _, progress = loop.train(plan.model, settings, training, validation, classes, folder / STATE, on_epoch)
        update(scored(progress.history))
        run.log_epochs(scored(progress.history), 0.0)  # epochs that a crash kept out of the record
        # After an end by `patience`, the last value is repeated for the missing epochs.
        trial.values += trial.values[-1:] * (len(before) + settings.epochs - len(trial.values))


def is_behind(plan: Plan, trial: Trial, trials: Sequence[Trial], epochs: int) -> bool:
    """Whether successive halving stops a trial after its last epoch.

    Rungs are at 1, r, r^2, ... times `halving.epochs` epochs (r is `halving.reduction`). At a rung below `epochs`, the
    trial's full length, it goes on if it is among the best 1/r, rounded up, of the trials that have reached the rung.
    """
    if plan.halving is None:
        return False
    first, reduction = plan.halving.epochs, plan.halving.reduction
    done = len(trial.values)
    if done not in takewhile(lambda rung: rung < epochs, (int(first * reduction**power) for power in count())):
        return False
    losses = sorted(plan.loss(other.values[done - 1]) for other in trials if len(other.values) >= done)
    return plan.loss(trial.values[-1]) > losses[math.ceil(len(losses) / reduction) - 1]
