"""Bring the MLflow record up to date with the pipeline's outputs: `python -m mnistflow.tracking.record`.

Stages log while they work. Where DVC skipped a stage, or the store did not answer, the run is written here.
"""

from mnistflow.core import cli, params
from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import EVALUATION, MODELS, check_locked
from mnistflow.tracking import runs, status, store
from mnistflow.training import state


def main() -> None:
    """Record each model whose outputs exist; mark the runs of interrupted trainings as KILLED.

    Raises:
        WorkflowError: no model's outputs exist, or they are not those of dvc.lock.
    """
    store.connect()
    with store.session():
        runs.close_interrupted()
    names = [
        name
        for name in params.load().model_names()
        if (MODELS / name / "model.keras").is_file() and (EVALUATION / name / "report.json").is_file()
    ]
    if not names:
        raise WorkflowError(
            "there is nothing to record: no model is trained and evaluated here; `make repro` does that."
        )
    for name in names:
        check_locked(MODELS / name / "model.keras")
        runs.log_evaluation(name)
    state.delete_finished()
    runs.delete_abandoned()
    status.write()


if __name__ == "__main__":
    cli.run(main)
