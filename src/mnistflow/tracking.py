"""The record in MLflow: one run per training, found again by the hash of the model that it trained.

The only module that imports mlflow, but for serving.py, which MLflow stores with each model. Nothing in the workflow
reads a result from here: DVC's outputs are the truth, and `record` can write a run from them when a tracking store has
never seen their model.
"""

import logging
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

# MLflow reports its use over the network unless told otherwise before it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Its seven tries at a server that is down take four minutes, before a training that takes one.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

import mlflow
import mlflow.data
import mlflow.pyfunc
import numpy as np
from filelock import FileLock
from mlflow.entities import LoggedModelStatus, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from sqlalchemy.exc import SQLAlchemyError

from mnistflow import evaluation, figures, history, pages, provenance
from mnistflow.datasets import CLASSES, SIZE
from mnistflow.history import Epoch
from mnistflow.splits import Split
from mnistflow.workspace import WorkflowError, check_vouched, md5, read_json, root, without_password, write_text

EXPERIMENT = "mnistflow"
MODEL_MD5 = "model_md5"  # the tag by which a run is found when its training is over
ATTEMPT = "attempt"  # the tag by which it is found before
OF_TRAINING = {"parameters", "best_epoch", "selected_on"}  # in a model's metrics file for the reader's sake


def connect() -> None:
    """Choose the tracking store and the experiment; makes both if needed.

    Raises:
        WorkflowError: the store can't be used.
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    # A server keeps artifacts where it likes; beside a bare database they would land in the current folder.
    served = uri.startswith(("http://", "https://"))
    try:
        with alone_in(uri):
            _choose_experiment(None if served else (root() / "mlruns").as_uri())
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise WorkflowError(
            f"the MLflow tracking store {without_password(uri)} can't be used: {without_password(reason)[:400]} "
            "(mend that, or set MLFLOW_TRACKING_URI to another store; unset, it is mlflow.db in this folder)"
        ) from error


def client() -> mlflow.MlflowClient:
    """MLflow's client for the store that `connect` chose: its runs and its registry of models."""
    return mlflow.MlflowClient()


def tracking_uri() -> str:
    """The store's address: MLFLOW_TRACKING_URI, else mlflow.db in the project's folder, where `mlflow ui` looks.

    A relative path in it is one from the project's folder: an experiment's copy of the project is soon deleted.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme, colon, path = uri.partition("sqlite:///")
    if colon and not scheme:
        return f"sqlite:///{root() / path}"
    return uri if ":" in uri else str(root() / uri)


def _choose_experiment(artifacts: str | None) -> None:
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        # The tag opens the experiment in the UI's view for trained models rather than that for language models.
        mlflow.create_experiment(EXPERIMENT, artifacts, {"mlflow.experimentKind": "custom_model_development"})
    if pages.VIEW not in mlflow.set_experiment(EXPERIMENT).tags:
        mlflow.set_experiment_tag(pages.VIEW, pages.view())


def alone_in(uri: str) -> AbstractContextManager[Any]:
    """Keep others out of an SQLite store while its tables are made: two that start at once would both make them."""
    path = uri.removeprefix("sqlite:///")
    return nullcontext() if path == uri else FileLock(f"{path}.lock")


@contextmanager
def training_run(name: str, marker: Path, details: Mapping[str, Any]) -> Iterator[Run]:
    """An MLflow run for a training, marked finished, failed or killed when the block ends.

    `marker` is a file that holds a name of this attempt while the training is not complete: a training that goes on
    after a crash goes on in its own run. It is written before the run is made, so that no crash leaves a run without an
    owner. `details` is what the train stage writes to training.json.
    """
    if not marker.is_file():
        write_text(marker, uuid.uuid4().hex)
    attempt = marker.read_text(encoding="utf-8")
    begun = _find(f"tags.{ATTEMPT} = '{attempt}'")
    if begun:
        run = mlflow.start_run(run_id=begun.info.run_id)
    else:
        run = mlflow.start_run(run_name=name, tags={**provenance.tags(name), ATTEMPT: attempt})
    try:
        log_details(details)
        log_dataset(details)
        describe(run.info.run_id, details)
        yield run
    except KeyboardInterrupt:
        mlflow.end_run("KILLED")
        raise
    except BaseException:
        mlflow.end_run("FAILED")
        raise
    mlflow.end_run("FINISHED")


def log_details(details: Mapping[str, Any]) -> None:
    """Log the training's settings as parameters of the active run."""
    mlflow.log_params({**details["settings"], "dataset": details["dataset"], "validation": details["validation"]})
    mlflow.set_tag("selected_on", details["selected_on"])


