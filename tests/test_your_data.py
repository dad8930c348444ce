"""Data sets of one's own, from the command or the entry to metrics, plots and DVC's habits."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Project, is_clean, stages_run, tiny_entry
from PIL import Image
from ruamel.yaml import YAML

from mnistflow.data import formats

pytestmark = pytest.mark.slow
NewProject = Callable[[Path], Project]
DATASET = ("python", "-m", "mnistflow.commands.dataset")
REPRO = ("python", "-m", "mnistflow.commands.repro")


def pattern(random: np.random.Generator, label: int, height: int, width: int) -> np.ndarray[Any, Any]:
    """An image (height, width, 3) whose colour and stripes depend on its label, with noise."""
    down, right = np.mgrid[0:height, 0:width] / max(height, width)
    stripes = 60 * np.sin((label % 7 + 2) * 6 * (right if label % 2 else down))
    colour = np.array([40 * (label % 5), 200 - 30 * (label % 6), 60 + 20 * (label % 9)])
    noise = random.normal(0, 8, (height, width, 1))
    return (colour + stripes[..., None] + noise).clip(0, 255).astype(np.uint8)


def images(label_count: int, each: int, size: int) -> tuple[Any, Any]:
    """So many images (n, size, size, 3) of each label, and their labels, in turn."""
    random = np.random.default_rng(1)
    labels = np.tile(np.arange(label_count), each).astype(np.uint8)
    return np.stack([pattern(random, int(label), size, size) for label in labels]), labels


def write_pictures(folder: Path) -> None:
    """Three unbalanced classes of pictures from 32x32 to 300x200 in all formats, and two corrupt files."""
    random = np.random.default_rng(2)
    for label, (name, count) in enumerate({"rose": 20, "tulip": 36, "장미": 12}.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            height, width = random.integers(32, 201), random.integers(32, 301)
            suffix = ("png", "jpg", "webp", "bmp", "gif")[index % 5]
            Image.fromarray(pattern(random, label, int(height), int(width))).save(folder / name / f"{index}.{suffix}")
    (folder / "rose/cut.jpg").write_bytes((folder / "rose/1.jpg").read_bytes()[:400])
    (folder / "tulip/page.png").write_text("<html>")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def add_entry(project: Project, name: str, **entry: Any) -> None:
    path = project.folder / "datasets.yaml"
    values = YAML().load(path)
    values[name] = entry
    YAML().dump(values, path)


def shorten(project: Project) -> None:
    """One epoch of the compact network alone."""
    params = project.params()
    params["models"] = {"compact": params["models"]["compact"] | {"epochs": 1, "batch_size": 8}}
    params["evaluate"] |= {"model": "compact", "baseline": "compact"}
    params["explain"]["model"] = "compact"
    YAML().dump(params, project.folder / "params.yaml")


def run(project: Project, dataset: str) -> dict[str, Any]:
    """`make repro DATASET=...` without the set-up; the content of metrics/selected.json."""
    output = project.run(*REPRO, dataset, PYTHONPATH="src")
    assert "compact" in output
    for path in ("metrics/selected.json", "plots/confusion.png", "data/overview/samples.png", "inside/captions.json"):
        assert (project.folder / path).is_file(), output
    values = YAML(typ="safe").load(project.folder / "metrics/selected.json")
    assert 0 <= values["accuracy"] <= 1
    return {**values, "output": output, "description": YAML(typ="safe").load(project.folder / "data/dataset.json")}


@pytest.fixture
def project(tmp_path: Path, new_project: NewProject) -> Project:
    project = new_project(tmp_path / "with space")
    shorten(project)
    project.commit("short")
    return project


def test_idx_with_47_classes_and_transposed_images(project: Project, tmp_path: Path) -> None:
    colour, labels = images(47, 4, 28)
    grey = colour.mean(axis=3).astype(np.uint8)
    for part, chosen in (("train", slice(0, 141)), ("test", slice(141, None))):
        formats.write_idx(tmp_path / "idx" / f"{part}_images", grey[chosen].swapaxes(1, 2))
        formats.write_idx(tmp_path / "idx" / f"{part}_labels", labels[chosen] + 1)
    entry = tiny_entry(tmp_path / "idx", str(tmp_path / "idx"))
    more = {"classes": [f"c{label}" for label in range(47)], "transposed": True, "first_label": 1}
    add_entry(project, "emnist_like", **(entry | more))
    project.set(split__validation=47)
    done = run(project, "emnist_like")
    assert len(done["description"]["classes"]) == 47
    assert np.array_equal(np.load(project.folder / "data/test/images.npy"), grey[141:])
    assert np.array_equal(np.load(project.folder / "data/test/labels.npy"), labels[141:])


def test_folder_of_pictures_from_the_command_to_metrics(project: Project, tmp_path: Path) -> None:
    write_pictures(tmp_path / "my flowers")
    before = content(tmp_path / "my flowers")
    output = project.run(*DATASET, str(tmp_path / "my flowers"), "--size", "32", "48", PYTHONPATH="src")
    assert "rose/cut.jpg" in output
    assert "tulip/page.png" in output
    assert "make repro DATASET=my_flowers" in output
    assert content(tmp_path / "my flowers") == before
    done = run(project, "my_flowers")
    assert "no test part" in done["output"]
    assert done["description"]["shape"] == [32, 48, 3]
    assert done["description"]["classes"] == ["rose", "tulip", "장미"]
    counts = {part: np.bincount(np.load(project.folder / f"data/{part}/labels.npy")) for part in ("training", "test")}
    assert counts["test"].tolist() == [3, 5, 2]
    assert (counts["training"] > 0).all()


def test_npz_in_the_form_of_medmnist(project: Project, tmp_path: Path) -> None:
    colour, labels = images(3, 30, 28)
    cuts = {"train": slice(0, 50), "val": slice(50, 70), "test": slice(70, 90)}
    arrays = {f"{part}_images": colour[cut] for part, cut in cuts.items()}
    arrays |= {f"{part}_labels": labels[cut, None] for part, cut in cuts.items()}
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz/tissue.npz", **arrays)
    add_entry(
        project,
        "tissue",
        format="npz",
        classes=["fat", "muscle", "mucus"],
        files={"arrays": {"name": "tissue.npz"}},
        sources=[str(tmp_path / "npz")],
    )
    done = run(project, "tissue")
    assert "own validation part, 20 images" in done["output"]
    assert "not checked" in done["output"]
    assert done["description"]["validation"] == 20
    assert np.array_equal(np.load(project.folder / "data/validation/images.npy"), colour[50:70])


def test_csv_in_the_form_of_kaggle(project: Project, tmp_path: Path) -> None:
    colour, labels = images(4, 20, 28)
    grey = colour.mean(axis=3).astype(np.uint8).reshape(80, -1)
    header = ",".join(["label", *(f"pixel{index}" for index in range(784))])
    (tmp_path / "csv").mkdir()
    table = np.column_stack([labels, grey])
    np.savetxt(tmp_path / "csv/train.csv", table, "%d", delimiter=",", header=header, comments="")
    add_entry(
        project,
        "kaggle",
        format="csv",
        classes=["a", "b", "c", "d"],
        files={"train_table": {"name": "train.csv"}},
        sources=[str(tmp_path / "csv")],
        test=0.2,
    )
    project.set(split__validation=8)
    done = run(project, "kaggle")
    assert "16 images, 20% of each class, are held out" in done["output"]
    assert np.bincount(np.load(project.folder / "data/test/labels.npy")).tolist() == [4, 4, 4, 4]


def test_dvc_sees_pictures_come_and_go_and_a_clone_trains_nothing(project: Project, tmp_path: Path) -> None:
    write_pictures(tmp_path / "flowers")
    project.run(*DATASET, str(tmp_path / "flowers"), "--size", "28", "28", PYTHONPATH="src")
    project.run(*REPRO, "flowers", PYTHONPATH="src")
    project.dvc("add", "pictures/flowers")
    assert stages_run(project.dvc("repro")) == ["fetch"]  # pictures/flowers.dvc lies in the folder too
    project.commit("flowers")
    assert is_clean(project)
    assert "pictures/flowers.dvc" in project.run("git", "ls-files")
    assert not [path for path in project.run("git", "ls-files").split("\n") if path.startswith("pictures/flowers/")]

    # A clone with another path and no folder of pictures but what DVC brings.
    project.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    project.commit("remote")
    project.dvc("push")
    project.run("git", "clone", "--quiet", str(project.folder), str(tmp_path / "clone"))
    other = Project(tmp_path / "clone")
    other.dvc("pull")
    assert content(other.folder / "pictures/flowers") == content(project.folder / "pictures/flowers")
    assert stages_run(other.dvc("repro")) == []
    assert is_clean(other)

    # A picture more, changed, or less.
    Image.new("RGB", (40, 40), "red").save(project.folder / "pictures/flowers/rose/new.png")
    assert "pictures" in project.dvc("status")
    ran = stages_run(project.dvc("repro"))
    assert ran[:2] == ["fetch", "preprocess"]
    assert "train@compact" in ran
    (project.folder / "pictures/flowers/rose/new.png").unlink()
    assert "pictures" in project.dvc("status")
    assert stages_run(project.dvc("repro")) == ["compare"]  # the others come from DVC's run cache
    # Pictures of another data set: no picture of this one is decoded, nothing is trained.
    shutil.copytree(project.folder / "pictures/flowers", project.folder / "pictures/other")
    assert stages_run(project.dvc("repro")) == ["fetch"]


def test_a_corrupt_picture_that_comes_later_is_left_out_by_name(project: Project, tmp_path: Path) -> None:
    write_pictures(tmp_path / "flowers")
    project.run(*DATASET, str(tmp_path / "flowers"), "--size", "28", "28", PYTHONPATH="src")
    project.set(fetch__dataset="flowers", split__validation=6)
    (project.folder / "pictures/flowers/tulip/late.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    output = project.dvc("repro", "preprocess")
    assert "tulip/late.png" in output
    counts = [len(np.load(project.folder / f"data/{part}/labels.npy")) for part in ("training", "validation", "test")]
    assert sum(counts) == 68
    # A class that the entry does not have stops the stage with a sentence.
    (project.folder / "pictures/flowers/lily").mkdir()
    Image.new("RGB", (40, 40)).save(project.folder / "pictures/flowers/lily/a.png")
    output = project.dvc("repro", "preprocess", status=255)
    assert "lily" in output
    assert "datasets.yaml" in output
