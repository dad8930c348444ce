"""The runs in MLflow: one per training, found again by the hash of the model that it trained.

Nothing in the workflow reads a result from here: DVC's outputs are the truth, and a run can be written from them when a
store has never seen their model. Which store that is, store.py knows; what to do when it does not answer, record.py.
"""

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from mnistflow.store import answering, client, experiment  # first: it sets what MLflow reads when it is imported

# isort: split
import mlflow
import mlflow.data
import mlflow.pyfunc
import numpy as np
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import Schema, TensorSpec

from mnistflow import evaluation, figures, history, pages, provenance, seal
from mnistflow.datasets import CLASSES, SIZE
from mnistflow.journal import Journal, now
from mnistflow.splits import Split
from mnistflow.workspace import WorkflowError, md5, read_json

MODEL_MD5 = "model_md5"  # the tag by which a run is found when its training is over
ATTEMPT = "attempt"  # the tag by which it is found before
DAMAGED = "damaged"  # the tag of a run that no longer holds what was logged to it
OF_TRAINING = {"parameters", "best_epoch", "selected_on"}  # in a model's metrics file for the reader's sake


def begin(training: Journal) -> None:
    """Make a training's run the active one: the one that it had, or a new one that began when the training did."""
    with answering():
        begun = _find(f"tags.{ATTEMPT} = '{training.attempt}'")
        if begun is None:
            tags = {**training.tags, ATTEMPT: training.attempt}
            begun = client().create_run(experiment(), training.begun, tags, _name(training))
        else:
            seal.lift(begun)
            if pages.FAILURE in begun.data.tags:
                client().delete_tag(begun.info.run_id, pages.FAILURE)
        mlflow.start_run(run_id=begun.info.run_id)
        details = training.details
        mlflow.log_params({**details["settings"], "dataset": details["dataset"], "validation": details["validation"]})
        mlflow.set_tag("selected_on", details["selected_on"])
        _log_dataset(details)
        _describe(details)


def _name(training: Journal) -> str:
    """What a training's run is called: its model, and in brackets the DVC experiment or trial that it belongs to."""
    model: str = training.details["model"]
    number, experiment = (training.tags.get(tag) for tag in ("trial", provenance.EXPERIMENT))
    said = f"trial {number}" if number else experiment
    return f"{model} ({said})" if said else model


def log_epochs(training: Journal) -> None:
    """Log those epochs of a training that its run, the active one, does not have yet."""
    with answering():
        logged = {metric.step for metric in client().get_metric_history(_active(), "val_loss")}
        metrics = [
            Metric("epoch_seconds" if key == "seconds" else key, value, epoch["time"], epoch["epoch"])
            for epoch in training.epochs
            if epoch["epoch"] not in logged
            for key, value in epoch.items()
            if key not in ("epoch", "time") and value is not None
        ]
        client().log_batch(_active(), metrics)


def log_training(training: Journal, folder: Path, example: Split) -> None:
    """Log all that a training's run may lack when the training is over and its outputs are in `folder`.

    `example` gives the logged model's input example.
    """
    with answering():
        if mlflow.active_run() is None:
            begin(training)
        log_epochs(training)
        _log_outputs(folder, example, training.seconds)
        _adopt_evaluation(folder)


def end(training: Journal) -> None:
    """Mark the active run, if there is one, as what became of its training, and why if it failed."""
    with answering():
        if mlflow.active_run() is not None:
            if training.failure:
                mlflow.set_tag(pages.FAILURE, training.failure)
                _describe(training.details)
            if training.status == "FINISHED":
                seal.put(_active())
        mlflow.end_run(training.status)


def log_late(training: Journal, folder: Path, example: Split | None) -> None:
    """Log a whole training after its end; without an example, it came to no outputs."""
    with answering():
        try:
            if example:
                log_training(training, folder, example)
            else:
                begin(training)
                log_epochs(training)
        except BaseException:
            mlflow.end_run("KILLED")  # to be completed another time
            raise
        end(training)
        run = _find(f"tags.{ATTEMPT} = '{training.attempt}'")
        assert run is not None
        client().set_terminated(run.info.run_id, training.status, training.ended)


