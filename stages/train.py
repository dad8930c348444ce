"""Train one model and keep its best epoch: `python stages/train.py MODEL`."""

import shutil

from mnistflow.core import cli, files, params
from mnistflow.data import arrays


def main(name: str) -> None:
    from mnistflow.tracking import runs
    from mnistflow.training import loop, state

    settings, dataset = params.load().models[name], arrays.describe()
    training, validation = (arrays.load(arrays.DATA / part) for part in ("training", "validation"))
    hashes = [arrays.sha256(arrays.DATA / part) for part in ("training", "validation")]
    details = {"model": name, **loop.describe(settings, dataset, training, hashes[0])}
    output = files.MODELS / name

    with state.folder(loop.fingerprint(name, settings, *hashes)) as folder:
        try:
            with runs.training(folder / runs.FILE, details) as run:
                model, progress = loop.train_with_progress(
                    name, settings, training, validation, len(dataset.classes), folder / "state.npz", run.log_epochs
                )
                loop.write(output, details, model, progress)
                run.log_outputs(output, model, validation, progress.seconds)
        except loop.Diverged:
            shutil.rmtree(folder)  # it would diverge again
            raise
        state.finish(folder, files.md5(output / "model.keras"))


if __name__ == "__main__":
    cli.run(main)
