"""The metric gate: `python -m mnistflow.gate REV` fails when the selected model is not good enough.

Good enough is: it reaches its target, it is not worse than the dense baseline, and it is not worse than it was at the
Git revision REV. Worse means by more than chance: the other accuracy lies above the model's own 95% interval.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mnistflow import cli, params
from mnistflow.workspace import WorkflowError, read_json

SELECTED = Path("metrics/selected.json")
BASELINE = Path("metrics/dense.json")


def complaints(selected: dict[str, Any], target: float, others: dict[str, float]) -> list[str]:
    """What is wrong with the metrics of the selected model, a sentence each.

    Args:
        selected: its metrics.
        target: the accuracy that it should reach.
        others: accuracies to hold it against, by the name of what has them.
    """
    accuracy, high = selected["accuracy"], selected["accuracy_high"]
    found = []
    if accuracy < target:
        found.append(f"accuracy {accuracy:.2%} misses the target of {target:.2%}")
    found += [
        f"accuracy {accuracy:.2%} (95% interval up to {high:.2%}) is worse than the {other:.2%} of {name}"
        for name, other in others.items()
        if other > high
    ]
    return found


def commit_of(revision: str) -> str:
    """The hash of the commit that a Git revision names.

    Raises:
        WorkflowError: it names none.
    """
    verify = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkflowError(
            f"{revision!r} is no commit of this repository; main or HEAD~1 would be one "
            "(a shallow clone has only the newest: git fetch --unshallow)."
        )
    return done.stdout.strip()


def accuracy_at(revision: str) -> float | None:
    """The selected model's accuracy as committed at a Git revision; None where it had none yet.

    Raises:
        WorkflowError: there is no such revision, or DVC can't read it.
    """
    commit_of(revision)
    command = [sys.executable, "-m", "dvc", "metrics", "diff", "--json", "--all", revision, "--targets", str(SELECTED)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkflowError(f"the metrics at {revision!r} can't be read: {done.stderr.strip()}")
    accuracy: float | None = json.loads(done.stdout).get(str(SELECTED), {}).get("accuracy", {}).get("old")
    return accuracy


def verdict(revision: str) -> str:
    """That the selected model passes, in a sentence, held against a Git revision.

    Raises:
        WorkflowError: it does not; what is wrong with it.
    """
    evaluate = params.load().evaluate
    selected = read_json(SELECTED)
    if selected != read_json(SELECTED.with_name(f"{evaluate.model}.json")):
        raise WorkflowError(f"{SELECTED} does not hold the metrics of {evaluate.model}; run `dvc repro`.")
    others = {"the dense baseline": read_json(BASELINE)["accuracy"]}
    earlier = accuracy_at(revision)
    unknown = f"; commit {revision} has no metrics to compare with" if earlier is None else ""
    if earlier is not None:
        others[f"commit {revision}"] = earlier
    if found := complaints(selected, evaluate.target_accuracy, others):
        raise WorkflowError(f"{evaluate.model} does not pass: {'; '.join(found)}{unknown}.")
    return (
        f"{evaluate.model} passes: accuracy {selected['accuracy']:.2%} reaches {evaluate.target_accuracy:.2%}, "
        + ", ".join(f"{name} has {accuracy:.2%}" for name, accuracy in others.items())
        + unknown
    )


def main(revision: str) -> None:
    """Print the verdict; fail with a sentence for each thing that is wrong."""
    print(verdict(revision))


if __name__ == "__main__":
    cli.run(main)
