"""Put the selected model's metrics under names that do not depend on it, and compare the models image by image."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from mnistflow import cli, evaluation, params
from mnistflow.workspace import WorkflowError, read_json, write_json

PAIRS = (("cnn", "dense"), ("compact", "cnn"))  # each model against its baseline


def main(evaluated: Path, metrics: Path, selected: Path, comparison: Path) -> None:
    settings = params.load().evaluate
    values = read_json(metrics / f"{settings.model}.json")
    write_json(selected, values)

    met = values["accuracy"] >= settings.target_accuracy
    result = {"target_accuracy": settings.target_accuracy, "target_met": met}
    for model, baseline in PAIRS:
        ours, theirs = (evaluation.read(evaluated / name) for name in (model, baseline))
        if not np.array_equal(ours.labels, theirs.labels):
            raise WorkflowError(f"{model} and {baseline} were evaluated on different test images; run `dvc repro`.")
        found = evaluation.compare(ours.labels, theirs.predictions, ours.predictions)
        result[f"{model}_vs_{baseline}"] = asdict(found)
        print(
            f"{model} against {baseline}: {100 * found.gain:+.2f} points, {found.fixed} errors fixed, "
            f"{found.introduced} introduced, McNemar p = {found.mcnemar_p:.2g}"
        )
    write_json(comparison, result)
    verdict = "meets" if met else "misses"
    print(f"{settings.model}: {values['accuracy']:.2%} {verdict} the target of {settings.target_accuracy:.2%}")


if __name__ == "__main__":
    cli.run(main)
