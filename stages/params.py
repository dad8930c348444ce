"""Check params.yaml and the chosen data set before any stage runs, and write the schema by which editors check it."""

import json
from pathlib import Path

from mnistflow.core import cli, params
from mnistflow.data import catalog

SCHEMA = Path("params.schema.json")


def main() -> None:
    settings = params.load()
    catalog.load(settings.fetch.dataset)
    SCHEMA.write_text(json.dumps(params.Settings.model_json_schema(), indent=2) + "\n", encoding="utf-8")
    print("params.yaml: every value is allowed")


if __name__ == "__main__":
    cli.run(main)
