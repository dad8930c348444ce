"""Show what the CNN does to an image: the chapter's explanations as pictures from the trained network."""

from pathlib import Path

import numpy as np

from mnistflow import cli, figures, inside, models, params, splits
from mnistflow.backend import keras
from mnistflow.datasets import DATASETS
from mnistflow.workspace import check_vouched, write_json

CLASS = 4  # its strokes run in all directions


def main(trained: Path, validation_set: Path, output: Path, layers: Path) -> None:
    classes = DATASETS[params.load().fetch.dataset].classes
    check_vouched(trained)
    model = models.load(trained)
    validation = splits.load(validation_set)
    index = int((validation.labels == CLASS).argmax())  # the first of that class, or the first of all
    image, label = np.asarray(validation.images[index]), classes[validation.labels[index]]

    every_output = keras.Model(model.inputs, [layer.output for layer in model.layers])
    made = every_output.predict(image[np.newaxis], verbose=0)
    activations = {layer.name: array[0] for layer, array in zip(model.layers, made, strict=True)}
    kernels = model.get_layer("conv1").get_weights()[0][..., 0, :]

    pictures = inside.pictures(image, label, kernels, activations, classes)
    for picture in pictures:
        figures.save(output / picture.name, picture.figure)
    captions = [{"file": each.name, "title": each.title, "caption": each.caption} for each in pictures]
    write_json(output / "captions.json", captions)
    figures.save(layers, next(each.figure for each in pictures if each.name == layers.name))
    print(f"{output}: {', '.join(each.name for each in pictures)}")


if __name__ == "__main__":
    cli.run(main)
