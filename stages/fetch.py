"""Bring the data set's files into a folder, from the first source that has them."""

import os
from pathlib import Path

from mnistflow import cli, datasets, params, workspace


def main(output: Path) -> None:
    settings = params.load().fetch
    name = settings.dataset
    mine = os.environ.get("MNISTFLOW_SOURCE")
    sources = [*([mine] if mine else []), *settings.sources.get(name, [])]
    datasets.fetch(name, sources, workspace.root(), workspace.cache() / "downloads" / name, output, mine)


if __name__ == "__main__":
    cli.run(main)
