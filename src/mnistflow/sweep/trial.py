"""One trial of a search or a study: what is known of it, in a file, and its trainings, on whichever machine it runs.

A trial that was lost goes on after the last epoch of each of its trainings, as any training does, and in their own runs
in MLflow: state and journal lie in a folder that all machines see.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from mnistflow import history, journal, provenance, record, splits, tracking, training
from mnistflow.history import Epoch
from mnistflow.journal import Journal
from mnistflow.params import ModelParams
from mnistflow.training import Diverged
from mnistflow.workspace import read_json, write_json

OVER = ("finished", "stopped", "diverged")  # another attempt would come to the same
WORST = {"val_loss": math.log(10), "val_accuracy": 0.0}  # what a trial that diverged counts as: no better than guessing


@dataclass(frozen=True)
class Plan:
    """What all trials of a search or study share. Every machine sees its folders under these paths."""

    name: str  # a hash of all that its results depend on
    project: Path
    folder: Path  # for its state
    arrays: Path  # with the training and the validation images; nothing here opens a third set
    details: dict[str, Any]  # as in training.json, with the settings of params.yaml
    objective: str
    seeds: int  # trainings a trial
    parent: str  # the MLflow run to which those of its trainings belong

    @property
    def epochs(self) -> int:
        """How many epochs a trial with the settings of params.yaml has, those of all its seeds."""
        return int(self.details["settings"]["epochs"]) * self.seeds

    def settings(self, changes: Mapping[str, Any]) -> ModelParams:
        """The settings of a trial."""
        return ModelParams(**{**self.details["settings"], **changes})

    def state(self, number: int, seed: int) -> Path:
        """The file that the training of a trial from one of its seeds goes on from."""
        return self.folder / f"{number}-{seed}" / "state.npz"


@dataclass
class Trial:
    """What is known of a trial, written down whenever it changes: all that a search goes on from after a crash."""

    number: int  # from 1
    settings: dict[str, Any]  # in place of those of params.yaml
    status: str = "waiting"  # then running, then failed or one of OVER
    values: dict[str, float] = field(default_factory=dict)  # the objective by epoch
    lost: int = 0  # how often it had to go on elsewhere
    failure: str | None = None

    @property
    def value(self) -> float | None:
        """The objective, as far as it is known."""
        return self.values[max(self.values, key=int)] if self.values else None

    @property
    def epoch(self) -> int:
        """How many epochs it has behind it."""
        return max(map(int, self.values), default=0)

    def write(self, folder: Path) -> None:
        """Write it down, whole or not at all."""
        write_json(folder / f"trial-{self.number:05}.json", asdict(self))


def read(folder: Path) -> list[Trial]:
    """The trials that were written into a folder, by number."""
    return [Trial(**read_json(path)) for path in sorted(folder.glob("trial-*.json"))]


@dataclass(frozen=True)
class Scored(Epoch):
    """An epoch, and those figures of the best epoch so far by which trials are compared in MLflow."""

    best_val_loss: float
    best_val_accuracy: float


def run(plan: Plan, number: int, changes: Mapping[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
    """Train a trial, once from each seed, and report the objective's mean over the seeds so far after every epoch.

    The last report has `over`, and `failure` if a training diverged. `report` ends a trial early by raising SystemExit.
    """
    os.chdir(plan.project)
    base = plan.settings(changes)
    scores: list[float] = []
    for place in range(plan.seeds):

        def on_epoch(rows: Sequence[Epoch], place: int = place) -> None:
            epoch = place * base.epochs + rows[-1].epoch
            if epoch < plan.seeds * base.epochs:  # the last one is reported below
                report({"epoch": epoch, "value": mean([*scores, score(rows)])})

        def score(rows: Sequence[Epoch]) -> float:
            return float(getattr(history.best(rows), plan.objective))

        try:
            rows = _train(plan, number, base.model_copy(update={"seed": base.seed + place}), changes, on_epoch)
        except KeyboardInterrupt:
            raise SystemExit from None
        except Diverged as error:
            said = {"value": WORST[plan.objective], "failure": str(error)}
            break
        scores.append(score(rows))
        said = {"value": mean(scores)}
    report({"epoch": plan.seeds * base.epochs, **said, "over": True})


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return math.fsum(values) / len(values)


def _train(
    plan: Plan,
    number: int,
    settings: ModelParams,
    changes: Mapping[str, Any],
    on_epoch: Callable[[Sequence[Epoch]], None],
) -> list[Epoch]:
    """One training of a trial, in a run of its own in MLflow; returns its history."""
    model = plan.details["model"]
    train, validation = (splits.load(plan.arrays / part) for part in ("training", "validation"))
    state = plan.state(number, settings.seed)
    path = state.with_name(journal.JOURNAL)
    details = {**plan.details, "settings": settings.model_dump(exclude_none=True)}

    def log(rows: Sequence[Epoch], seconds: float) -> None:
        recorder.epochs([_scored(rows[: place + 1]) for place in range(len(rows))], seconds)
        on_epoch(rows)

    # A machine that was only cut off may still be at it.
    state.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(state.with_name("lock")):
        if not path.is_file():
            tags = provenance.tags(model) | {
                "mlflow.parentRunId": plan.parent,
                "mlflow.source.name": "src/mnistflow/sweep",
                "trial": str(number),
                "overrides": overrides(model, {**changes, "seed": settings.seed}),
            }
            attempt = f"{plan.name}-{number}-{settings.seed}"
            Journal(details, tracking.with_context(tags), attempt).write(path)
        with record.training(path, details) as recorder, _interrupting():
            _, progress = training.train(model, settings, train, validation, state, lambda done: None, log)
            return progress.history


@contextmanager
def _interrupting() -> Iterator[None]:
    """Tell the record of an interruption where Tune ends a trial: plans.py knows whether that was its end."""
    try:
        yield
    except SystemExit as end:
        raise KeyboardInterrupt from end


def _scored(rows: Sequence[Epoch]) -> Scored:
    best = history.best(rows)
    return Scored(**asdict(rows[-1]), best_val_loss=best.val_loss, best_val_accuracy=best.val_accuracy)


def overrides(model: str, changes: Mapping[str, Any]) -> str:
    """Settings as the options of `dvc exp run`."""
    return " ".join(f"-S models.{model}.{key}={value}" for key, value in changes.items())
