"""Draw the chapter's explanations from a trained network and a validation image."""

import json
import shutil
from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from mnistflow.core import cli, files, params
from mnistflow.data import arrays
from mnistflow.figures import lesson, style
from mnistflow.figures.cells import Numbers

VALIDATION = arrays.DATA / "validation"
LAYERS = files.PLOTS / "layers.png"


def main() -> None:
    from mnistflow.training import archive
    from mnistflow.training.backend import keras

    explain, classes = params.load().explain, arrays.describe().classes
    path = files.MODELS / explain.model / "model.keras"
    files.check_locked(path)
    model = archive.load(path)
    images, labels = arrays.load(VALIDATION)
    index = int((labels == explain.label).argmax())  # the first of that class; where there is none, the first image
    image, label = np.asarray(images[index]), int(labels[index])

    every_output = keras.Model(model.inputs, [layer.output for layer in model.layers])
    outputs = every_output.predict(image[np.newaxis], verbose=0)
    activations = {layer.name: output[0] for layer, output in zip(model.layers, outputs, strict=True)}
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    first = lesson.Convolution(convolutions[0].name, convolutions[0].get_weights()[0]) if convolutions else None
    sizes = {layer.name: layer.pool_size[0] for layer in model.layers if isinstance(layer, keras.layers.MaxPooling2D)}
    pictures = lesson.pictures(image, label, activations, classes, first, last_pooling(activations, sizes))
    for picture in pictures:
        style.save(files.INSIDE / picture.file, picture.figure)
    captions = [
        {
            "file": each.file,
            "title": each.title.en,
            "caption": each.caption.en,
            "ko": {"title": each.title.ko, "caption": each.caption.ko},
        }
        for each in pictures
    ]
    text = json.dumps(captions, indent=2, ensure_ascii=False)
    (files.INSIDE / "captions.json").write_text(text + "\n", encoding="utf-8")
    # Copied, not drawn again: Matplotlib's layout of a figure that was saved before gives other bytes.
    LAYERS.parent.mkdir(exist_ok=True)
    shutil.copyfile(files.INSIDE / LAYERS.name, LAYERS)
    print(f"{files.INSIDE}: {', '.join(each.file for each in pictures)}")


def last_pooling(activations: Mapping[str, Numbers], pooling_sizes: Mapping[str, int]) -> lesson.Pooling | None:
    """The network's last max pooling layer without overlap, if its input is the layer before.

    `pooling_sizes` has the window's height by the layer's name. Padding, strides and the input are checked by the
    activations: they must be the maxima of the tiles of the layer before.
    """
    for before, layer in reversed(list(pairwise(activations))):
        size, values = pooling_sizes.get(layer), activations[before]
        if size and values.ndim == 3 and np.array_equal(lesson.tile_maxima(values, size), activations[layer]):
            return lesson.Pooling(before, layer, size)
    return None


if __name__ == "__main__":
    cli.run(main)
