"""Validate params.yaml and the chosen data set before any other stage, and write a JSON schema for editors."""

import json
from pathlib import Path

from mnistflow.core import cli, params
from mnistflow.core.errors import WorkflowError
from mnistflow.data import catalog

SCHEMA = Path("params.schema.json")


def main() -> None:
    settings = params.load()
    classes = catalog.load(settings.fetch.dataset).classes
    if settings.explain.label >= len(classes):
        raise WorkflowError(
            f"explain.label in params.yaml is {settings.explain.label}; the classes of {settings.fetch.dataset} are "
            f"0 to {len(classes) - 1}."
        )
    SCHEMA.write_text(json.dumps(params.Settings.model_json_schema(), indent=2) + "\n", encoding="utf-8")
    print("params.yaml: every value is allowed")


if __name__ == "__main__":
    cli.run(main)