def log_dataset(details: Mapping[str, Any]) -> None:
    """Tell the active run which images it was trained on, by name, number and digest."""
    images = details["training_images"]
    # Stands for them all by its shape, which is all that MLflow looks at when it is told the digest.
    blank = np.broadcast_to(np.uint8(0), (images, SIZE, SIZE))
    dataset = mlflow.data.from_numpy(blank, name=details["dataset"], digest=details["training_sha256"][:16])
    mlflow.log_input(dataset, context="training", tags={"images": str(images)})


def log_epochs(rows: Sequence[Epoch], seconds: float | None = None) -> None:
    """Log those epochs of the history that the active run does not have yet; `seconds` is the last one's time."""
    run = mlflow.active_run()
    assert run is not None
    client = mlflow.MlflowClient()
    logged = {metric.step for metric in client.get_metric_history(run.info.run_id, "val_loss")}
    metrics = [
        Metric(key, value, _now(), epoch.epoch)
        for epoch in rows
        if epoch.epoch not in logged
        for key, value in asdict(epoch).items()
        if key != "epoch"
    ]
    if seconds is not None:
        metrics.append(Metric("epoch_seconds", seconds, _now(), rows[-1].epoch))
    client.log_batch(run.info.run_id, metrics)


def _now() -> int:
    return time.time_ns() // 1_000_000


def log_outputs(folder: Path, example: Split, seconds: float | None = None) -> None:
    """Log what a train stage made to the active run: its files, and the model as one that MLflow can load and serve.

    `example` gives the logged model's input example; `seconds` is the time from start to end of training.
    """
    details = read_json(folder / "training.json")
    best = history.best(history.read(folder / "history.csv"))
    # Beside the last epoch's figures, which MLflow shows for the run's: those of the epoch that was kept.
    mlflow.log_metrics(
        {
            "best_epoch": best.epoch,
            "best_val_loss": best.val_loss,
            "best_val_accuracy": best.val_accuracy,
            "parameters": details["parameters"],
        }
    )
    if seconds is not None:
        mlflow.log_metric("seconds", seconds)
    for file in sorted(folder.iterdir()):
        mlflow.log_artifact(str(file))
    run = mlflow.active_run()
    assert run is not None
    if logged_model(mlflow.get_run(run.info.run_id)) is None:
        _log_model(folder / "model.keras", details["model"], example)
    mlflow.set_tag(MODEL_MD5, md5(folder / "model.keras"))
    describe(run.info.run_id, details)


def describe(run_id: str, details: Mapping[str, Any], test: Mapping[str, float] | None = None) -> None:
    """Write a run's description: what is known of it by now; `test` is its metrics on the test set."""
    client = mlflow.MlflowClient()
    tags = client.get_run(run_id).data.tags
    client.set_tag(run_id, pages.DESCRIPTION, pages.description(run_id, details, tags, test))


def logged_model(run: Run) -> str | None:
    """The ID of the run's logged model, if it has one; what a crash left half-logged is deleted."""
    client = mlflow.MlflowClient()
    for output in run.outputs.model_outputs:
        if client.get_logged_model(output.model_id).status == LoggedModelStatus.READY:
            model_id: str = output.model_id
            return model_id
        client.delete_logged_model(output.model_id)
    return None


def _log_model(path: Path, name: str, example: Split) -> None:
    mlflow.pyfunc.log_model(
        name=name,
        python_model=str(Path(__file__).with_name("serving.py")),
        artifacts={"model": str(path)},
        signature=ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, SIZE, SIZE))]),
            outputs=Schema(
                [
                    TensorSpec(np.dtype(np.int64), (-1,), "class"),
                    TensorSpec(np.dtype(np.float32), (-1, CLASSES), "probabilities"),
                ]
            ),
        ),
        input_example=np.asarray(example.images[:2]),
        # Named here, because finding them out takes a process that loads the model.
        pip_requirements=installed("mlflow", "keras", "numpy", "tensorflow-cpu", "tensorflow", "jax"),
    )


def installed(*packages: str) -> list[str]:
    """Those of the packages that are installed, each as NAME==VERSION."""
    found = []
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{name}=={metadata.version(name)}")
    return found


def find_run(model_md5: str, *, evaluated: bool = False) -> Run | None:
    """The newest run that trained the model with this hash; with `evaluated`, that also holds its test metrics."""
    return _find(f"tags.{MODEL_MD5} = '{model_md5}'" + (" and metrics.test_accuracy >= 0" if evaluated else ""))


