"""What people read on MLflow's pages: a run's description, a model version's, and the columns of the table of runs.

Plain values in, text out; tracking.py and registry.py put it there.
"""

import json
from collections.abc import Mapping
from typing import Any

from mnistflow.provenance import COMMIT, EXPERIMENT

DESCRIPTION = "mlflow.note.content"  # the tag that MLflow shows as a run's description, in Markdown
FAILURE = "failure"  # the tag that says what a training failed of

# The description of a run that no longer holds what was logged to it.
DAMAGED = "Damaged: the settings and figures below are not those that were logged. Do not rely on them."

# The tag of an experiment that holds a view of its table: one of the menu Views, and ?viewStateShareKey=results.
VIEW = "mlflow.sharedViewState.results"
COLUMNS = (
    *("metrics.`test_accuracy`", "metrics.`test_errors`", "metrics.`seconds`"),
    *("params.`dataset`", "tags.`model`", "tags.`selected_on`", "tags.`dvc_experiment`", "tags.`pipeline`"),
)

# The registered model's description.
MODEL = """Classifies images of 28x28 raw 0-255 pixels.

- `champion` is the version to serve. It moves only to one that is significantly better on the same test images
  (McNemar's test, p < 0.05).
- `challenger` is the last one that was not.
"""
SERVE = "mlflow models serve -m models:/mnistflow@champion --env-manager local -p 5001"


def view() -> str:
    """The view `results` in the form in which MLflow's pages save one: the columns that matter here."""
    state = json.dumps({"selectedColumns": COLUMNS})
    return json.dumps({"name": "results", "createdAt": 0, "updatedAt": 0, "state": state})


def description(
    run_id: str, details: Mapping[str, Any], tags: Mapping[str, str], test: Mapping[str, float] | None = None
) -> str:
    """A run in Markdown: how it did, what it is, how to have it again, its figures.

    Lines are short, because the page does not wrap them where a figure is wider than its column.

    Args:
        run_id: the run, for the addresses of its figures.
        details: what the train stage writes to training.json; before the training, what it knows of that.
        tags: the run's.
        test: the model's metrics on the test set, where it was evaluated.
    """
    parts = [result(details["model"], test), _facts(details), _origin(details["model"], tags)]
    if FAILURE in tags:
        parts.insert(0, f"It failed: {tags[FAILURE]}")
    if "best_epoch" in details:
        parts.append(_figure(run_id, "loss.png", "loss by epoch"))
    if test:
        parts.append(_figure(run_id, "evaluation/errors.png", "the test images that it got wrong"))
    return "\n\n".join(parts) + "\n"


def result(model: str, test: Mapping[str, float] | None) -> str:
    """How a model did on the test set, in a sentence."""
    if not test:
        return f"{model}, not evaluated on the test set yet."
    return (
        f"{model}: {test['accuracy']:.2%} of the test images right, {test['errors']:.0f} wrong "
        f"(95% interval {test['accuracy_low']:.2%} to {test['accuracy_high']:.2%})."
    )


def version(model: str, test: Mapping[str, float], dataset: str) -> str:
    """A version of the registered model in Markdown: how it did, what goes in and what comes out."""
    return (
        f"{result(model, test)}\n\nTrained and tested on {dataset}.\n\n"
        "Takes uint8 (n, 28, 28), 0 is background and 255 is ink; gives a class and ten probabilities for each. "
        f"Where it is the champion, this serves it:\n\n    {SERVE}\n"
    )


def _facts(details: Mapping[str, Any]) -> str:
    """What was trained, on which images, with which settings."""
    settings = details["settings"]
    facts = [f"trained on {details['training_images']:,} images of {details['dataset']}"]
    if details["selected_on"] == "test":
        facts.append("its checkpoint was chosen on the test set, as in the book, which flatters its test accuracy")
    else:
        facts.append(f"its checkpoint was chosen on {details['validation']:,} images held out of the training set")
    if "best_epoch" in details:
        kept, epochs, parameters = details["best_epoch"], details["epochs"], details["parameters"]
        facts.append(f"epoch {kept} of {epochs} was kept; {parameters:,} parameters")
    peak = " at the peak of one cycle" if settings["schedule"] == "one_cycle" else ""
    facts.append(f"{settings['optimizer']}, learning rate {settings['learning_rate']}{peak}")
    facts.append(f"batches of {settings['batch_size']}, seed {settings['seed']}")
    moves = {
        "shifted by up to {} px": "shift",
        "turned by up to {}°": "rotate",
        "enlarged by up to a share of {}": "zoom",
    }
    if moved := [words.format(settings[key]) for words, key in moves.items() if settings.get(key)]:
        facts.append(f"each image {', '.join(moved)}, at random, anew every epoch")
    return "\n".join(f"- {fact}" for fact in facts)


def _origin(model: str, tags: Mapping[str, str]) -> str:
    """How to have it again: commands that are true of the state that it ran in, or what is missing for them."""
    commit, experiment = tags.get(COMMIT), tags.get(EXPERIMENT)
    if tags.get("restored"):
        said = "Restored from DVC's outputs: this store did not see the training. The commit that first had it:"
        if "model_md5" not in tags:
            return "Restored from DVC's outputs: this store did not see the training."
        found = f"git log --format=%h -S {tags['model_md5']} -- dvc.lock | tail -n 1"
        commands = [f"git checkout $({found})", "make repro"]
    elif not commit:
        return "It ran outside of a git repository; its settings are the parameters below."
    elif experiment:
        said = f"To have it again, while DVC keeps it as the experiment `{experiment}` (`dvc exp list --all`):"
        commands = [f"git checkout {commit}", f"dvc exp apply {experiment}"]
    elif tags["git_dirty"] == "true":
        changes = tags.get("git_changes", "which, nobody noted")
        return (
            f"It ran on top of commit `{commit}`\n\nwith changes that were not committed: {changes}.\n\n"
            "That commit alone does not give it; the settings that it ran with are the parameters below."
        )
    elif "overrides" in tags:
        said = f"Trial {tags['trial']} of the run above it. To have its training again:"
        commands = [f"git checkout {commit}", f"dvc exp run {tags['overrides']}"]
    else:
        said = "To have it again:"
        commands = [f"git checkout {commit}", "make repro"]
    again = f"This trains it anew, whatever DVC's cache holds: `dvc repro --force --single-item train@{model}`"
    return "\n".join([said, "", *(f"    {command}" for command in commands), "", again])


def _figure(run_id: str, path: str, caption: str) -> str:
    """A run's image; by the relative address at which the pages themselves ask for it, wherever the server is."""
    return f"![{caption}](get-artifact?path={path.replace('/', '%2F')}&run_uuid={run_id})"
