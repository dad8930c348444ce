"""Ask whose mistakes the models' errors are: the labels' that people dispute, all models' alike, or one model's own."""

from pathlib import Path
from typing import get_args

from mnistflow import audit, cli, evaluation, figures, params
from mnistflow.datasets import DATASETS
from mnistflow.params import ModelName
from mnistflow.workspace import write_json

MODELS = get_args(ModelName)


def main(evaluated: Path, result: Path, sheet: Path) -> None:
    dataset = DATASETS[params.load().fetch.dataset]
    said = {name: evaluation.read(evaluated / name) for name in MODELS}
    found = audit.audit(said, dataset.disputed)
    write_json(result, found)
    figures.save(sheet, audit.sheet(found, audit.pixels(said), dataset.classes))
    for name, counts in found["models"].items():
        errors, disputed, alone = counts.values()
        on_disputed = f"{disputed} on disputed labels, " if dataset.disputed else ""
        print(f"{name}: {errors} errors, {on_disputed}{alone} its own alone")
    print(found["verdict"])


if __name__ == "__main__":
    cli.run(main)
