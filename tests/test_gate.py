"""The gate lets good models pass and says why it stops the others."""

import json

import pytest
from conftest import Project

from mnistflow.gate import complaints

GOOD = {"accuracy": 0.9930, "accuracy_low": 0.9912, "accuracy_high": 0.9945}


def test_a_good_model_passes() -> None:
    assert complaints(GOOD, 0.9928, {"the dense baseline": 0.98, "commit main": 0.9944}) == []


@pytest.mark.parametrize(
    ("target", "others", "sentence"),
    [
        (0.9940, {}, "accuracy 99.30% misses the target of 99.40%"),
        (0.9928, {"the dense baseline": 0.9946}, "is worse than the 99.46% of the dense baseline"),
        (0.9928, {"commit main": 0.9950}, "is worse than the 99.50% of commit main"),
    ],
)
def test_a_bad_one_does_not(target: float, others: dict[str, float], sentence: str) -> None:
    (complaint,) = complaints(GOOD, target, others)
    assert sentence in complaint


def gate(project: Project, revision: str, status: int) -> str:
    return project.run("python", "-m", "mnistflow.gate", revision, status=status, PYTHONPATH="src")


def test_the_command_holds_the_workspace_against_a_commit(repro: Project) -> None:
    selected, params = repro.read("metrics/selected.json"), repro.read("params.yaml")
    dense = repro.read("metrics/dense.json")
    accuracy = json.loads(dense)["accuracy"]
    try:
        (repro.folder / "metrics/selected.json").write_bytes(dense)
        repro.set(evaluate__model="dense", evaluate__target_accuracy=accuracy)
        assert "dense passes" in gate(repro, "HEAD", status=0)

        repro.set(evaluate__target_accuracy=accuracy + 0.01)
        assert "misses the target" in gate(repro, "HEAD", status=1)

        repro.set(evaluate__model="compact")
        assert "does not hold the metrics of compact; run `dvc repro`" in gate(repro, "HEAD", status=1)

        repro.set(evaluate__model="dense")
        worse = {"accuracy": 0.01, "accuracy_low": 0.0, "accuracy_high": 0.02}
        for name in ("selected", "dense"):
            (repro.folder / f"metrics/{name}.json").write_text(json.dumps(worse))
        said = gate(repro, "HEAD", status=1)
        assert "of commit HEAD" in said
        assert said.startswith("error: ")
        assert len(said.splitlines()) == 1
    finally:
        (repro.folder / "params.yaml").write_bytes(params)
        (repro.folder / "metrics/selected.json").write_bytes(selected)
        (repro.folder / "metrics/dense.json").write_bytes(dense)


def test_a_revision_that_does_not_exist_is_named(repro: Project) -> None:
    for revision in ("nonsense", "--help"):
        assert gate(repro, revision, status=1).startswith(f"error: '{revision}' is no commit of this repository")
    first = repro.run("git", "rev-list", "--max-parents=0", "HEAD").strip()
    assert "has no metrics to compare with" in gate(repro, first, status=1)
