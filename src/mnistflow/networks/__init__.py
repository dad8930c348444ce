"""The networks, one file each. `build(shape, classes)` takes raw 0-255 pixels to a probability for each class.

`shape` is that of an image: (height, width) in grey or (height, width, 3) in colour. To add a network, add a file here
and a section to params.yaml that names it; nothing else.
"""
