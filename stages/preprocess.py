"""Decode the data set, divide it into training, validation and test images, and show what it is made of."""

import json

from mnistflow.core import cli, files, params
from mnistflow.data import arrays, catalog, formats, splits
from mnistflow.data.arrays import Split
from mnistflow.figures import samples, style


def main() -> None:
    settings = params.load()
    name, split = settings.fetch.dataset, settings.split
    dataset = catalog.load(name)
    classes = dataset.classes
    training, test = (formats.read_idx_part(files.RAW, part, len(classes)) for part in ("train", "test"))
    validation = test
    if split.validation != "test":
        indices = splits.hold_out(training.labels, split.validation, split.seed)
        training, validation = (Split(training.images[part], training.labels[part]) for part in indices)

    parts = dict(zip(arrays.PARTS, (training, validation, test), strict=True))
    for part, images in parts.items():
        arrays.save(arrays.DATA / part, images)
    description = arrays.Description(name, training.images.shape[1:], classes, split.validation, dataset.prepare)
    text = json.dumps(description._asdict(), indent=2, ensure_ascii=False)
    arrays.DESCRIPTION.write_text(text + "\n", encoding="utf-8")

    overview = splits.overview(name, parts, classes)
    print(overview.partition("\n\nthe first")[0])
    files.OVERVIEW.mkdir(exist_ok=True)
    (files.OVERVIEW / "overview.txt").write_text(overview, encoding="utf-8")
    image, label = training.images[0], style.drawable(classes, 30)[training.labels[0]]
    style.save(files.OVERVIEW / "digit.png", samples.digit(image, f"the first training image, class {label}"))
    shown = samples.samples(training.images, training.labels, classes)
    style.save(files.OVERVIEW / "samples.png", shown)


if __name__ == "__main__":
    cli.run(main)
