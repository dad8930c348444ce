"""A search or a seed study: its plan, its trials, its run in MLflow.

After a crash, it is resumed from files that all machines can read. In .cache/training, a plan has a folder with a file
per trial, and each training of a trial has a folder with its state, as the pipeline's trainings have.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mnistflow.core.files import read_json, write_text
from mnistflow.core.params import ModelSettings
from mnistflow.data import arrays
from mnistflow.search.space import Halving
from mnistflow.tracking import descriptions, runs, store
from mnistflow.tracking.store import TrackingError
from mnistflow.training import loop, state

OVER = ("finished", "stopped", "diverged")  # statuses of trials that are not tried again
SOURCE = {"mlflow.source.name": "src/mnistflow/search"}


@dataclass(frozen=True)
class Plan:
    """The settings that all trials of a search or a study share."""

    name: str  # with a hash of all that the results depend on
    project: Path  # the project's folder, under the same path on every machine
    folder: Path  # for the trials' files
    settings: ModelSettings  # the model's in params.yaml, some of which a trial replaces
    details: dict[str, Any]  # as in training.json
    objective: str  # val_loss or val_accuracy, of the best epoch
    seeds: int  # trainings per trial
    halving: Halving | None
    parent: str  # the ID of the plan's run in MLflow, the parent of the trainings' runs

    @property
    def model(self) -> str:
        """The name of the model."""
        return str(self.details["model"])

    def loss(self, value: float) -> float:
        """An objective as a loss: lower is better."""
        return value if self.objective == "val_loss" else -value

    def worst(self) -> float:
        """The objective of a diverged trial: that of random guessing."""
        return math.log(len(arrays.describe().classes)) if self.objective == "val_loss" else 0.0

    def training(self, number: int, seed: int) -> str:
        """The name of a trial's training from one seed, for `state.folder`."""
        return f"{self.name}-{number}-{seed}"

    def options(self, changes: Mapping[str, Any]) -> str:
        """Changed settings as options of `dvc exp run`; `++` also adds a setting that params.yaml leaves out."""
        prefix = {key: "++" if getattr(self.settings, key) is None else "" for key in changes}
        return " ".join(f"-S {prefix[key]}models.{self.model}.{key}={value}" for key, value in changes.items())

    def text(self, value: float) -> str:
        """An objective as text."""
        return f"{value:.4f}" if self.objective == "val_loss" else f"{value:.2%}"


@dataclass
class Trial:
    """The state of a trial. While it runs, its worker alone writes its file."""

    number: int  # from 1
    settings: dict[str, Any]  # those that differ from params.yaml
    status: str = "waiting"  # then running, then failed or one of OVER
    values: list[float] = field(default_factory=list)  # the objective after each epoch, a mean over the seeds so far
    interruptions: int = 0
    failure: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether it is not tried again."""
        return self.status in OVER

    def write(self, plan: Plan) -> None:
        """Write the trial's file."""
        write_text(plan.folder / f"trial-{self.number:05}.json", json.dumps(asdict(self)) + "\n")


def read(plan: Plan) -> list[Trial]:
    """All trials of a plan, by number."""
    return [Trial(**read_json(path)) for path in sorted(plan.folder.glob("trial-*.json"))]


def best(plan: Plan, trials: Sequence[Trial]) -> Trial | None:
    """The best finished trial, if there is one."""
    finished = (trial for trial in trials if trial.status == "finished")
    return min(finished, key=lambda trial: plan.loss(trial.values[-1]), default=None)


def failures(trials: Sequence[Trial]) -> list[str]:
    """A line for each trial that failed or diverged."""
    return [f"trial {trial.number} {trial.status}: {trial.failure}" for trial in trials if trial.failure]


@contextmanager
def begin(
    kind: str,
    model: str,
    settings: ModelSettings,
    objective: str,
    seeds: int = 1,
    halving: Halving | None = None,
    text: str = "",
) -> Iterator[Plan]:
    """The plan of a search or a study, locked by this process until the block ends, with its run in MLflow.

    Args:
        kind: `search` or `seed study`, for names.
        model: the model's name.
        settings: the model's in params.yaml.
        objective: val_loss or val_accuracy.
        seeds: trainings per trial.
        halving: early stopping of trials.
        text: whatever else the results depend on.

    Raises:
        TrackingError: the MLflow store can't be used, without which no search begins.
    """
    store.connect()
    hashes = [arrays.sha256(arrays.DATA / part) for part in ("training", "validation")]
    choices = (objective, str(seeds), repr(halving), text)
    name = loop.fingerprint(f"{kind.replace(' ', '-')}-{model}", settings, *hashes, *choices)
    dataset, training = arrays.describe(), arrays.load(arrays.DATA / "training")
    details = {"model": model, **loop.describe(settings, dataset, training, hashes[0])}
    title, tags = f"{kind} of {model}", {**SOURCE, "plan": name}
    with state.folder(name) as folder, runs.training(folder / runs.FILE, details, title, tags) as run:
        with store.session():
            condition = f"tags.`{runs.TRAINING_ID}` = '{run.record.id}'"
            (parent,) = store.client().search_runs([store.experiment_id()], condition)
        try:
            yield Plan(name, Path.cwd(), folder, settings, details, objective, seeds, halving, parent.info.run_id)
        finally:
            with suppress(TrackingError), store.session():
                runs.close_interrupted()  # of workers that were killed


def finish(plan: Plan, text: str, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
    """Delete the states of trials that are over, and complete the plan's run in MLflow.

    The run gets the description `text`, in Markdown, and `files` as artifacts.
    """
    trials = read(plan)
    try:
        with store.session():
            client, outcomes = store.client(), {str(trial.number): trial.status for trial in trials}
            condition = f"tags.mlflow.parentRunId = '{plan.parent}'"
            for run in client.search_runs([store.experiment_id()], condition, max_results=10_000):
                client.set_tag(run.info.run_id, "outcome", outcomes[run.data.tags["trial"]])
            client.set_tag(plan.parent, descriptions.DESCRIPTION, text)
            for key, value in metrics.items():
                client.log_metric(plan.parent, key, value)
            for file in files:
                client.log_artifact(plan.parent, str(plan.project / file))
    except TrackingError as error:
        print(f"not recorded: {error}; the same command completes the record")
    for trial in trials:
        seed = trial.settings.get("seed", plan.settings.seed)
        for name in (plan.training(trial.number, seed + index) for index in range(plan.seeds) if trial.is_over):
            with state.folder(name) as folder:
                if (folder / state.UNRECORDED).is_file():
                    print(f"the MLflow store did not answer while trial {trial.number} ran; epochs are missing there")
                shutil.rmtree(folder)
