"""What rots in DVC's cache is noticed before it is brought back."""

import shutil
from pathlib import Path

import pytest
from conftest import Project, stages_run

from mnistflow.workspace import md5


@pytest.fixture
def project(repro: Project, tmp_path: Path) -> Project:
    """A clone of its own, to damage."""
    shutil.copytree(repro.folder, tmp_path / "copy", symlinks=True)
    return Project(tmp_path / "copy")


def damage(project: Project, output: str) -> Path:
    """Change a byte of what the cache holds of an output, as a disk does it: rights and names stay."""
    hashed = md5(project.folder / output)
    kept = project.folder / ".dvc/cache/files/md5" / hashed[:2] / hashed[2:]
    kept.chmod(0o644)
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    kept.chmod(0o444)
    return kept


def scrub(project: Project) -> str:
    return project.run("python", "-m", "mnistflow.scrub", PYTHONPATH="src")


def test_it_is_mended_from_the_folder(project: Project) -> None:
    assert scrub(project) == ""
    before = project.outputs()
    kept = damage(project, "models/dense/history.csv")
    assert scrub(project) == "models/dense/history.csv is damaged in DVC's cache; mended from the one in this folder\n"
    assert scrub(project) == ""
    assert md5(kept) == kept.parent.name + kept.name
    assert stages_run(project.dvc("repro")) == []
    assert project.outputs() == before


def test_or_made_anew(project: Project) -> None:
    before, lock = project.outputs(), project.read("dvc.lock")
    damage(project, "evaluation/cnn/predictions.csv")
    damage(project, "data/arrays/training/images.npy")
    for folder in ("evaluation", "data"):
        shutil.rmtree(project.folder / folder)
    project.dvc("checkout")
    assert project.outputs() != before  # DVC takes them for whole
    assert stages_run(project.dvc("repro")) == []
    said = scrub(project)
    assert "evaluation/cnn is damaged in DVC's cache; deleted, to be made anew\n" in said
    assert "data/arrays/training is damaged in DVC's cache; deleted, to be made anew\n" in said
    project.dvc("repro")
    assert project.outputs() == before
    assert project.read("dvc.lock") == lock
