"""The runs in MLflow: one for each training, found by the hash of the trained model.

A run is written while its training goes on. A store that does not answer costs a warning, never a training: `record`
writes the run from the pipeline's outputs afterwards.
"""

import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mnistflow.tracking import store  # first: it sets what MLflow reads when it is imported

# isort: split
import mlflow
from filelock import FileLock, Timeout
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from mnistflow.core import cli
from mnistflow.core.errors import WorkflowError, without_password
from mnistflow.core.files import EVALUATION, MODELS, cache, md5, read_json, write_text
from mnistflow.data import arrays
from mnistflow.data.arrays import Split
from mnistflow.evaluation import metrics, predictions
from mnistflow.figures import results
from mnistflow.tracking import descriptions, provenance
from mnistflow.tracking.store import TrackingError, client
from mnistflow.training import history, state

MODEL_MD5 = "model_md5"  # the tag by which a run is found; the last that a training sets
# Finds the run of a training that was interrupted. MLflow's pages hide tags with this prefix.
TRAINING_ID = "mlflow.mnistflow.training"
FILE = "run.json"
DAYS = 30  # after which an interrupted training counts as abandoned
EXAMPLES = 2  # images of a logged model's input example


def now() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000


@dataclass
class TrainingRecord:
    """What a run holds and the pipeline's outputs do not: its ID, its times. Stored beside the training's state."""

    details: dict[str, Any]  # the content of training.json, which is incomplete during the training
    tags: dict[str, str]
    name: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)  # the value of TRAINING_ID
    started: int = field(default_factory=now)
    ended: int | None = None
    epochs: list[tuple[int, float]] = field(default_factory=list)  # for each, when it ended (as `now`), and its seconds
    seconds: float | None = None  # of the whole training
    model_md5: str | None = None

    def write(self, path: Path) -> None:
        """Write it to a file."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")


def read_record(path: Path) -> TrainingRecord | None:
    """The record of a training in a file; None where there is no file or it is damaged."""
    with suppress(WorkflowError, TypeError):
        return TrainingRecord(**read_json(path)) if path.is_file() else None
    return None


class LiveRun:
    """The run of a training, logged while it goes on. When the store does not answer, nothing more is logged."""

    def __init__(self, path: Path, record: TrainingRecord) -> None:
        """Begin the run of the training whose record is the file at `path`, or go on with it."""
        self._path = path
        self.record = read_record(path) or record
        self.record.write(path)  # first: no crash may leave a run that nothing leads to
        self._is_lost = False
        self._logged_epochs = 0
        self._try(self._start)

    def _start(self) -> None:
        store.connect()
        self._run_id = _create_or_resume(self.record)
        # This also logs system metrics, where MLflow's variable asks for them. Nested, because an earlier training of
        # this process may have lost its store, and left its run active.
        mlflow.start_run(run_id=self._run_id, nested=True)
        self._logged_epochs = len(client().get_metric_history(self._run_id, "val_loss"))

    def log_epochs(self, rows: Sequence[Any], seconds: float) -> None:
        """Log the new epochs of a history (dataclasses with `epoch`); `seconds` is the last one's time."""
        del self.record.epochs[len(rows) :]  # of an earlier attempt, where this one began from the first epoch
        self.record.epochs += [(now(), seconds)] * (len(rows) - len(self.record.epochs))
        self.record.write(self._path)
        self._try(lambda: _log_epochs(self._run_id, rows, self.record.epochs, self._logged_epochs))
        self._logged_epochs = max(self._logged_epochs, len(rows))

    def log_outputs(self, folder: Path, model: Any, example: Split, seconds: float) -> None:
        """Log the outputs in `folder` and the model, with images for its example; `seconds` is the training's time."""
        self.record.details = read_json(folder / "training.json")
        self.record.seconds = seconds
        self.record.model_md5 = md5(folder / "model.keras")
        self.record.write(self._path)
        output = folder.resolve()  # the store works in the project's folder
        dataset = arrays.describe()
        self._try(lambda: _log_outputs(self._run_id, self.record, output, model, dataset, example))

    def end(self, status: str, failure: str | None = None) -> None:
        """Mark the run as FINISHED, FAILED (with the reason) or KILLED."""
        self.record.ended = max(now(), self.record.started)  # the clock may have been set back
        self._try(lambda: mlflow.end_run(status))
        self._try(lambda: _end(self._run_id, self.record, status, failure))
        unrecorded = self._path.parent / state.UNRECORDED
        if self._is_lost:
            unrecorded.touch()
        else:
            unrecorded.unlink(missing_ok=True)
        self.record.write(self._path)

    def _try(self, log: Callable[[], None]) -> None:
        if not self._is_lost:
            try:
                with store.session():
                    log()
            except TrackingError as error:
                self._is_lost = True
                print(f"not recorded: {error}; the training goes on, and `make record` writes its run", flush=True)


