"""The model registry: `python -m mnistflow.registry REV MODELS EVALUATION METRICS IMAGES` registers the selected model.

The model must pass the gate, held against the Git revision REV. It becomes one version of `mnistflow`, however often
this is run. The alias `champion` is what is served; it moves to a new version that is significantly better on the same
test images, and `challenger` is given to one that is not.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mnistflow import cli, evaluation, gate, pages, params, provenance, splits, store, tracking
from mnistflow.evaluation import Evaluated
from mnistflow.workspace import WorkflowError, check_vouched, md5, read_json

NAME = "mnistflow"
SIGNIFICANT = 0.05  # a difference with a smaller p in McNemar's test is not taken for chance


def main(revision: str, models: Path, evaluated: Path, metrics: Path, images: Path) -> None:
    """Register the selected model, give it the alias that it has earned, and say what was done."""
    gate.main(revision)
    name = params.load().evaluate.model
    model = models / name / "model.keras"
    check_vouched(model)
    if read_json(evaluated / name / "report.json")["model_md5"] != md5(model):
        raise WorkflowError(f"{evaluated / name} belongs to another model than {model}; run `dvc repro`.")
    store.connect()
    with store.answering(), store.alone():
        tracking.log_evaluation(models / name, evaluated / name, metrics / f"{name}.json", splits.load(images))
        version = register(md5(model), read_json(metrics / f"{name}.json"))
        verdict = promote(version, evaluation.read(evaluated / name))
    print(f"version {version.version} of {NAME} is this {name}, MD5 {md5(model)}: {verdict}")
    print(f"Next: {pages.SERVE}")


def register(model_md5: str, metrics: dict[str, Any]) -> Any:
    """The version that holds the model with this hash; made from the logged model of its run, if there is none yet.

    Raises:
        WorkflowError: somebody deleted that logged model.
    """
    client, run = store.client(), tracking.find_run(model_md5)
    assert run is not None  # `record` found it or made it
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME, description=pages.MODEL)
    if found := versions(model_md5):
        return found[0]
    model_id = tracking.logged_model(run)
    if model_id is None:
        raise WorkflowError(f"run {run.info.run_id} lost its logged model; delete that run, and `make register` again.")
    state, name, dataset = provenance.code_state(), run.data.tags["model"], run.data.params["dataset"]
    tags = {
        "model": name,
        "dataset": dataset,
        "model_md5": model_md5,
        "dvc_lock_md5": md5(Path("dvc.lock")),
        "git_commit": state.get(provenance.COMMIT, "none"),
        "git_dirty": state.get("git_dirty", "true"),
        **{key: str(metrics[key]) for key in ("accuracy", "errors", "loss", "selected_on")},
    }
    source, about = f"models:/{model_id}", pages.version(name, metrics, dataset)
    client.create_model_version(NAME, source, run.info.run_id, tags, description=about, model_id=model_id)
    # A server keeps nobody out: where two processes did this at once, the first one's version stays.
    first, *others = versions(model_md5)
    for other in others:
        client.delete_model_version(NAME, other.version)
    # By this tag, the page of the logged model links to its version.
    link = json.dumps([{"name": NAME, "version": first.version}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": link})
    return first


def versions(model_md5: str) -> list[Any]:
    """The versions that hold the model with this hash, the oldest first."""
    found = store.client().search_model_versions(f"name = '{NAME}' and tag.model_md5 = '{model_md5}'")
    return sorted(found, key=lambda version: int(version.version))


def promote(version: Any, said: Evaluated) -> str:
    """Give the version its alias; what was decided and why, in words.

    `said` is what its model said about the test set. It becomes champion where there is none, or where it is
    significantly better than the champion on the same images.
    """
    client = store.client()
    # Text from a server, numbers from a database.
    aliases = {alias: str(number) for alias, number in client.get_registered_model(NAME).aliases.items()}
    champion, this = aliases.get("champion"), str(version.version)
    if champion is None:
        client.set_registered_model_alias(NAME, "champion", this)
        return "there was no champion, and it becomes that"
    if champion == this:
        return "it is the champion already"
    theirs = tracking.evaluation_of(client.get_model_version(NAME, champion).run_id)
    if theirs.classes != said.classes or not np.array_equal(theirs.labels, said.labels):
        return (
            f"no alias moves, because version {champion}, the champion, was tested on other images; "
            "move it in MLflow if this one is to be served"
        )
    found = evaluation.compare(said.labels, theirs.predictions, said.predictions)
    numbers = (
        f"{100 * found.gain:+.2f} points against version {champion}, {found.fixed} errors fixed, "
        f"{found.introduced} introduced, McNemar p = {found.mcnemar_p:.2g}"
    )
    if found.gain > 0 and found.mcnemar_p < SIGNIFICANT:
        client.set_registered_model_alias(NAME, "champion", this)
        if aliases.get("challenger") == this:
            client.delete_registered_model_alias(NAME, "challenger")
        return f"it becomes champion: {numbers}"
    client.set_registered_model_alias(NAME, "challenger", this)
    return f"it is the challenger, and version {champion} stays champion: {numbers}"


if __name__ == "__main__":
    cli.run(main)