def with_context(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags, and those that MLflow sets by itself on a run that it starts: the user, the script."""
    found: dict[str, str] = resolve_tags(tags)
    return found


def _log_dataset(details: Mapping[str, Any]) -> None:
    """Tell the active run which images it was trained on, by name, number and digest."""
    images = details["training_images"]
    # Stands for them all by its shape, which is all that MLflow looks at when it is told the digest.
    blank = np.broadcast_to(np.uint8(0), (images, SIZE, SIZE))
    dataset = mlflow.data.from_numpy(blank, name=details["dataset"], digest=details["training_sha256"][:16])
    mlflow.log_input(dataset, context="training", tags={"images": str(images)})


def _log_outputs(folder: Path, example: Split, seconds: float | None) -> None:
    """Log what a train stage made to the active run: its files, and the model as one that MLflow can load and serve.

    `example` gives the logged model's input example; `seconds` is the time from start to end of training.
    """
    details = read_json(folder / "training.json")
    for file in sorted(folder.iterdir()):
        mlflow.log_artifact(str(file))
    model_id = _log_model(folder / "model.keras", details["model"], example)
    best = history.best(history.read(folder / "history.csv"))
    # Beside the last epoch's figures, which MLflow shows for the run's: those of the epoch that was kept. On the logged
    # model too, for its own page.
    values = {
        "best_epoch": best.epoch,
        "best_val_loss": best.val_loss,
        "best_val_accuracy": best.val_accuracy,
        "parameters": details["parameters"],
    }
    if seconds is not None:
        values["seconds"] = round(seconds, 1)
    logged = mlflow.get_run(_active()).data.metrics  # before a crash
    mlflow.log_metrics({key: value for key, value in values.items() if key not in logged}, model_id=model_id)
    mlflow.set_tag(MODEL_MD5, md5(folder / "model.keras"))
    _describe(details)


def _describe(details: Mapping[str, Any], test: Mapping[str, float] | None = None, run_id: str | None = None) -> None:
    """Write a run's description, the active one's unless told: what is known by now; `test` is its test metrics."""
    run_id = run_id or _active()
    tags = client().get_run(run_id).data.tags
    client().set_tag(run_id, pages.DESCRIPTION, pages.description(run_id, details, tags, test))


def logged_model(run: Run) -> str | None:
    """The ID of the run's logged model, if it has one that is whole."""
    model = _logged_model(run.info.run_id)
    return str(model.model_id) if model and model.status == LoggedModelStatus.READY else None


def _logged_model(run_id: str) -> LoggedModel | None:
    """The run's logged model, whole or not."""
    return next(iter(client().search_logged_models([experiment()], f"source_run_id = '{run_id}'")), None)


def _log_model(path: Path, name: str, example: Split) -> str:
    """Log the active run's model as one that MLflow can load and serve; returns its ID.

    MLflow's own `log_model` would begin another where a crash left one half-logged, and what is linked to a run stays
    linked. This completes it.
    """
    from mnistflow.backend import keras  # serving.py imports Keras: let it be quiet, and set up for this machine

    run = mlflow.get_run(_active())
    run_id, params = run.info.run_id, run.data.params
    model = _logged_model(run_id)
    if model is None:
        model = client().create_logged_model(experiment(), name, run_id, with_context({}), params)
    if model.status == LoggedModelStatus.READY:
        return str(model.model_id)
    with tempfile.TemporaryDirectory() as folder:
        mlflow.pyfunc.save_model(
            path=str(Path(folder, "model")),
            mlflow_model=Model(model.artifact_location, run_id, model_uuid=model.model_id, model_id=model.model_id),
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
            pip_requirements=[
                f"keras=={keras.__version__}",
                *installed("mlflow", "numpy", "tensorflow-cpu", "tensorflow", "jax"),
            ],
        )
        client().log_model_artifacts(model.model_id, str(Path(folder, "model")))
    if not (run.outputs and run.outputs.model_outputs):
        client().log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    client().finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return str(model.model_id)


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
    return next(iter(_search(condition)), None)


def _runs_of(model_md5: str) -> list[Run]:
    """All runs that came to the model with this hash: a training that is repeated comes to the same."""
    return _search(f"tags.{MODEL_MD5} = '{model_md5}'")


def _search(condition: str) -> list[Run]:
    """The runs of the experiment that meet a condition, the newest first."""
    return list(client().search_runs([experiment()], condition, order_by=["attributes.start_time DESC"]))


def _active() -> str:
    run = mlflow.active_run()
    assert run is not None
    return str(run.info.run_id)


def _adopt_evaluation(folder: Path) -> None:
    """Give the active run the test metrics of an earlier run with the same model.

    Where a training is repeated and ends in the same bytes, DVC rightly does not evaluate them again.
    """
    earlier = find_run(md5(folder / "model.keras"), evaluated=True)
    if earlier is None:
        return
    test = {key: value for key, value in earlier.data.metrics.items() if key.startswith("test_")}
    mlflow.log_metrics(test, model_id=logged_model(mlflow.get_run(_active())))
    with tempfile.TemporaryDirectory() as copy:
        mlflow.artifacts.download_artifacts(run_id=earlier.info.run_id, artifact_path="evaluation", dst_path=copy)
        mlflow.log_artifacts(str(Path(copy, "evaluation")), "evaluation")
    _describe(read_json(folder / "training.json"), {key.removeprefix("test_"): value for key, value in test.items()})


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


def log_evaluation(
    trained: Path, evaluated: Path, metrics: Path, example: Split, extra: Mapping[str, float] | None = None
) -> None:
    """Put the test metrics and figures of a model on the run that trained it.

    Where this store has no run of that model, because DVC brought it from its cache, the run is written from the train
    stage's outputs first, and tagged as restored. Where several trainings came to that model, each of their runs gets
    what it lacks. `extra` metrics are logged with the rest, on the newest. Does nothing where there is nothing to add.

    Args:
        trained: the train stage's outputs.
        evaluated: the evaluate stage's outputs.
        metrics: the evaluate stage's metrics file.
        example: images for the logged model's input example.
        extra: further metrics of the evaluation.
    """
    model_md5 = md5(trained / "model.keras")
    report = read_json(evaluated / "report.json")
    if not isinstance(report, dict) or report.get("model_md5") != model_md5:
        raise WorkflowError(f"{evaluated} belongs to another model than {trained}; run `dvc repro`.")
    with answering():
        values = {**read_json(metrics), **(extra or {})}
        for place, run in enumerate(_runs_of(model_md5) or [_restore(trained, example)]):
            if seal.is_broken(run):
                print(f"{_called(run)}; `make record` writes it anew")
            elif "test_accuracy" not in run.data.metrics or (extra and place == 0):
                _log_evaluation(run, evaluated, values, read_json(trained / "training.json"))
            elif seal.SEAL not in run.data.tags:  # a crash came before it
                seal.put(run.info.run_id)


def _log_evaluation(run: Run, evaluated: Path, values: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    """Through a client: the run is over and stays so, its duration that of its training."""
    run_id, name, said = run.info.run_id, run.data.tags["model"], evaluation.read(evaluated)
    seal.lift(run)
    client().log_artifacts(run_id, str(evaluated), "evaluation")
    confusion = figures.confusion({name: evaluation.confusion_matrix(said.labels, said.predictions)}, said.classes)
    client().log_figure(run_id, confusion, "evaluation/confusion.png")
    # No wider than the page's column, where the description shows it.
    client().log_figure(run_id, figures.errors(name, said), "evaluation/errors.png", save_kwargs={"dpi": 80})
    _describe(details, values, run_id)
    # Last, because by these a run is taken for evaluated. On the logged model too.
    model_id = logged_model(run)
    of_test = {f"test_{key}": values[key] for key in sorted(values.keys() - OF_TRAINING)}
    new = {key: value for key, value in of_test.items() if value != run.data.metrics.get(key)}
    client().log_batch(run_id, [Metric(key, value, now(), 0, model_id) for key, value in new.items()])
    seal.put(run_id)


def set_aside_damaged() -> list[str]:
    """Take those runs out of use whose settings or figures are no longer what was logged; returns a sentence for each.

    They keep what they hold, and are tagged `damaged`. Where a run's model is at hand, `log_evaluation` writes another.
    """
    said = []
    with answering():
        for run in seal.broken():
            run_id, tags = run.info.run_id, run.data.tags
            client().set_tag(run_id, DAMAGED, "its settings or figures are no longer those that were logged")
            client().set_tag(run_id, pages.DESCRIPTION, pages.DAMAGED)
            for key in {MODEL_MD5, ATTEMPT, seal.SEAL} & tags.keys():
                client().delete_tag(run_id, key)
            said.append(f"{_called(run)}; it is tagged `{DAMAGED}` now")
    return said


def _called(run: Run) -> str:
    info = run.info
    return f"MLflow's run {info.run_id} ({info.run_name}) no longer holds the settings and figures that were logged"


def name_runs(models: Iterable[str], name: str) -> None:
    """Put the trainings of these models, by their MD5s, under the name of a DVC experiment, unless they have one."""
    with answering():
        for run in (run for model in models for run in _runs_of(model)):
            if provenance.EXPERIMENT not in run.data.tags:
                run_id = run.info.run_id
                client().set_tag(run_id, provenance.EXPERIMENT, name)
                client().update_run(run_id, name=f"{run.data.tags['model']} ({name})")
                test = {key.removeprefix("test_"): value for key, value in run.data.metrics.items() if "test_" in key}
                _describe(mlflow.artifacts.load_dict(f"runs:/{run_id}/training.json"), test, run_id)


def attach(page: Path, model_md5: str) -> None:
    """Put a file on the run that trained the model with this hash, in the place of an earlier one of its name.

    Raises:
        WorkflowError: this store has no such run.
    """
    with answering():
        run = find_run(model_md5)
        if run is None:
            raise WorkflowError(f"the record has no run of the model {model_md5}; `make record` writes it.")
        client().log_artifact(run.info.run_id, str(page))


def _restore(trained: Path, example: Split) -> Run:
    """A run written from the outputs of a training that this store never saw."""
    details, model_md5 = read_json(trained / "training.json"), md5(trained / "model.keras")
    # MLflow would note what is checked out and running now, which is not what made this model.
    unknown = {provenance.COMMIT: "unknown", "mlflow.source.name": "restored from DVC's outputs"}
    tags = with_context({"model": details["model"], "restored": "true", **unknown})
    training = Journal(details, tags, attempt=f"restoring {model_md5}")
    training.note(history.read(trained / "history.csv"))
    training.status, training.ended = "FINISHED", now()
    log_late(training, trained, example)
    restored = find_run(model_md5)
    assert restored is not None
    return restored
