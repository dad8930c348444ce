"""Texts for MLflow's pages: descriptions of runs and model versions, and the columns of the table of runs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mnistflow.tracking.provenance import COMMIT

DESCRIPTION = "mlflow.note.content"  # the tag that MLflow shows as a description, in Markdown
FAILURE = "failure"  # the tag with the reason why a training failed

COLUMNS = (
    *("metrics.`test/accuracy`", "metrics.`test/errors`", "metrics.`best_val_accuracy`", "metrics.`seconds`"),
    *("params.`dataset`", "params.`network`", "params.`epochs`", "params.`batch_size`", "params.`learning_rate`"),
    *("params.`seed`", "tags.`selected_on`", "tags.`dvc_experiment`", "tags.`pipeline`"),
)
EXPERIMENT_TAGS = {
    # Opens the experiment in the pages for trained models rather than those for language models.
    "mlflow.experimentKind": "custom_model_development",
    DESCRIPTION: (
        "A run for each training: its settings, curves, best checkpoint and figures. The view `results` (menu Views) "
        "has the columns that matter."
    ),
    # A view of the table of runs, as MLflow's pages save one: in the menu Views, and ?viewStateShareKey=results.
    "mlflow.sharedViewState.results": json.dumps(
        {"name": "results", "createdAt": 0, "updatedAt": 0, "state": json.dumps({"selectedColumns": COLUMNS})}
    ),
}

# The registered model's description.
MODEL = """Classifies images of raw 0-255 pixels.

- `champion` is the version to serve. It moves only to one that is significantly better on the same test images
  (McNemar's test, p < 0.05).
- `challenger` is the last one that was not.
"""
SERVE = "mlflow models serve -m models:/mnistflow@champion --env-manager local -p 5001"


def run(
    run_id: str, details: Mapping[str, Any], tags: Mapping[str, str], test: Mapping[str, float] | None = None
) -> str:
    """A run's description in Markdown: its result, settings, the commands that repeat it, figures.

    Args:
        run_id: for the addresses of figures.
        details: the content of training.json, which is incomplete during the training.
        tags: the run's tags.
        test: the model's metrics on the test set, after the evaluation.
    """
    parts = [result(details["model"], test), _facts(details), _origin(details["model"], tags)]
    if FAILURE in tags:
        parts.insert(0, f"It failed: {tags[FAILURE]}")
    if "best_epoch" in details:
        parts.append(_figure(run_id, "loss.png", "loss by epoch"))
    if test:
        parts.append(_figure(run_id, "evaluation/errors.png", "the misclassified test images"))
    # Short lines: the page does not wrap them if a figure is wider than its column.
    return "\n\n".join(parts) + "\n"


def result(model: str, test: Mapping[str, float] | None) -> str:
    """A model's result on the test set, in a sentence."""
    if not test:
        return f"{model}, not evaluated on the test set yet."
    return (
        f"{model}: {test['accuracy']:.2%} of the test images right, {test['errors']:.0f} wrong "
        f"(95% interval {test['accuracy_low']:.2%} to {test['accuracy_high']:.2%})."
    )


def logged_model(
    model: str, test: Mapping[str, float] | None, dataset: str, shape: Sequence[int], classes: Sequence[str]
) -> str:
    """A logged model in Markdown: its result, its data set, its input and its output."""
    size = ", ".join(map(str, ["n", *shape]))
    ink = "; 0 is background and 255 is ink" if len(shape) < 3 else ""
    names = ", ".join(classes[:30]) + (", ..." if len(classes) > 30 else "")
    return (
        f"{result(model, test)}\n\nTrained on {dataset}.\n\n"
        f"Takes raw 0-255 pixels, ({size}){ink}; or pictures in base64. Gives a class and "
        f"{len(classes)} probabilities for each image. The classes: {names}.\n"
    )


def model_version(
    model: str, test: Mapping[str, float], dataset: str, shape: Sequence[int], classes: Sequence[str]
) -> str:
    """A version of the registered model in Markdown: the logged model, and how to serve it."""
    text = logged_model(model, test, dataset, shape, classes)
    return f"{text}\nWhere it is the champion, this serves it:\n\n    {SERVE}\n"


def _facts(details: Mapping[str, Any]) -> str:
    """A list of the images, the settings and the best epoch."""
    settings = details["settings"]
    facts = [f"trained on {details['training_images']:,} images of {details['dataset']}"]
    if details["selected_on"] == "test":
        facts.append("its best epoch was chosen on the test set, as in the book, which flatters its test accuracy")
    else:
        facts.append(f"its best epoch was chosen on {details['validation']:,} images held out of the training set")
    if "best_epoch" in details:
        best, epochs, parameters = details["best_epoch"], details["epochs"], details["parameters"]
        facts.append(f"epoch {best} of {epochs} is the best; {parameters:,} parameters")
    peak = " at the peak of one cycle" if settings["schedule"] == "one_cycle" else ""
    facts.append(f"{settings['optimizer']}, learning rate {settings['learning_rate']}{peak}")
    facts.append(f"batches of {settings['batch_size']}, seed {settings['seed']}")
    if settings.get("average"):
        facts.append(f"its weights are a moving average over the steps, with a decay of {settings['average']}")
    if settings.get("smoothing"):
        facts.append(f"a share of {settings['smoothing']} of each label is spread over all classes")
    changes = {
        "shift": "shifted by up to {} px",
        "rotate": "turned by up to {}°",
        "zoom": "resized by up to {:.0%}",
        "bend": "bent by up to {} px",
    }
    augmented = [text.format(settings[key]) for key, text in changes.items() if settings.get(key)]
    if augmented:
        facts.append(f"each image {', '.join(augmented)}, at random, anew every epoch")
    return "\n".join(f"- {fact}" for fact in facts)


def _origin(model: str, tags: Mapping[str, str]) -> str:
    """The commands that repeat the run, or why there are none."""
    commit = tags.get(COMMIT)
    if tags.get("restored"):
        search = f"git log --format=%h -S {tags.get('model_md5', 'MD5')} -- dvc.lock | tail -n 1"
        text = "Restored from DVC's outputs: this store did not see the training. The commit that first had its model:"
        commands = [f"git checkout $({search})", "make repro"]
    elif not commit:
        return "It ran outside of a git repository; its settings are the parameters below."
    elif "overrides" in tags:
        text = f"Trial {tags.get('trial')} of the run above it. To repeat its training:"
        commands = [f"git checkout {commit}", f"dvc exp run {tags['overrides']}"]
    elif tags["git_dirty"] == "true":  # as in an experiment of DVC's, which may never be saved
        return (
            f"It ran on top of commit `{commit}`\n\nwith changes that were not committed: "
            f"{tags.get('git_changes', 'unknown ones')}.\n\n"
            "That commit alone does not repeat it; its settings are the parameters below."
        )
    else:
        text = "To repeat it:"
        commands = [f"git checkout {commit}", "make repro"]
    again = f"This trains it anew, whatever DVC's cache holds: `dvc repro --force --single-item train@{model}`"
    return "\n".join([text, "", *(f"    {command}" for command in commands), "", again])


def _figure(run_id: str, path: str, caption: str) -> str:
    """An image of a run's artifacts, at the relative address that works on any server."""
    return f"![{caption}](get-artifact?path={path.replace('/', '%2F')}&run_uuid={run_id})"
