"""Check params.yaml before any stage runs, and write its JSON Schema, which editors complete and check it by."""

from pathlib import Path

from mnistflow import cli, params
from mnistflow.workspace import write_json


def main(source: Path, schema: Path) -> None:
    params.load(source)
    write_json(schema, params.Params.model_json_schema())
    print(f"{source}: every value is allowed")


if __name__ == "__main__":
    cli.run(main)