def _find(condition: str) -> Run | None:
    """The newest run of the experiment that meets a condition."""
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    order = ["attributes.start_time DESC"]
    found = mlflow.MlflowClient().search_runs([experiment.experiment_id], condition, order_by=order, max_results=1)
    return found[0] if found else None


def adopt_evaluation(folder: Path) -> None:
    """Give the active run the test metrics of an earlier run with the same model.

    Where a training is repeated and ends in the same bytes, DVC rightly does not evaluate them again.
    """
    run = mlflow.active_run()
    assert run is not None
    earlier = find_run(md5(folder / "model.keras"), evaluated=True)
    if earlier is None:
        return
    test = {key: value for key, value in earlier.data.metrics.items() if key.startswith("test_")}
    mlflow.log_metrics(test, model_id=logged_model(mlflow.get_run(run.info.run_id)))
    with tempfile.TemporaryDirectory() as copy:
        mlflow.artifacts.download_artifacts(run_id=earlier.info.run_id, artifact_path="evaluation", dst_path=copy)
        mlflow.log_artifacts(str(Path(copy, "evaluation")), "evaluation")
    test = {key.removeprefix("test_"): value for key, value in test.items()}
    describe(run.info.run_id, read_json(folder / "training.json"), test)


def evaluation_of(run_id: str) -> evaluation.Evaluated:
    """What a run's model said about the test set.

    Raises:
        WorkflowError: the run does not hold that, or not any more.
    """
    with tempfile.TemporaryDirectory() as copy:
        try:
            mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="evaluation", dst_path=copy)
        except (MlflowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise WorkflowError(
                f"MLflow's run {run_id} should hold its model's predictions of the test set, and does not ({reason}); "
                "restore it, or delete the model version that was made from it."
            ) from error
        return evaluation.read(Path(copy, "evaluation"))


def record(
    trained: Path, evaluated: Path, metrics: Path, example: Split, extra: Mapping[str, float] | None = None
) -> None:
    """Put the test metrics and figures of a model on the run that trained it.

    Where this store has no run of that model, because DVC brought it from its cache, the run is written from the train
    stage's outputs first, and tagged as restored. `extra` metrics are logged with the rest. Does nothing where the run
    has it all and there is nothing extra.

    Args:
        trained: the train stage's outputs.
        evaluated: the evaluate stage's outputs.
        metrics: the evaluate stage's metrics file.
        example: images for the logged model's input example.
    """
    model_md5 = md5(trained / "model.keras")
    run = find_run(model_md5) or _restore(trained, example)
    if "test_accuracy" in run.data.metrics and not extra:
        return
    report = read_json(evaluated / "report.json")
    if report["model_md5"] != model_md5:
        raise WorkflowError(f"{evaluated} belongs to another model than {trained}; run `dvc repro`.")
    # Through a client: the run is over and stays so, its duration that of its training.
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    values = {**read_json(metrics), **(extra or {})}
    of_test = sorted(values.keys() - OF_TRAINING)
    model_id = logged_model(run)  # so that the model's own page shows them too
    client.log_batch(run_id, [Metric(f"test_{key}", values[key], _now(), 0, model_id) for key in of_test])
    client.log_artifacts(run_id, str(evaluated), "evaluation")
    name, said = run.data.tags["model"], evaluation.read(evaluated)
    confusion = figures.confusion({name: evaluation.confusion_matrix(said.labels, said.predictions)}, said.classes)
    client.log_figure(run_id, confusion, "evaluation/confusion.png")
    # No wider than the page's column, where the description shows it.
    client.log_figure(run_id, figures.errors(name, said), "evaluation/errors.png", save_kwargs={"dpi": 80})
    describe(run_id, read_json(trained / "training.json"), values)


def _restore(trained: Path, example: Split) -> Run:
    """A run written from the outputs of a training that this store never saw."""
    check_vouched(trained / "model.keras")
    details = read_json(trained / "training.json")
    # MLflow would note what is checked out and running now, which is not what made this model.
    unknown = {provenance.COMMIT: "unknown", "mlflow.source.name": "restored from DVC's outputs"}
    tags = {"model": details["model"], "restored": "true", **unknown}
    with mlflow.start_run(run_name=details["model"], tags=tags) as run:
        log_details(details)
        log_dataset(details)
        log_epochs(history.read(trained / "history.csv"))
        log_outputs(trained, example)
    return mlflow.get_run(run.info.run_id)
