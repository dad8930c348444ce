"""Classify corrupted test images with one model: `python stages/robustness.py MODEL`."""

from functools import partial

from mnistflow.core import cli, files
from mnistflow.data import arrays
from mnistflow.robustness import scores


def main(name: str) -> None:
    from mnistflow.training import archive, backend

    path = files.MODELS / name / "model.keras"
    files.check_locked(path)
    model, test = archive.load(path), arrays.load(arrays.DATA / "test")

    measured = scores.measure(partial(backend.probabilities, model), test)
    scores.write(name, measured)
    weakest = min(measured.families, key=lambda family: sum(measured.families[family]))
    print(
        f"{name}: {measured.mean:.2%} right on corrupted test images, {measured.clean:.2%} on the same "
        f"{measured.images:,} as they are; weakest: {weakest}, "
        f"{', '.join(f'{value:.0%}' for value in measured.families[weakest])}"
    )


if __name__ == "__main__":
    cli.run(main)
