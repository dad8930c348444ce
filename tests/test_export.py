"""The selected model as ONNX and LiteRT: files that their own runtimes answer alike, or none."""

import re
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest
from conftest import TEST, Project, inside

from mnistflow.commands import export
from mnistflow.core.errors import WorkflowError
from mnistflow.data import arrays

MISSING = [package for package in export.PACKAGES if find_spec(package) is None]
installed = pytest.mark.skipif(bool(MISSING), reason=f"`make export` installs {', '.join(MISSING)}")


@pytest.fixture
def project(repro: Project) -> Iterator[Project]:
    with inside(repro):
        yield repro
    for path in (repro.folder / export.FOLDER).glob("*"):
        path.unlink()


def test_without_the_extra_a_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PACKAGES", ("numpy", "no_such_package"))
    with pytest.raises(WorkflowError, match=r"^no_such_package: not installed; `make export` installs "):
        export.check_installed()


def test_all_images_are_classified_in_batches_and_some_alone() -> None:
    images, sizes = np.arange(2500, dtype=np.uint8).reshape(-1, 1), []

    def run(batch: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        sizes.append(len(batch))
        return batch.astype(np.float32)

    probabilities, together, alone = export.classify(run, images)
    assert np.array_equal(probabilities, images)
    assert sizes == [1000, 1000, 1000, 500, *[1] * 201]
    assert together > 0 < alone


@installed
@pytest.mark.slow
def test_both_files_answer_as_keras_does(project: Project) -> None:
    output = project.run("python", "-m", "mnistflow.commands.export", PYTHONPATH="src")
    for name in ("compact.onnx", "compact.tflite"):
        found = re.search(rf"^export/{name} .* {TEST} of {TEST} +(\S+)$", output, re.MULTILINE)
        assert found, output
        assert float(found[1]) < 1e-5
    assert sorted(path.name for path in (project.folder / "export").iterdir()) == ["compact.onnx", "compact.tflite"]
    assert project.run("git", "status", "--porcelain") == ""
    # And as the pipeline's own predictions have it.
    images = np.asarray(arrays.load(project.folder / "data/test").images)
    table = np.loadtxt(project.folder / "evaluation/compact/predictions.csv", delimiter=",", skiprows=1)
    for suffix, runtime in export.FORMATS.values():
        probabilities = runtime(project.folder / f"export/compact{suffix}")(images)
        assert np.array_equal(probabilities.argmax(axis=1), table[:, 2])


@installed
@pytest.mark.slow
def test_a_file_that_answers_otherwise_is_not_written(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(WorkflowError, match=r"^export/dense\.onnx is not written: its probabilities differ "):
        export.main("dense")
    assert not list((project.folder / "export").iterdir())
    with pytest.raises(WorkflowError, match="there is no model cmpact; did you mean compact?"):
        export.main("cmpact")
