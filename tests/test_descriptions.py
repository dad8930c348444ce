"""What people read on MLflow's pages is true of the run, and its commands can be copied."""

import json
from typing import Any

import pytest

from mnistflow.tracking import descriptions

SETTINGS = {"optimizer": "adam", "learning_rate": 0.003, "schedule": "one_cycle", "batch_size": 100, "seed": 1}
BEGUN: dict[str, Any] = {
    "model": "cnn",
    "settings": {**SETTINGS, "shift": 1},
    "dataset": "mnist",
    "validation": 5000,
    "selected_on": "validation",
    "training_images": 55_000,
}
TRAINED = {**BEGUN, "epochs": 5, "best_epoch": 4, "parameters": 1_199_882}
TEST = {"accuracy": 0.994, "accuracy_low": 0.99229, "accuracy_high": 0.99534, "errors": 60}
CLEAN = {"mlflow.source.git.commit": "4d6bfdc", "git_dirty": "false"}
DIRTY = {"mlflow.source.git.commit": "4d6bfdc", "git_dirty": "true", "git_changes": "params.yaml, src/new.py"}


def test_a_description_grows_with_the_run() -> None:
    begun = descriptions.run("a1", BEGUN, CLEAN)
    assert begun.startswith("cnn, not evaluated on the test set yet.\n")
    assert "- trained on 55,000 images of mnist\n" in begun
    assert "- its best epoch was chosen on 5,000 images held out of the training set\n" in begun
    assert "- adam, learning rate 0.003 at the peak of one cycle\n" in begun
    assert "- batches of 100, seed 1\n- each image shifted by up to 1 px, at random, anew every epoch\n" in begun
    assert "get-artifact" not in begun

    trained = descriptions.run("a1", TRAINED, CLEAN)
    assert "- epoch 4 of 5 is the best; 1,199,882 parameters\n" in trained
    assert "![loss by epoch](get-artifact?path=loss.png&run_uuid=a1)" in trained

    tested = descriptions.run("a1", TRAINED, CLEAN, TEST)
    assert tested.startswith("cnn: 99.40% of the test images right, 60 wrong (95% interval 99.23% to 99.53%).\n")
    assert "](get-artifact?path=evaluation%2Ferrors.png&run_uuid=a1)" in tested


def test_a_description_names_all_changes_of_images_and_labels() -> None:
    changes = {"shift": 1, "rotate": 15.0, "zoom": 0.15, "bend": 1.5, "smoothing": 0.005}
    text = descriptions.run("a1", {**BEGUN, "settings": {**SETTINGS, **changes}}, CLEAN)
    assert "- a share of 0.005 of each label is spread over all classes\n" in text
    assert (
        "- each image shifted by up to 1 px, turned by up to 15.0°, resized by up to 15%, bent by up to 1.5 px," in text
    )


def test_an_epoch_chosen_on_the_test_set_is_called_that() -> None:
    details = {**BEGUN, "validation": "test", "selected_on": "test"}
    assert "chosen on the test set, as in the book, which flatters" in descriptions.run("a1", details, CLEAN)


@pytest.mark.parametrize(
    ("tags", "commands"),
    [
        (CLEAN, ["git checkout 4d6bfdc", "make repro"]),
        (
            {"restored": "true", "mlflow.source.git.commit": "unknown", "model_md5": "fe7c"},
            ["git checkout $(git log --format=%h -S fe7c -- dvc.lock | tail -n 1)", "make repro"],
        ),
        ({**DIRTY, "dvc_experiment": "slower"}, []),  # the experiment may never be saved
        (DIRTY, []),
        ({}, []),
    ],
)
def test_commands_are_given_only_where_they_bring_the_run_back(tags: dict[str, str], commands: list[str]) -> None:
    text = descriptions.run("a1", TRAINED, tags, TEST)
    assert [line.strip() for line in text.splitlines() if line.startswith("    ")] == commands
    assert ("`dvc repro --force --single-item train@cnn`" in text) == bool(commands)


def test_changes_that_were_not_committed_are_named() -> None:
    text = descriptions.run("a1", TRAINED, DIRTY)
    assert "commit `4d6bfdc`" in text
    assert "not committed: params.yaml, src/new.py." in text
    assert "outside of a git repository" in descriptions.run("a1", TRAINED, {})


def test_a_version_says_what_it_takes_and_gives() -> None:
    text = descriptions.model_version("cnn", TEST, "mnist", (28, 28), list("0123456789"))
    assert "Takes raw 0-255 pixels, (n, 28, 28); 0 is background and 255 is ink; or pictures in base64." in text
    assert "10 probabilities" in text
    assert descriptions.SERVE in text
    logged = descriptions.logged_model("cnn", None, "mnist", (28, 28), list("0123456789"))
    assert logged.startswith("cnn, not evaluated on the test set yet.\n\nTrained on mnist.")
    assert descriptions.SERVE not in logged
    colour = descriptions.model_version("cnn", TEST, "birds", (32, 32, 3), [f"bird {number}" for number in range(40)])
    assert "ink" not in colour
    assert colour.count("bird ") == 30


def test_the_view_has_the_form_that_the_pages_read() -> None:
    view = json.loads(descriptions.EXPERIMENT_TAGS["mlflow.sharedViewState.results"])
    kinds = {"name": str, "createdAt": int, "updatedAt": int, "state": str}
    assert {key: type(value) for key, value in view.items()} == kinds
    assert "metrics.`test/accuracy`" in json.loads(view["state"])["selectedColumns"]