@contextmanager
def training(
    path: Path, details: Mapping[str, Any], name: str | None = None, tags: Mapping[str, str] | None = None
) -> Iterator[LiveRun]:
    """The run of a training, marked as finished, failed or killed when the block ends.

    Args:
        path: the file for its record, beside the training's state.
        details: the content of training.json that is known before the training.
        name: the run's; by default, the model's, and in brackets that of the DVC experiment.
        tags: more tags for the run.
    """
    all_tags = {**provenance.tags(details["model"]), **(tags or {})}
    experiment = all_tags.get(provenance.EXPERIMENT)
    name = name or (f"{details['model']} ({experiment})" if experiment else details["model"])
    store.name_user()
    # MLflow's own tags: the user, the script.
    run = LiveRun(path, TrainingRecord(dict(details), dict(resolve_tags(all_tags)), name))
    try:
        yield run
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or cli.INTERRUPTED.is_set():
            run.end("KILLED")
        else:
            run.end("FAILED", without_password(str(error) or type(error).__name__))
        raise
    run.end("FINISHED")


def _create_or_resume(record: TrainingRecord) -> str:
    """The ID of the training's run: the one that it had, or a new one."""
    runs = _search(f"tags.`{TRAINING_ID}` = '{record.id}'")
    if runs:
        run_id = str(runs[0].info.run_id)
        client().update_run(run_id, "RUNNING")
        if descriptions.FAILURE in runs[0].data.tags:
            client().delete_tag(run_id, descriptions.FAILURE)
        return run_id
    tags = {**record.tags, TRAINING_ID: record.id, "selected_on": record.details["selected_on"]}
    run_id = str(client().create_run(store.experiment_id(), record.started, tags, record.name).info.run_id)
    details = record.details
    settings = {**details["settings"], "dataset": details["dataset"], "validation": details["validation"]}
    client().log_batch(run_id, params=[Param(key, str(value)) for key, value in settings.items()])
    _log_dataset(run_id, details["dataset"], details["training_images"], details["training_sha256"], "training")
    _describe(run_id, details)
    return run_id


def _log_dataset(run_id: str, name: str, images: int, digest: str, context: str) -> None:
    """Tell a run which images it used, by name, number and digest."""
    source = json.dumps({"path": f"data/{context}"})
    dataset = Dataset(name, digest[:16], "local", source, profile=json.dumps({"images": images}))
    tags = [InputTag("mlflow.data.context", context), InputTag("images", str(images))]
    try:
        client().log_inputs(run_id, [DatasetInput(dataset, tags)])
    except MlflowException:  # at a server, another run may make the same dataset between MLflow's look and its insert
        client().log_inputs(run_id, [DatasetInput(dataset, tags)])


def _log_epochs(run_id: str, rows: Sequence[Any], times: Sequence[tuple[int, float]], done: int = 0) -> None:
    """Log the epochs of a history after the first `done`; `times` says of each when it ended and its seconds."""
    points = []
    for row, (ended, seconds) in list(zip(rows, times, strict=True))[done:]:
        values = {key: value for key, value in asdict(row).items() if key != "epoch"}
        points += [Metric(key, value, ended, row.epoch) for key, value in values.items()]
        if seconds:
            points.append(Metric("epoch_seconds", seconds, ended, row.epoch))
    if points:
        client().log_batch(run_id, points)


