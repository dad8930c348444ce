"""Bring the data set's files into data/raw, from the first source that has them."""

import os

from mnistflow.core import cli, files, params
from mnistflow.data import catalog, formats, sources


def main() -> None:
    name = params.load().fetch.dataset
    dataset = catalog.load(name)
    if dataset.format == "scikit-learn":
        formats.write_digits(files.RAW)
        print(f"{name}: the images that scikit-learn has")
        return
    first = os.environ.get("MNISTFLOW_SOURCE")
    places = [first, *dataset.sources] if first else dataset.sources
    sources.fetch(dataset.files, places, files.cache() / "downloads" / name, files.RAW)


if __name__ == "__main__":
    cli.run(main)
