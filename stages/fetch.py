"""Bring the data set's files into data/raw, from the first source that has them; of pictures, a list."""

import hashlib
import os

from mnistflow.core import cli, files, params
from mnistflow.data import catalog, formats, pictures, sources
from mnistflow.data.catalog import Dataset


def main() -> None:
    name = params.load().fetch.dataset
    dataset = catalog.load(name)
    if dataset.format == "scikit-learn":
        formats.write_digits(files.RAW)
        print(f"{name}: the images that scikit-learn has")
        return
    if dataset.format == "pictures":
        list_pictures(name, dataset)
        return
    first = os.environ.get("MNISTFLOW_SOURCE")
    places = [first, *dataset.sources] if first else dataset.sources
    sources.fetch(dataset.files, places, files.cache() / "downloads" / name, files.RAW, dataset.archive)


def list_pictures(name: str, dataset: Dataset) -> None:
    folder = pictures.folder_of(name)
    found, skipped = pictures.scan(folder)
    pictures.check_classes(folder, found, dataset.classes, name)
    listed = [each._replace(sha256=pictures.sha256(folder / each.path)) for each in found]
    text = pictures.table(listed)
    files.RAW.mkdir(parents=True, exist_ok=True)
    (files.RAW / pictures.TABLE).write_text(text, encoding="utf-8", newline="\n")
    is_as_imported = hashlib.sha256(text.encode()).hexdigest() == dataset.sha256
    change = "" if is_as_imported else f", not exactly the {dataset.count} of the import"
    print(f"{name}: {len(listed):,} pictures in {folder}{change}")
    print("\n".join(pictures.left_out(skipped)), end="\n" * bool(skipped))


if __name__ == "__main__":
    cli.run(main)