def _log_outputs(
    run_id: str, record: TrainingRecord, folder: Path, model: Any, dataset: arrays.Description, example: Split
) -> None:
    """Log a training's outputs, the loss figure and the model; the last tag, MODEL_MD5, says that all is there."""
    from mnistflow.tracking import flavor

    rows = history.read(folder / "history.csv")
    best = history.best(rows)
    model_id = logged_model_id(run_id)
    if model_id is None:
        model_id = flavor.log(record.details["model"], model, example.images[:EXAMPLES], dataset, run_id)
    for file in sorted(folder.iterdir()):
        client().log_artifact(run_id, str(file))
    client().log_figure(run_id, results.loss_curve(rows), "loss.png")
    # MLflow shows the last value of a metric for the run's; these are the best epoch's.
    values: dict[str, float] = {
        "best_epoch": best.epoch,
        "best_val_loss": best.val_loss,
        "best_val_accuracy": best.val_accuracy,
        "parameters": record.details["parameters"],
        **({"seconds": round(record.seconds, 1)} if record.seconds is not None else {}),
    }
    if "best_epoch" not in client().get_run(run_id).data.metrics:  # an attempt that was killed may have logged them
        client().log_batch(run_id, [Metric(key, value, now(), 0, model_id) for key, value in values.items()])
    _describe(run_id, record.details)
    _describe_model(model_id, record.details["model"], dataset)
    client().set_tag(run_id, MODEL_MD5, record.model_md5)


def _end(run_id: str, record: TrainingRecord, status: str, failure: str | None) -> None:
    if failure:
        client().set_tag(run_id, descriptions.FAILURE, failure)
        _describe(run_id, record.details)
    client().set_terminated(run_id, status, record.ended)


def _describe(run_id: str, details: Mapping[str, Any], test: Mapping[str, float] | None = None) -> None:
    """Write a run's description; `test` are its metrics on the test set."""
    tags = client().get_run(run_id).data.tags
    client().set_tag(run_id, descriptions.DESCRIPTION, descriptions.run(run_id, details, tags, test))


def _describe_model(
    model_id: str, name: str, dataset: arrays.Description, test: Mapping[str, float] | None = None
) -> None:
    """Write a logged model's description; `test` are its metrics on the test set."""
    text = descriptions.logged_model(name, test, dataset.dataset, dataset.shape, dataset.classes)
    client().set_logged_model_tags(model_id, {descriptions.DESCRIPTION: text})


def _search(condition: str) -> list[Run]:
    """The runs of the experiment that meet a condition, the newest first."""
    return list(client().search_runs([store.experiment_id()], condition, order_by=["attributes.start_time DESC"]))


def of_model(model_md5: str) -> list[Run]:
    """The runs that trained the model with this hash, the newest first: a repeated training makes the same model."""
    return _search(f"tags.{MODEL_MD5} = '{model_md5}'")


def logged_model_id(run_id: str) -> str | None:
    """The ID of a run's logged model, if it has one."""
    models = client().search_logged_models([store.experiment_id()], f"source_run_id = '{run_id}'")
    return str(models[0].model_id) if models else None


def log_evaluation(name: str, times: Mapping[str, float] | None = None) -> None:
    """Put a model's evaluation on the runs that trained it.

    Where the store has no run of that model, because DVC brought it from its cache, the run is written from the train
    stage's outputs and tagged `restored`. `times` are further metrics, for the newest run. Does nothing where nothing
    is missing.

    Raises:
        TrackingError: the store does not answer.
        WorkflowError: the outputs of training and evaluation do not belong together.
    """
    # Whole paths, because the store works in the project's folder and this may be a copy of it, made for an experiment.
    trained, evaluated = (MODELS / name).resolve(), (EVALUATION / name).resolve()
    dataset, example = arrays.describe(), arrays.load((arrays.DATA / "validation").resolve())
    model_md5 = md5(trained / "model.keras")
    evaluation = predictions.read(evaluated)
    if evaluation.report.get("model_md5") != model_md5:
        raise WorkflowError(f"{evaluated} belongs to another model than {trained}; run `dvc repro`.")
    with store.session():
        runs = of_model(model_md5) or [_restore(trained, model_md5, dataset, example)]
        for index, run in enumerate(runs):
            measured = times or {} if index == 0 else {}
            if measured or "test/accuracy" not in run.data.metrics:
                _log_evaluation(run, trained, evaluated, evaluation, dataset, measured)


