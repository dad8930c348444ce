"""A search or study as a whole: its folder, and its run in MLflow, under which those of its trainings lie.

Settings, data and code name both, so that the same command finds them again after a crash.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mnistflow import outputs, pages, provenance, splits, store, training, workspace
from mnistflow.params import ModelParams, Params
from mnistflow.store import TrackingError
from mnistflow.sweep.trial import OVER, Plan, Trial
from mnistflow.tracking import with_context
from mnistflow.workspace import WorkflowError

SWEEP = "sweep"  # the tag by which the run of a whole search or study is found


@contextmanager
def begun(
    title: str, model: str, settings: Params, mine: ModelParams, arrays: Path, objective: str, seeds: int, what: str
) -> Iterator[Plan]:
    """The plan of a search or study, this process's alone until the block ends.

    Args:
        title: what its run in MLflow is called.
        model: what is trained.
        settings: those of params.yaml.
        mine: the model's, which trials change.
        arrays: the folder with the training and the validation images.
        objective: val_loss or val_accuracy.
        seeds: trainings a trial.
        what: further text that its results depend on.

    Raises:
        WorkflowError: another process is at it.
        TrackingError: the store can't be used; a search does not begin without its run.
    """
    sets = [splits.sha256(arrays / part) for part in ("training", "validation")]
    name = training.fingerprint(model, mine, *sets, objective, str(seeds), what)
    folder = workspace.cache() / "sweeps" / name
    folder.mkdir(parents=True, exist_ok=True)
    details = outputs.details(model, mine, settings.fetch.dataset, settings.split.validation, arrays / "training")
    try:
        with FileLock(f"{folder}.lock", blocking=False):
            parent = _parent(name, title, model)
            yield Plan(name, Path.cwd(), folder, arrays.resolve(), details, objective, seeds, parent)
    except Timeout as error:
        raise WorkflowError(
            f"another process is at the same trials (its files are in {folder}); wait for it."
        ) from error


def _parent(name: str, title: str, model: str) -> str:
    """The ID of its run in MLflow: the one that it had, or a new one."""
    store.connect()
    with store.answering():
        where = f"tags.{SWEEP} = '{name}'"
        for run in store.client().search_runs([store.experiment()], where):
            store.client().update_run(run.info.run_id, "RUNNING")
            return str(run.info.run_id)
        tags = with_context(
            provenance.tags(model) | {SWEEP: name, "mlflow.source.name": "src/mnistflow/sweep/plans.py"}
        )
        return str(store.client().create_run(store.experiment(), None, tags, title).info.run_id)


def settle(plan: Plan, trials: Sequence[Trial]) -> None:
    """Give those runs of trials' trainings an end that had none: a trial that is stopped or lost can't do so itself.

    Where the store does not answer, the same command does it another time.
    """
    by_number = {str(trial.number): trial for trial in trials}
    with _later(), store.answering():
        where = f"tags.mlflow.parentRunId = '{plan.parent}'"
        for run in store.client().search_runs([store.experiment()], where, max_results=10_000):
            trial = by_number.get(run.data.tags["trial"])
            if trial is None:
                continue
            ended = "FINISHED" if trial.status in OVER else "FAILED" if trial.status == "failed" else "KILLED"
            if run.info.status in ("RUNNING", "KILLED") and run.info.status != ended:
                store.client().set_terminated(run.info.run_id, ended)
            if run.data.tags.get("outcome") != trial.status:
                store.client().set_tag(run.info.run_id, "outcome", trial.status)


def end(plan: Plan, status: str, said: str, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
    """End its own run: as what, with which description, metrics and files."""
    with _later(), store.answering():
        client = store.client()
        client.set_tag(plan.parent, pages.DESCRIPTION, said)
        for key, value in metrics.items():
            client.log_metric(plan.parent, key, value)
        for file in files:
            client.log_artifact(plan.parent, str(file))
        client.set_terminated(plan.parent, status)


@contextmanager
def _later() -> Iterator[None]:
    try:
        yield
    except TrackingError as error:
        print(f"not recorded yet: {error}; the same command completes the record", flush=True)


def close(plan: Plan, trials: Sequence[Trial], total: int) -> None:
    """End all runs of trainings; ends this process where the trials were interrupted."""
    settle(plan, trials)
    over = sum(one.status in OVER for one in trials)
    if over + sum(one.status == "failed" for one in trials) < total:
        end(plan, "KILLED", f"Interrupted after {over} of {total} trials.", {}, [])
        print(f"interrupted after {over} of {total} trials; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def events(trials: Sequence[Trial]) -> list[str]:
    """A line for each trial that did not go smoothly, with what happened."""
    return [
        *(f"trial {one.number} {one.status}: {one.failure}" for one in trials if one.failure),
        *(
            f"trial {one.number} was interrupted {'once' if one.lost == 1 else f'{one.lost} times'} and went on"
            for one in trials
            if one.lost and one.status in OVER
        ),
    ]


def forget_states(plan: Plan, trials: Sequence[Trial]) -> None:
    """Delete what the trainings of trials that are over could go on from: four times the model's size each."""
    for one in trials:
        if one.status in OVER:
            for state in plan.folder.glob(f"{one.number}-*/state.npz"):
                state.unlink()
