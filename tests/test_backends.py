"""The same training on JAX, where JAX is installed."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import HERE

SCRIPT = """
import sys
from pathlib import Path

import keras
from conftest import TEST, TRAIN, digits
from test_training import Interrupted, train

from mnistflow import models
from mnistflow.splits import Split

assert keras.backend.backend() == "jax"
images, labels = digits()
tiny = Split(images[:TRAIN], labels[:TRAIN]), Split(images[TRAIN : TRAIN + TEST], labels[TRAIN : TRAIN + TEST])
folder = Path(sys.argv[1])
model, progress = train(tiny, folder / "undisturbed.npz")
assert progress.history[-1].val_accuracy > 0.8, progress.history
try:
    train(tiny, folder / "state.npz", interrupt_after=2)
except Interrupted:
    resumed, again = train(tiny, folder / "state.npz")
assert again.history == progress.history
models.save(folder / "one.keras", model)
models.save(folder / "two.keras", resumed)
assert (folder / "one.keras").read_bytes() == (folder / "two.keras").read_bytes()
"""


def test_a_backend_that_there_is_not_is_a_sentence() -> None:
    environment = os.environ | {"KERAS_BACKEND": "nonsense", "PYTHONPATH": str(HERE / "src")}
    command = [sys.executable, str(HERE / "stages/train.py"), "dense", "a", "b", "c"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: KERAS_BACKEND is 'nonsense'; tensorflow, or jax")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed (README: other backends)")
def test_jax_trains_and_resumes_in_the_same_bytes(tmp_path: Path) -> None:
    path = os.pathsep.join([str(HERE / "src"), str(HERE / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": path}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
