"""Fetch the data set's files into data/raw. A folder of pictures is listed there, with hashes."""

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
    own = os.environ.get("MNISTFLOW_SOURCE")
    locations = [own, *dataset.sources] if own else dataset.sources
    sources.fetch(dataset.files, locations, files.cache() / "downloads" / name, files.RAW, dataset.archive)


def list_pictures(name: str, dataset: Dataset) -> None:
    folder = pictures.folder_of(name)
    scanned, skipped = pictures.scan(folder)
    pictures.check_classes(folder, scanned, dataset.classes, name)
    listed = [picture._replace(sha256=pictures.sha256(folder / picture.path)) for picture in scanned]
    text = pictures.table(listed)
    files.RAW.mkdir(parents=True, exist_ok=True)
    (files.RAW / pictures.TABLE).write_text(text, encoding="utf-8", newline="\n")
    is_as_imported = hashlib.sha256(text.encode()).hexdigest() == dataset.sha256
    change = "" if is_as_imported else f", not exactly the {dataset.count} of the import"
    print("\n".join([f"{name}: {len(listed):,} pictures in {folder}{change}", *pictures.left_out(skipped)]))


if __name__ == "__main__":
    cli.run(main)
