"""Data sets of one's own, from the command or the entry to metrics, plots and DVC's habits."""

import json
import shutil
from collections.abc import Callable
from contextlib import chdir
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import Project, inside, is_clean, serving, stages_run, tiny_entry
from PIL import Image
from ruamel.yaml import YAML
from test_serving_pictures import ask, in_base64

from mnistflow.commands import gate, predict, report, repro
from mnistflow.data import arrays, formats, preparation
from mnistflow.tracking import registry, store

pytestmark = pytest.mark.slow
NewProject = Callable[[Path], Project]
DATASET = ("python", "-m", "mnistflow.commands.dataset")


class Expected(NamedTuple):
    """What a run on a data set should make of it."""

    shape: list[int]
    classes: int
    parts: dict[str, tuple[Any, Any]]  # images and labels, where all are known
    words: str  # of the output


class Example(NamedTuple):
    """A data set on which the main job has run."""

    project: Project
    name: str
    model: str  # the selected one
    expected: Expected
    output: str


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


def write_emnist(project: Project, folder: Path) -> Expected:
    """47 classes in IDX files whose images are transposed and whose labels begin at 1."""
    colour, labels = images(47, 8, 28)
    grey, cut = colour.mean(axis=3).astype(np.uint8), 47 * 6
    for part, chosen in (("train", slice(cut)), ("test", slice(cut, None))):
        formats.write_idx(folder / f"{part}_images", grey[chosen].swapaxes(1, 2))
        formats.write_idx(folder / f"{part}_labels", labels[chosen] + 1)
    more = {"classes": [f"c{label}" for label in range(47)], "transposed": True, "first_label": 1}
    entry = tiny_entry(folder, str(folder)) | more
    del entry["prepare"]
    add_entry(project, "emnist", **entry, params={"split.validation": 94})
    return Expected([28, 28], 47, {"test": (grey[cut:], labels[cut:])}, "train_images: train_images from")


def write_flowers(project: Project, folder: Path) -> Expected:
    """Three unbalanced classes of colour pictures, imported by the command."""
    write_pictures(folder / "flowers")
    before = content(folder / "flowers")
    output = project.run(*DATASET, str(folder / "flowers"), "--size", "32", "48", PYTHONPATH="src")
    assert "rose/cut.jpg" in output
    assert "tulip/page.png" in output
    assert "make repro DATASET=flowers" in output
    assert content(folder / "flowers") == before
    return Expected([32, 48, 3], 3, {}, "no test part: 10 images, 15% of each class")


def write_tissue(project: Project, folder: Path) -> Expected:
    """Colour images and labels (n, 1) in an .npz file in MedMNIST's form, which has a validation part."""
    colour, labels = images(3, 60, 28)
    cuts = {"train": slice(0, 120), "val": slice(120, 150), "test": slice(150, 180)}
    arrays = {f"{part}_images": colour[cut] for part, cut in cuts.items()}
    arrays |= {f"{part}_labels": labels[cut, None] for part, cut in cuts.items()}
    np.savez(folder / "tissue.npz", **arrays)
    files = {"arrays": {"name": "tissue.npz"}}
    add_entry(project, "tissue", format="npz", classes=["fat", "muscle", "mucus"], files=files, sources=[str(folder)])
    expected = {"validation": (colour[120:150], labels[120:150]), "test": (colour[150:], labels[150:])}
    return Expected([28, 28, 3], 3, expected, "own validation part, 30 images")


def write_kaggle(project: Project, folder: Path) -> Expected:
    """A table with a row per image, of which a share is held out as the test set."""
    colour, labels = images(4, 40, 28)
    table = np.column_stack([labels, colour.mean(axis=3).astype(np.uint8).reshape(160, -1)])
    header = ",".join(["label", *(f"pixel{index}" for index in range(784))])
    np.savetxt(folder / "train.csv", table, "%d", delimiter=",", header=header, comments="")
    entry = {"classes": list("abcd"), "files": {"train_table": {"name": "train.csv"}}, "sources": [str(folder)]}
    add_entry(project, "kaggle", format="csv", **entry, test=0.2, params={"split.validation": 16})
    return Expected([28, 28], 4, {}, "32 images, 20% of each class, are held out")


