"""Decode the data set, divide it into training, validation and test images, and show what it is made of."""

import hashlib
import json

import numpy as np

from mnistflow.core import cli, files, params
from mnistflow.data import arrays, catalog, formats, pictures, splits
from mnistflow.data.arrays import Split
from mnistflow.data.splits import Part
from mnistflow.figures import samples, style


def main() -> None:
    settings = params.load()
    name, split = settings.fetch.dataset, settings.split
    dataset = catalog.load(name)
    classes, shape = dataset.classes, dataset.shape()
    # Of pictures, the parts hold positions in this list, and the images are decoded when it is known where they go.
    listed = pictures.read_table(files.RAW / pictures.TABLE) if dataset.format == "pictures" else []
    if listed:
        given = pictures.parts(listed, classes)
    else:
        given = {part: Part(*images) for part, images in formats.read(dataset, files.RAW).items()}
    keys = []
    if "test" not in given:
        items = given["training"].items
        keys = [bytes.fromhex(listed[item].sha256) if listed else hashlib.sha256(item).digest() for item in items]
    divided, notes = splits.divide(given, keys, dataset.test, split.validation, split.seed, classes)

    for part, (items, labels) in divided.items():
        if listed and shape:
            chosen = [listed[item] for item in items]
            skipped = pictures.save(arrays.DATA / part, pictures.folder_of(name), chosen, labels, shape)
            notes += pictures.left_out(skipped)
        else:
            arrays.save(arrays.DATA / part, Split(items, labels))
    parts = {part: arrays.load(arrays.DATA / part) for part in arrays.PARTS}
    training = parts["training"]
    held_out = split.validation if split.validation == "test" else len(parts["validation"].labels)
    description = arrays.Description(name, training.images.shape[1:], classes, held_out, dataset.prepare)
    text = json.dumps(description._asdict(), indent=2, ensure_ascii=False)
    arrays.DESCRIPTION.write_text(text + "\n", encoding="utf-8")

    overview = splits.overview(name, parts, classes)
    print("\n".join([*notes, overview.partition("\n\nthe first")[0]]))
    files.OVERVIEW.mkdir(exist_ok=True)
    (files.OVERVIEW / "overview.txt").write_text(overview, encoding="utf-8")
    image, label = np.asarray(training.images[0]), style.drawable(classes, 30)[training.labels[0]]
    style.save(files.OVERVIEW / "digit.png", samples.digit(image, label))
    shown = samples.samples(training.images, training.labels, classes)
    style.save(files.OVERVIEW / "samples.png", shown)


if __name__ == "__main__":
    cli.run(main)
