"""The metric gate: `python -m mnistflow.commands.gate REVISION` fails when the selected model is not good enough.

Good enough is: it reaches its targets, if it has any, on the test images and on corrupted ones; it is not worse than
the baseline, and not worse than it was at the Git revision. Worse means by more than chance: the other accuracy lies
above the model's own 95% interval.

The gate decides by the test set, so it is for accepting or refusing a result, not for choosing settings.
"""

import json
from typing import Any

from ruamel.yaml import YAML

from mnistflow.commands import git, repro
from mnistflow.core import cli, params
from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import METRICS, SELECTED, read_json
from mnistflow.core.params import PARAMS


def complaints(selected: dict[str, Any], target: float, others: dict[str, float]) -> list[str]:
    """What is wrong with the metrics of the selected model, a sentence each.

    Args:
        selected: its metrics.
        target: the accuracy that it should reach; 0 is no target.
        others: accuracies that it is compared with, by the name of what has them.
    """
    accuracy, high = selected["accuracy"], selected["accuracy_high"]
    sentences = []
    if accuracy < target:
        sentences.append(f"accuracy {accuracy:.2%} misses the target of {target:.2%}")
    sentences += [
        f"accuracy {accuracy:.2%} (95% interval up to {high:.2%}) is worse than the {other:.2%} of {name}"
        for name, other in others.items()
        if other > high
    ]
    return sentences


def accuracy_at(revision: str, dataset: str) -> float | None:
    """The selected model's accuracy on a data set as committed at a Git revision; None where it had none there.

    Raises:
        WorkflowError: there is no such revision.
    """
    commit = git.commit_of(revision)
    content, settings = git.file_at(commit, SELECTED), git.file_at(commit, PARAMS)
    if not content or not settings or YAML(typ="safe").load(settings)["fetch"]["dataset"] != dataset:
        return None
    return float(json.loads(content)["accuracy"])


def verdict(revision: str) -> str:
    """That the selected model passes, in a sentence.

    Raises:
        WorkflowError: it does not pass; the reasons.
    """
    settings = params.load()
    evaluate, dataset = settings.evaluate, settings.fetch.dataset
    selected = read_json(SELECTED)
    if selected != read_json(METRICS / f"{evaluate.model}.json"):
        raise WorkflowError(f"{SELECTED} does not hold the metrics of {evaluate.model}; run `dvc repro`.")
    others = {f"the baseline {evaluate.baseline}": read_json(METRICS / f"{evaluate.baseline}.json")["accuracy"]}
    earlier = accuracy_at(revision, dataset)
    unknown = f"; commit {revision} has no metrics on {dataset} to compare with" if earlier is None else ""
    if earlier is not None:
        others[f"commit {revision}"] = earlier
    sentences, reached = complaints(selected, evaluate.target_accuracy, others), []
    if (minimum := evaluate.target_robustness) is not None:
        on_corrupted = selected["robustness"]
        if on_corrupted < minimum:
            sentences.append(f"accuracy {on_corrupted:.2%} on corrupted images misses the target of {minimum:.2%}")
        reached = [f"{on_corrupted:.2%} on corrupted images reaches {minimum:.2%}"]
    if sentences:
        raise WorkflowError(f"{evaluate.model} does not pass: {'; '.join(sentences)}{unknown}.")
    target = evaluate.target_accuracy
    facts = [f"accuracy {selected['accuracy']:.2%}" + (f" reaches {target:.2%}" if target else "")]
    facts += reached + [f"{name} has {accuracy:.2%}" for name, accuracy in others.items()]
    return f"{evaluate.model} passes: {', '.join(facts)}{unknown}"


def main(revision: str = "HEAD") -> None:
    """Print the verdict; fail with the reasons if the model does not pass."""
    text = verdict(revision)
    repro.check_described()
    print(text)


if __name__ == "__main__":
    cli.run(main)
