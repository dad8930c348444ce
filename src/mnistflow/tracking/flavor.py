"""A trained network as a logged model of MLflow, with two flavors.

`mlflow.tensorflow.load_model` gives the Keras model, and `mlflow.pyfunc.load_model` the classifier of serving.py, which
is also what is served.
"""

import json
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow.artifacts
import mlflow.pyfunc
import mlflow.tensorflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from mnistflow.core.errors import WorkflowError
from mnistflow.data import decoding, preparation
from mnistflow.data.arrays import Description, Images
from mnistflow.tracking import serving


def log(name: str, model: Any, example: Images, dataset: Description, run_id: str) -> str:
    """Log a Keras model to a run, with example images as its input example; returns the logged model's ID."""
    arguments = {"model": model, "example": np.asarray(example), "dataset": dataset}
    # MLflow would load the model from its file and predict the example, each time; the tests of serving do that.
    arguments["validate_serving_input"] = False
    return str(Model.log(None, sys.modules[__name__], name=name, run_id=run_id, **arguments).model_id)


def save_model(
    path: str, mlflow_model: Model, model: Any, example: Images, dataset: Description, **options: bool
) -> None:
    """Write the model in MLflow's format. MLflow's `Model.log` calls this by its name, and hands its own options on."""
    mlflow.tensorflow.save_model(
        model,
        path=path,
        mlflow_model=mlflow_model,
        code_paths=[module.__file__ for module in (serving, preparation, decoding)],
        signature=False,
        input_example=example,
        # Listed here, because MLflow would start a process that loads the model to infer them.
        pip_requirements=installed(
            "keras", "mlflow", "numpy", "pillow", "scipy", "tensorflow-cpu", "tensorflow", "jax"
        ),
    )
    # serving.py reads it.
    Path(path, "data", "dataset.json").write_text(json.dumps(dataset._asdict(), ensure_ascii=False), encoding="utf-8")
    outputs = [
        TensorSpec(np.dtype(np.int64), (-1,), "class"),
        TensorSpec(np.dtype(np.float32), (-1, len(dataset.classes)), "probabilities"),
    ]
    mlflow_model.signature = ModelSignature(outputs=Schema(outputs))
    mlflow_model.flavors[mlflow.pyfunc.FLAVOR_NAME][mlflow.pyfunc.MAIN] = "serving"
    mlflow_model.save(str(Path(path, "MLmodel")))


def download(address: str, folder: Path) -> Path:
    """Download a logged model to `folder`; returns the folder with its model.keras and dataset.json.

    `address` is MLflow's: models:/mnistflow@champion, models:/mnistflow/1, models:/m-0123...

    Raises:
        WorkflowError: the store has no such model, or `log` did not log it.
    """
    try:
        data = Path(mlflow.artifacts.download_artifacts(address, dst_path=str(folder)), "data")
    except MlflowException as error:
        raise WorkflowError(f"{address} can't be loaded: {' '.join(str(error).split())}") from error
    if not (data / "dataset.json").is_file() or not (data / "model.keras").is_file():
        raise WorkflowError(f"{address} is no model that mnistflow logged: it has no data/dataset.json or model.keras.")
    return data


def installed(*packages: str) -> list[str]:
    """The packages of this list that are installed, as NAME==VERSION."""
    requirements = []
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            requirements.append(f"{name}=={metadata.version(name)}")
    return requirements