@pytest.fixture
def project(tmp_path: Path, new_project: NewProject) -> Project:
    """A clone in which nothing has run."""
    return new_project(tmp_path / "with space")


@pytest.fixture(scope="module")
def emnist(tmp_path_factory: pytest.TempPathFactory, new_project: NewProject) -> Example:
    """`make repro DATASET=emnist`, with one model, which is its own baseline."""
    project = new_project(tmp_path_factory.mktemp("emnist") / "with space")
    project.remove_models("compact")
    project.set(evaluate__model="dense", explain__model="dense", models__dense__batch_size=16)
    expected = write_emnist(project, tmp_path_factory.mktemp("files"))
    return Example(project, "emnist", "dense", expected, project.repro("emnist"))


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory, new_project: NewProject) -> Example:
    """`make repro DATASET=flowers`, with two models."""
    project = new_project(tmp_path_factory.mktemp("flowers") / "with space")
    project.set(models__dense__batch_size=16, models__dense__epochs=1)
    project.set(models__compact__batch_size=8, models__compact__epochs=3)
    expected = write_flowers(project, tmp_path_factory.mktemp("files"))
    output = project.repro("flowers")
    project.commit("flowers, not yet in DVC")
    return Example(project, "flowers", "compact", expected, output)


@pytest.fixture(params=["emnist", "flowers"])
def example(request: pytest.FixtureRequest) -> Example:
    """Either of them: the smallest and the largest number of classes, grey and colour, with names in any letters."""
    found: Example = request.getfixturevalue(request.param)
    return found


def check_arrays(project: Project, expected: Expected) -> None:
    """Make sure that the data that all later stages read are those of the source, in parts that have every class."""
    data = project.folder / "data"
    description = json.loads((data / "dataset.json").read_text())
    assert description["shape"] == expected.shape
    assert len(description["classes"]) == expected.classes
    for part, (images, labels) in expected.parts.items():
        assert np.array_equal(np.load(data / part / "images.npy"), images)
        assert np.array_equal(np.load(data / part / "labels.npy"), labels)
    counts = [np.bincount(np.load(data / part / "labels.npy"), minlength=expected.classes) for part in arrays.PARTS]
    assert (np.array(counts) > 0).all()


@pytest.mark.parametrize("write", [write_tissue, write_kaggle])
def test_of_other_files_the_arrays_are_those_of_the_source(
    project: Project, tmp_path: Path, write: Callable[[Project, Path], Expected]
) -> None:
    """No stage after `preprocess` knows the form of the files."""
    expected = write(project, tmp_path)
    with chdir(project.folder), repro.chosen(write.__name__.removeprefix("write_")):
        assert expected.words in project.dvc("repro", "preprocess")
    check_arrays(project, expected)


def test_the_arrays_are_those_of_the_source(example: Example) -> None:
    assert example.expected.words in example.output
    assert "target" not in example.output.partition("against dense")[2]
    check_arrays(example.project, example.expected)


