"""Write and read trained networks as Keras archives. The bytes depend on the network alone."""

import json
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile, ZipFile, ZipInfo

from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import naming
from mnistflow.training.backend import keras


def save(path: Path, model: Any) -> None:
    """Write the model as a Keras archive. The same model gives the same bytes."""
    with TemporaryDirectory() as folder:
        saved = Path(folder, path.name)
        model.save(saved)
        with naming(path), ZipFile(saved) as source, ZipFile(path, "w") as target:
            for name in sorted(source.namelist()):
                # A ZipInfo made by hand holds no time.
                target.writestr(ZipInfo(name), _reproducible(name, source.read(name)))


def _reproducible(name: str, content: bytes) -> bytes:
    """A part of a Keras archive without what differs from one saving to the next."""
    if name == "metadata.json":  # the time and Keras' version
        return b"{}"
    if name == "config.json":  # Keras names shared objects by their addresses; here, by the order of their appearance
        ids: dict[int, int] = {}

        def renumber(value: dict[str, Any]) -> dict[str, Any]:
            if "shared_object_id" in value:
                value["shared_object_id"] = ids.setdefault(value["shared_object_id"], len(ids) + 1)
            return value

        return json.dumps(json.loads(content, object_hook=renumber)).encode()
    return content


def load(path: Path) -> Any:
    """The model in the Keras archive `path`, for prediction.

    Raises:
        WorkflowError: the file is missing or damaged.
    """
    if not path.is_file():
        raise WorkflowError(f"{path} is missing; `dvc repro` makes it.")
    try:
        return keras.models.load_model(path, compile=False)
    except (ValueError, OSError, KeyError, BadZipFile, zlib.error) as error:
        raise WorkflowError(f"{path} is damaged ({error}); run `rm {path} && dvc checkout {path}`.") from error


def summary(model: Any) -> str:
    """Keras' table of layers, output shapes and parameter counts, as plain text."""
    lines: list[str] = []
    model.summary(print_fn=lambda line, **_: lines.append(line), line_length=80)
    return "\n".join(lines) + "\n"
