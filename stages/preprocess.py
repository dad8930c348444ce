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
    text = "\n".join(
        [
            f"{settings.fetch.dataset}: " + ", ".join(f"{len(split.labels):,} {name}" for name, split in parts.items()),
            "",
            "images per class" + "".join(f"{name:>13}" for name in classes),
            *(f"{name:16}" + "".join(f"{count:13,}" for count in counts[name]) for name in parts),
            "",
            "the first training image:",
            splits.as_text(image),
            f"its class: {label} ({classes[label]})" if classes[label] != str(label) else f"its class: {label}",
            f"as a one-hot vector: {splits.one_hot(label)}",
        ]
    )
    print(text)
    write_text(overview / "overview.txt", text + "\n")
    write_json(overview / "class_counts.json", {"classes": classes, **counts})
    figures.save(overview / "digit.png", figures.digit(image, f"the first training image, class {classes[label]}"))
    figures.save(overview / "samples.png", figures.samples(np.asarray(training.images), training.labels, classes))


if __name__ == "__main__":
    cli.run(main)