def _log_evaluation(
    run: Run,
    trained: Path,
    evaluated: Path,
    evaluation: predictions.Predictions,
    dataset: arrays.Description,
    times: Mapping[str, float],
) -> None:
    """Log an evaluation to an ended run, which stays ended: its duration is that of its training."""
    run_id, name = run.info.run_id, run.data.tags["model"]
    client().log_artifacts(run_id, str(evaluated), "evaluation")
    matrix = metrics.confusion_matrix(evaluation.labels, evaluation.predictions, len(evaluation.classes))
    client().log_figure(run_id, results.confusion({name: matrix}, evaluation.classes), "evaluation/confusion.png")
    # No wider than the page's column, where the description shows it.
    errors = results.errors(name, evaluation)
    client().log_figure(run_id, errors, "evaluation/errors.png", save_kwargs={"dpi": 80})
    details = read_json(trained / "training.json")
    digest = evaluation.report["test_sha256"]
    _log_dataset(run_id, details["dataset"], len(evaluation.labels), digest, "test")
    _describe(run_id, details, evaluation.metrics)
    model_id = logged_model_id(run_id)
    if model_id:
        _describe_model(model_id, name, dataset, evaluation.metrics)
    # Last, because by these a run counts as evaluated.
    values = {**evaluation.metrics, **times}
    numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
    source = (model_id, details["dataset"], digest[:16])  # for the page of the logged model
    test = [Metric(f"test/{key}", value, now(), 0, *source) for key, value in numbers.items() if key not in details]
    client().log_batch(run_id, test)


def predictions_of(run_id: str) -> predictions.Predictions:
    """The predictions of the test set that a run holds.

    Raises:
        WorkflowError: the run does not hold them, or not any more.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="evaluation", dst_path=folder)
            return predictions.read(Path(folder, "evaluation"))
        except (MlflowException, OSError, WorkflowError) as error:
            # Without the advice of a WorkflowError, which is for the project's own outputs.
            reason = " ".join(str(error).partition("; ")[0].split())[:200]
            raise WorkflowError(
                f"MLflow's run {run_id} should hold its model's predictions of the test set, and does not ({reason}); "
                "restore it, or delete the model version that was made from it."
            ) from error


def _restore(trained: Path, model_md5: str, dataset: arrays.Description, example: Split) -> Run:
    """A run written from the outputs of a training that this store did not see, or not to its end."""
    from mnistflow.training import archive

    rows = history.read(trained / "history.csv")
    path, record = next(((path, each) for path, each in records() if each.model_md5 == model_md5), (None, None))
    if record is None:
        details = read_json(trained / "training.json")
        # MLflow would note what is checked out and running now, which is not what made this model.
        origin = {provenance.COMMIT: "unknown", "mlflow.source.name": "restored from DVC's outputs"}
        tags = resolve_tags({"model": details["model"], "restored": "true", **origin})
        record = TrainingRecord(details, dict(tags), details["model"], model_md5=model_md5, ended=now())
        record.id = model_md5  # if this is killed, the next attempt goes on in the same run
        record.epochs = [(now(), 0.0)] * len(rows)
    run_id = _create_or_resume(record)
    _log_epochs(run_id, rows, record.epochs, len(client().get_metric_history(run_id, "val_loss")))
    _log_outputs(run_id, record, trained, archive.load(trained / "model.keras"), dataset, example)
    _end(run_id, record, "FINISHED", None)
    if path:
        (path.parent / state.UNRECORDED).unlink(missing_ok=True)
    return client().get_run(run_id)


def records() -> Iterator[tuple[Path, TrainingRecord]]:
    """The files and records of trainings that were interrupted, or whose state is not deleted yet."""
    for path in sorted((cache() / "training").glob(f"*/{FILE}")):
        record = read_record(path)
        if record:
            yield path, record


def close_interrupted() -> None:
    """Mark the runs of interrupted trainings as KILLED, unless a process works on them."""
    for path, record in records():
        with suppress(Timeout), FileLock(f"{path.parent}.lock", blocking=False):
            for run in _search(f"tags.`{TRAINING_ID}` = '{record.id}' and attributes.status = 'RUNNING'"):
                last = record.epochs[-1][0] if record.epochs else record.started
                client().set_terminated(run.info.run_id, "KILLED", max(last, record.started))


def delete_abandoned() -> None:
    """Delete the state of interrupted trainings that were not continued for DAYS."""
    oldest = time.time() - DAYS * 86_400
    for path in [path.parent for path, _ in records()]:
        with suppress(FileNotFoundError, Timeout), FileLock(f"{path}.lock", blocking=False) as lock:
            if max(file.stat().st_mtime for file in path.iterdir()) < oldest:
                shutil.rmtree(path)
                Path(lock.lock_file).unlink()


def attach(page: Path, model_md5: str) -> None:
    """Log a file to the run that trained the model with this hash. It replaces an earlier file of the same name.

    Raises:
        WorkflowError: the store has no such run.
    """
    page = page.resolve()
    with store.session():
        runs = of_model(model_md5)
        if not runs:
            raise WorkflowError(f"the record has no run of the model {model_md5}; `make record` writes it.")
        client().log_artifact(runs[0].info.run_id, str(page))
