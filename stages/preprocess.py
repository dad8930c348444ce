"""Decode the data set, split it into training, validation and test images, and draw samples."""

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
    # Pictures are decoded after the split, straight into their part: until then, a part has positions in this list.
    listed = pictures.read_table(files.RAW / pictures.TABLE) if dataset.format == "pictures" else []
    if listed:
        original = pictures.parts(listed, classes)
    else:
        original = {part: Part(*images) for part, images in formats.read(dataset, files.RAW).items()}
    hashes = []
    if "test" not in original:
        items = original["training"].items
        hashes = [bytes.fromhex(listed[item].sha256) if listed else hashlib.sha256(item).digest() for item in items]
    divided, notes = splits.divide(original, hashes, dataset.test, split.validation, split.seed, classes)

    for part, (items, labels) in divided.items():
        if listed and shape:
            selected = [listed[item] for item in items]
            skipped = pictures.save(arrays.DATA / part, pictures.folder_of(name), selected, labels, shape)
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
    style.save(files.OVERVIEW / "samples.png", samples.samples(training.images, training.labels, classes))


if __name__ == "__main__":
    cli.run(main)
