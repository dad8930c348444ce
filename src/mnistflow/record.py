"""Keep the record in MLflow complete, whether its store answers or not: `python -m mnistflow.record TRAINED ...`.

A stage logs what it does while it does it. What the store did not get is kept in files and handed over by this command,
and a stage that DVC skipped or brought from its cache, so that it logged nothing, has its run written from its outputs.
What the store has is left alone.

Set MNISTFLOW_RECORD=later to let a training begin while its store can't be used; unset, or `now`, that is an error. A
store that is lost later never stops anything.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mnistflow import cli, history, journal, provenance, splits, store, tracking, workspace
from mnistflow.history import Epoch
from mnistflow.journal import Journal
from mnistflow.splits import Split
from mnistflow.store import TrackingError
from mnistflow.workspace import WorkflowError, check_vouched, md5, without_password


class Recorder:
    """The record of one training while it goes on: a journal in a file, and a run in MLflow as far as that answers.

    A training that goes on after a crash goes on in its own run: the journal holds a name for it, and is written before
    the run is made, so that no crash leaves a run without an owner.
    """

    def __init__(self, path: Path, details: Mapping[str, Any]) -> None:
        """Begin, or go on with, the training whose journal is at `path`."""
        self._path = path
        self._outputs: tuple[Path, Split] | None = None
        self._is_lost = False
        self._journal = Journal(dict(details), tracking.with_context(provenance.tags(details["model"])))
        if path.is_file():
            try:
                self._journal = journal.read(path)
            except WorkflowError as error:
                print(f"{error}; the training goes on in a new run")
        self._journal.write(path)
        may_be_late = is_allowed_later()
        try:
            store.connect()
        except TrackingError as error:
            if not may_be_late:
                raise TrackingError(f"{error}; MNISTFLOW_RECORD=later trains now and records afterwards") from error
            self._lose(error)
        self._try(tracking.begin, self._journal)

    def epochs(self, rows: Sequence[Epoch], seconds: float) -> None:
        """Log what is new in a history; `seconds` is the last epoch's time."""
        self._journal.note(rows, seconds)
        self._journal.write(self._path)
        self._try(tracking.log_epochs, self._journal)

    def outputs(self, folder: Path, example: Split, seconds: float) -> None:
        """Log what the train stage made, and its model with images for an example; `seconds` is the training's time.

        A store that was lost on the way is tried again.
        """
        self._outputs = (folder, example)
        self._journal.note(history.read(folder / "history.csv"))
        self._journal.seconds = seconds
        self._is_lost = False
        self._try(store.connect)
        self._try(tracking.log_training, self._journal, folder, example)

    def end(self, status: str, failure: str | None = None) -> None:
        """Mark the run as FINISHED, FAILED (of what) or KILLED, and keep what the store did not get."""
        self._journal.status, self._journal.failure, self._journal.ended = status, failure, journal.now()
        try:
            tracking.end(self._journal)
        except TrackingError as error:
            self._lose(error)
        # What was interrupted will go on, and be recorded then.
        if self._is_lost and status != "KILLED":
            journal.keep_training(self._journal, self._outputs)

    def _try(self, log: Callable[..., None], *arguments: Any) -> None:
        if not self._is_lost:
            try:
                log(*arguments)
            except TrackingError as error:
                self._lose(error)

    def _lose(self, error: TrackingError) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        print(f"not recorded yet: {error}; work goes on, and `make record` completes the record", flush=True)


def is_allowed_later() -> bool:
    """Whether a training may begin while the tracking store can't be used, as MNISTFLOW_RECORD says: now or later.

    Raises:
        WorkflowError: it says something else.
    """
    setting = os.environ.get("MNISTFLOW_RECORD") or "now"
    if setting not in ("now", "later"):
        raise WorkflowError(f"MNISTFLOW_RECORD is {setting!r}; now or later is expected.")
    return setting == "later"


@contextmanager
def training(path: Path, details: Mapping[str, Any]) -> Iterator[Recorder]:
    """A Recorder for a training, whose run is marked finished, failed or killed when the block ends.

    `path` is where its journal is kept, `details` what of training.json is known at the start.

    Raises:
        TrackingError: the store can't be used at the start, and MNISTFLOW_RECORD does not allow for that.
    """
    recorder = Recorder(path, details)
    try:
        yield recorder
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or cli.INTERRUPTED.is_set():
            recorder.end("KILLED")
        else:
            recorder.end("FAILED", without_password(str(error) or type(error).__name__))
        raise
    recorder.end("FINISHED")


def evaluation(trained: Path, evaluated: Path, metrics: Path, example: Split, extra: Mapping[str, float]) -> None:
    """Put a model's evaluation on its run, or keep it until the store answers. As `tracking.log_evaluation`."""
    try:
        store.connect()
        for complaint in hand_over(md5(trained / "model.keras")):
            print(complaint)
        tracking.log_evaluation(trained, evaluated, metrics, example, extra)
    except TrackingError as error:
        print(f"not recorded yet: {error}; `make record` completes the record", flush=True)
        journal.keep_evaluation(trained, evaluated, metrics, example, extra)


def hand_over(name: str = "*") -> list[str]:
    """Write into the record what was kept for it, or the one training of that name; returns a sentence per damaged one.

    Raises:
        TrackingError: the store does not answer; what it did not get is still kept.
    """
    complaints = []
    with journal.unrecorded() as folder:
        for kept in journal.waiting(folder, name):
            try:
                journal.check(kept)
            except WorkflowError as error:
                complaints.append(str(error))
                continue
            outputs = kept / "trained"
            example = splits.load(kept / "example") if outputs.is_dir() else None
            if (kept / journal.JOURNAL).is_file():
                ended = journal.read(kept / journal.JOURNAL)
                tracking.log_late(ended, outputs, example)
                print(f"recorded: {ended.details['model']}, a training that ended as {ended.status.lower()}")
            if example and (kept / journal.METRICS).is_file():
                tracking.log_evaluation(outputs, kept / "evaluated", kept / journal.METRICS, example)
                print(f"recorded: the evaluation of model {kept.name}")
            journal.forget(kept)
    return complaints


def main(trained: Path, evaluated: Path, metrics: Path, example: Path) -> None:
    """Bring the record up to date with what was kept, and with every model of which all outputs are there."""
    workspace.settle()
    may_be_late = is_allowed_later()
    try:
        store.connect()
    except TrackingError as error:
        if not may_be_late:
            raise
        print(f"not recorded yet: {error}")
        return
    complaints = [*tracking.set_aside_damaged(), *hand_over()]
    for folder in sorted(path.parent for path in trained.glob("*/model.keras")):
        name = folder.name
        if (evaluated / name / "report.json").is_file() and (metrics / f"{name}.json").is_file():
            check_vouched(folder / "model.keras")
            tracking.log_evaluation(folder, evaluated / name, metrics / f"{name}.json", splits.load(example))
    for experiment, models in provenance.experiments():
        tracking.name_runs(models, experiment)  # those that `dvc exp save` named after their training
    if complaints:
        raise WorkflowError("\n       ".join(complaints))


if __name__ == "__main__":
    cli.run(main)
