"""Decode the data set, divide it into training, validation and test images, and show what it is made of."""

from pathlib import Path

import numpy as np

from mnistflow import cli, datasets, figures, params, splits
from mnistflow.splits import Split
from mnistflow.workspace import write_json, write_text


def main(raw: Path, arrays: Path, overview: Path) -> None:
    settings = params.load()
    classes = datasets.DATASETS[settings.fetch.dataset].classes
    everything, test = (Split(*datasets.read_part(raw, part)) for part in datasets.PARTS)
    if settings.split.validation == "test":
        training, validation = everything, test
    else:
        chosen = splits.hold_out(everything.labels, settings.split.validation, settings.split.seed)
        training, validation = (Split(everything.images[indices], everything.labels[indices]) for indices in chosen)

    parts = {"training": training, "validation": validation, "test": test}
    for name, split in parts.items():
        splits.save(arrays / name, split)

    image, label = everything.images[0], int(everything.labels[0])
    counts = {name: splits.class_counts(split.labels) for name, split in parts.items()}
    width = 1 + max(5, *map(len, classes))
    numbers = "\n".join(
        [
            f"{settings.fetch.dataset}: " + ", ".join(f"{len(split.labels):,} {name}" for name, split in parts.items()),
            "",
            "images per class" + "".join(f"{name:>{width}}" for name in classes),
            *(f"{name:16}" + "".join(f"{count:{width},}" for count in counts[name]) for name in parts),
        ]
    )
    text = "\n".join(
        [
            numbers,
            "",
            "the first training image:",
            splits.as_text(image),
            f"its class: {label} ({classes[label]})" if classes[label] != str(label) else f"its class: {label}",
            f"as a one-hot vector: {splits.one_hot(label)}",
        ]
    )
    print(numbers)
    print(f"{overview}: overview.txt has the first training image as numbers, digit.png and samples.png show images")
    write_text(overview / "overview.txt", text + "\n")
    write_json(overview / "class_counts.json", {"classes": classes, **counts})
    figures.save(overview / "digit.png", figures.digit(image, f"the first training image, class {classes[label]}"))
    figures.save(overview / "samples.png", figures.samples(np.asarray(training.images), training.labels, classes))


if __name__ == "__main__":
    cli.run(main)