def test_page_gate_and_registry_follow(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    project, metrics = example.project, json.loads(example.project.read(f"metrics/{example.model}.json"))
    for figure in ("confusion", "errors", "audit", "loss", "layers"):
        assert project.read(f"plots/{figure}.png").startswith(b"\x89PNG")
    with inside(project):
        report.main()
        capsys.readouterr()
        gate.main()
        registry.main()
    page = project.read("report.html").decode()
    assert f"{metrics['balanced_accuracy']:.2%}" in page
    assert "the target of" not in page
    assert " None<" not in page
    for name in json.loads(project.read("data/dataset.json"))["classes"]:
        assert f'<th scope="row">{name}</th>' in page
    output = capsys.readouterr().out
    assert output.startswith(f"{example.model} passes: accuracy {metrics['accuracy']:.2%}, the baseline dense has ")
    assert f"of mnistflow is this {example.model}" in output


def test_predict_sees_a_picture_as_training_did(example: Example, tmp_path: Path) -> None:
    folder = example.project.folder
    table = np.loadtxt(folder / f"evaluation/{example.model}/predictions.csv", delimiter=",", skiprows=1)
    for index, image in enumerate(np.load(folder / "data/test/images.npy")[:9]):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    file = StringIO()
    with inside(example.project):
        model, dataset = predict.load(example.model)
        predict.write_json(predict.answers(predict.find([tmp_path]), model, dataset), file)
    answers = json.loads(file.getvalue())
    classes = json.loads((folder / "data/dataset.json").read_text())["classes"]
    assert [answer["class"] for answer in answers[:-1]] == [classes[int(label)] for label in table[:9, 2]]
    assert np.allclose([answer["probability"] for answer in answers[:-1]], table[:9, 3], atol=1e-4)
    assert "no PNG" in answers[-1]["problem"]
    # Of the pictures of a folder, each file gives one of the arrays, bit for bit.
    pictures = folder / "pictures" / example.name
    files = [path for path in pictures.rglob("*") if path.is_file()]
    seen = sorted(
        preparation.load(path.read_bytes(), tuple(example.expected.shape), None)[0].tobytes() for path in files
    )
    parts = [np.load(folder / "data" / part / "images.npy") for part in arrays.PARTS if files]
    assert seen == sorted(image.tobytes() for part in parts for image in part)


def test_the_server_takes_its_pictures_and_arrays(flowers: Example) -> None:
    with inside(flowers.project):
        registry.main()
        version = store.client().get_model_version_by_alias("mnistflow", "champion").version
    command = ("mlflow", "models", "serve", "--model-uri", f"models:/mnistflow/{version}", "--env-manager", "local")
    images = np.load(flowers.project.folder / "data/test/images.npy")[:4]
    with serving(flowers.project, "ping", *command) as server:
        status, from_arrays = ask(server, images.tolist())
        assert status == 200
        assert np.shape(from_arrays["predictions"]["probabilities"]) == (4, flowers.expected.classes)
        status, from_pictures = ask(server, [in_base64(image) for image in images])
        assert status == 200
        assert from_pictures == from_arrays
        status, refusal = ask(server, images[:, 1:].tolist())
        assert status == 400
        assert str(flowers.expected.shape)[1:-1] in refusal["message"]


def test_dvc_sees_pictures_come_and_go_and_a_clone_trains_nothing(flowers: Example, tmp_path: Path) -> None:
    project = Project(tmp_path / "with space")
    shutil.copytree(flowers.project.folder, project.folder, symlinks=True)
    # An experiment in a copy of the project finds the pictures that Git and DVC don't know.
    output = project.dvc("exp", "run", "--temp", "-S", "split.seed=2", "preprocess")
    assert stages_run(output) == ["params", "fetch", "preprocess"]
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

    # A picture more, or less.
    Image.new("RGB", (40, 40), "red").save(project.folder / "pictures/flowers/rose/new.png")
    assert "pictures" in project.dvc("status")
    assert stages_run(project.dvc("repro", "preprocess")) == ["fetch", "preprocess"]
    status = project.dvc("status", "train")  # the picture is a training image
    assert all(f"train@{model}" in status for model in ("dense", "compact")), status
    (project.folder / "pictures/flowers/rose/new.png").unlink()
    assert "pictures" in project.dvc("status")
    assert stages_run(project.dvc("repro")) == []  # DVC's run cache has all of it
    # Pictures of another data set: no picture of this one is decoded, nothing is trained.
    shutil.copytree(project.folder / "pictures/flowers", project.folder / "pictures/other")
    assert stages_run(project.dvc("repro")) == ["fetch"]


def test_a_corrupt_picture_that_comes_later_is_left_out_by_name(project: Project, tmp_path: Path) -> None:
    write_pictures(tmp_path / "flowers")
    project.run(*DATASET, str(tmp_path / "flowers"), "--size", "28", "28", PYTHONPATH="src")
    project.set(fetch__dataset="flowers", split__validation=6, explain__label=0)
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
