"""Bring the MLflow record up to date with DVC's outputs: `python -m mnistflow.record MODELS EVALUATION METRICS IMAGES`.

A stage that DVC skipped or brought from its cache did not run, so it logged nothing. Whatever this tracking store lacks
of the models in the workspace is written from their outputs; what it has is left alone.
"""

from pathlib import Path

from mnistflow import cli, splits, tracking


def main(trained: Path, evaluated: Path, metrics: Path, example: Path) -> None:
    """Record every model of which all outputs are there."""
    tracking.connect()
    for folder in sorted(path.parent for path in trained.glob("*/model.keras")):
        name = folder.name
        if (evaluated / name / "report.json").is_file() and (metrics / f"{name}.json").is_file():
            tracking.record(folder, evaluated / name, metrics / f"{name}.json", splits.load(example))


if __name__ == "__main__":
    cli.run(main)
