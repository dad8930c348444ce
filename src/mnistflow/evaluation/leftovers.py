"""The outputs of models that params.yaml no longer has.

DVC leaves the files of a removed stage where they are, and `compare` and `plot` depend on whole folders.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from mnistflow.core.files import EVALUATION, METRICS, MODELS, ROBUSTNESS, is_cached, md5


def clean(names: Sequence[str], reserved: Sequence[str]) -> None:
    """Delete the outputs of models that are not among `names`.

    A folder that DVC's cache does not have stays, and is named. `reserved` are the names of files in metrics/ that
    belong to no model.
    """
    for folder, file in _leftovers(names).items():
        if file.is_file() and is_cached(md5(file)):
            shutil.rmtree(folder)
            print(f"{folder}: deleted, because params.yaml has no such model; DVC's cache still has it")
        else:
            print(f"{folder}: ignored, because params.yaml has no such model; DVC's cache has no copy, so move it away")
    for path in [*METRICS.glob("*.json"), *ROBUSTNESS.glob("*")]:
        if path.stem not in (*names, *reserved):
            path.unlink()


def _leftovers(names: Sequence[str]) -> dict[Path, Path]:
    """The folders of models that are not among `names`, each with the file that is looked for in DVC's cache."""
    files = {MODELS: "model.keras", EVALUATION: "report.json"}
    return {
        folder: folder / file
        for parent, file in files.items()
        for folder in sorted(parent.glob("*"))
        if folder.is_dir() and folder.name not in names
    }
