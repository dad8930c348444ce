"""What people read on MLflow's pages is true of the run, and its commands can be copied."""

import json
from typing import Any

import pytest

from mnistflow import pages

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
DIRTY = {"mlflow.source.git.commit": "4d6bfdc", "git_dirty": "true", "git_changes": "params.yaml, src/mnistflow/new.py"}


def test_a_description_grows_with_the_run() -> None:
    begun = pages.description("a1", BEGUN, CLEAN)
    assert begun.startswith("cnn, not evaluated on the test set yet.\n")
    assert "- trained on 55,000 images of mnist\n" in begun
    assert "- its checkpoint was chosen on 5,000 images held out of the training set\n" in begun
    assert "- adam, learning rate 0.003 at the peak of one cycle\n" in begun
    assert "- batches of 100, seed 1\n- each image shifted by up to 1 px, at random, anew every epoch\n" in begun
    assert "get-artifact" not in begun

    trained = pages.description("a1", TRAINED, CLEAN)
    assert "- epoch 4 of 5 was kept; 1,199,882 parameters\n" in trained
    assert "![loss by epoch](get-artifact?path=loss.png&run_uuid=a1)" in trained

    tested = pages.description("a1", TRAINED, CLEAN, TEST)
    assert tested.startswith("cnn: 99.40% of the test images right, 60 wrong (95% interval 99.23% to 99.53%).\n")
    assert "](get-artifact?path=evaluation%2Ferrors.png&run_uuid=a1)" in tested


def test_a_checkpoint_chosen_on_the_test_set_is_called_that() -> None:
    details = {**BEGUN, "validation": "test", "selected_on": "test"}
    assert "chosen on the test set, as in the book, which flatters" in pages.description("a1", details, CLEAN)


@pytest.mark.parametrize(
    ("tags", "commands"),
    [
        (CLEAN, ["git checkout 4d6bfdc", "make repro"]),
        ({**DIRTY, "dvc_experiment": "slower"}, ["git checkout 4d6bfdc", "dvc exp apply slower"]),
        (
            {"restored": "true", "mlflow.source.git.commit": "unknown", "model_md5": "fe7c"},
            ["git checkout $(git log --format=%h -S fe7c -- dvc.lock | tail -n 1)", "make repro"],
        ),
        (DIRTY, []),
        ({}, []),
    ],
)
def test_commands_are_given_only_where_they_bring_the_run_back(tags: dict[str, str], commands: list[str]) -> None:
    said = pages.description("a1", TRAINED, tags, TEST)
    assert [line.strip() for line in said.splitlines() if line.startswith("    ")] == commands
    assert ("`dvc repro --force --single-item train@cnn`" in said) == bool(commands)


def test_what_was_not_committed_is_named() -> None:
    said = pages.description("a1", TRAINED, DIRTY)
    assert "commit `4d6bfdc`" in said
    assert "not committed: params.yaml, src/mnistflow/new.py." in said
    assert "outside of a git repository" in pages.description("a1", TRAINED, {})


def test_the_view_has_the_form_that_the_pages_read() -> None:
    view = json.loads(pages.view())
    assert {key: type(value) for key, value in view.items()} == {
        **{"name": str, "createdAt": int, "updatedAt": int},
        "state": str,
    }
    assert "metrics.`test_accuracy`" in json.loads(view["state"])["selectedColumns"]
