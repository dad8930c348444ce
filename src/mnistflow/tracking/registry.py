"""Register the selected model in MLflow: `python -m mnistflow.tracking.registry`. `make register` runs the gate before.

A model becomes one version of `mnistflow`, however often this runs. The alias `champion` is the version to serve. It
moves to a new version that is significantly better on the same test images; any other gets the alias `challenger`.
"""

import json
from typing import Any

import numpy as np

from mnistflow.core import cli, params
from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import EVALUATION, LOCK, MODELS, check_locked, md5
from mnistflow.data import arrays
from mnistflow.data.arrays import Description
from mnistflow.evaluation import comparisons, predictions
from mnistflow.evaluation.predictions import Predictions
from mnistflow.tracking import descriptions, provenance, runs, store

NAME = "mnistflow"
SIGNIFICANT = 0.05  # level of significance of McNemar's test


def main() -> None:
    """Register the selected model, set its alias, and print the reason."""
    name = params.load().evaluate.model
    model = MODELS / name / "model.keras"
    check_locked(model)
    evaluation = predictions.read(EVALUATION / name)
    store.connect()
    runs.log_evaluation(name)
    with store.session(), store.alone():
        version = register(md5(model), evaluation, arrays.describe())
        reason = promote(version, evaluation)
    print(f"version {version.version} of {NAME} is this {name}, MD5 {md5(model)}: {reason}")
    print(f"Next: {descriptions.SERVE}")


def register(model_md5: str, evaluation: Predictions, dataset: Description) -> Any:
    """The version of the model with this hash, made from its run's logged model if needed.

    Raises:
        WorkflowError: the logged model was deleted.
    """
    client, run = store.client(), runs.of_model(model_md5)[0]
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME, description=descriptions.MODEL)
    if existing := versions(model_md5):
        return existing[0]
    model_id = runs.logged_model_id(run.info.run_id)
    if model_id is None:
        raise WorkflowError(f"run {run.info.run_id} lost its logged model; delete that run, and `make register` again.")
    state, metrics, name = provenance.code_state(), evaluation.metrics, run.data.tags["model"]
    tags = {
        "model": name,
        "dataset": dataset.dataset,
        "model_md5": model_md5,
        "dvc_lock_md5": md5(LOCK),
        "git_commit": state.get(provenance.COMMIT, "none"),
        "git_dirty": state.get("git_dirty", "true"),
        **{key: str(metrics[key]) for key in ("accuracy", "errors", "loss", "selected_on")},
    }
    text = descriptions.model_version(name, metrics, dataset.dataset, dataset.shape, dataset.classes)
    client.create_model_version(NAME, f"models:/{model_id}", run.info.run_id, tags, description=text, model_id=model_id)
    # A server has no lock: if two processes do this at once, the first one's version stays.
    first, *others = versions(model_md5)
    for other in others:
        client.delete_model_version(NAME, other.version)
    # With this tag, the logged model's page links to its version.
    link = json.dumps([{"name": NAME, "version": first.version}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": link})
    return first


def versions(model_md5: str) -> list[Any]:
    """The versions of the model with this hash, the oldest first."""
    versions = store.client().search_model_versions(f"name = '{NAME}' and tag.model_md5 = '{model_md5}'")
    return sorted(versions, key=lambda version: int(version.version))


def promote(version: Any, evaluation: Predictions) -> str:
    """Set the version's alias; returns the decision and its reason in words.

    It becomes champion if there is none, or if it is significantly better than the champion on the same images.
    """
    client = store.client()
    # A server returns version numbers as text, a database as numbers.
    aliases = {alias: str(number) for alias, number in client.get_registered_model(NAME).aliases.items()}
    champion, this = aliases.get("champion"), str(version.version)
    if champion is None:
        client.set_registered_model_alias(NAME, "champion", this)
        return "there was no champion, and it becomes that"
    if champion == this:
        return "it is the champion already"
    champions = runs.predictions_of(client.get_model_version(NAME, champion).run_id)
    if champions.classes != evaluation.classes or not np.array_equal(champions.labels, evaluation.labels):
        return (
            f"no alias moves, because version {champion}, the champion, was tested on other images; "
            "move it in MLflow if this one is to be served"
        )
    comparison = comparisons.compare(evaluation.labels, champions.predictions, evaluation.predictions)
    if comparison.gain > 0 and comparison.mcnemar_p < SIGNIFICANT:
        client.set_registered_model_alias(NAME, "champion", this)
        if aliases.get("challenger") == this:
            client.delete_registered_model_alias(NAME, "challenger")
        return f"it becomes champion: {comparison} against version {champion}"
    client.set_registered_model_alias(NAME, "challenger", this)
    return f"it is the challenger, and version {champion} stays champion: {comparison} against it"


if __name__ == "__main__":
    cli.run(main)
