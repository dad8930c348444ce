"""`make predict` answers for pictures, says what it did, and names what it can't answer."""

import csv
import io
import json
import re
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
from conftest import Project, digits, runs
from PIL import Image

from mnistflow.commands import predict
from mnistflow.core.errors import WorkflowError
from mnistflow.data.arrays import Description

DATASET = Description("tiny", (28, 28), [f"class {label}" for label in range(10)], 50, "digit")
COMMAND = ("python", "-m", "mnistflow.commands.predict")


def save(folder: Path, name: str, index: int = 0) -> Path:
    """Write a digit as a file of dark ink on white paper."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(255 - np.pad(digits().images[index], 20)).save(path)
    return path


def model(probability: float = 0.95) -> Any:
    """A model that is so sure of class 3, and gives the rest to class 5."""
    row = np.zeros(10)
    row[[3, 5]] = probability, 1 - probability
    return SimpleNamespace(predict_on_batch=lambda images: np.tile(row, (len(images), 1)))


def table(folder: Path, probability: float = 0.95) -> list[str]:
    paths, file = predict.find([folder]), io.StringIO()
    predict.write_table(predict.answers(paths, model(probability), DATASET), file, DATASET.classes, paths)
    return file.getvalue().splitlines()


def test_a_folder_is_walked_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    paths = [save(tmp_path, name) for name in ("a/1.png", "a/b/2.png", "3.png")]
    save(tmp_path, ".hidden/4.png")
    save(tmp_path, "a/.5.png")
    assert sorted(predict.find([tmp_path])) == sorted(paths)
    assert predict.find([paths[1], tmp_path / "a"])[0] == paths[1]


def test_a_missing_or_empty_path(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match=r"no\.png is missing"):
        predict.find([save(tmp_path, "1.png"), tmp_path / "no.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(WorkflowError, match="empty holds no file"):
        predict.find([tmp_path / "empty"])


def test_the_table_has_class_runner_up_and_what_was_done(tmp_path: Path) -> None:
    save(tmp_path, "1.png")
    heading, row = table(tmp_path)
    assert heading.split() == ["file", "class", "probability", "runner-up", "prepared"]
    assert re.search(r"1\.png +class 3 +95\.00% +class 5 5\.00% +inverted, cropped to \d+x\d+, ", row)


def test_an_unsure_answer_is_marked(tmp_path: Path) -> None:
    save(tmp_path, "1.png")
    row = table(tmp_path, 0.6)[1]
    assert "class 3?" in row
    assert "unsure" in row


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, "1.png")
    (tmp_path / "cut.png").write_bytes(path.read_bytes()[:90])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("notes")
    Image.new("L", (50, 50), 255).save(tmp_path / "white.png")
    (tmp_path / "link.png").symlink_to("nowhere")
    rows = {Path(row.split()[0]).name: row for row in table(tmp_path)[1:]}
    assert "class 3" in rows.pop("1.png")
    assert "no ink" in rows["white.png"]
    assert "No such file" in rows["link.png"]
    assert "corrupt" in rows["cut.png"]
    assert rows["empty.png"].endswith("empty")
    assert "no PNG" in rows["notes.txt"]
    assert all(" -  " in row for row in rows.values())
    assert len(rows) == 5


def test_csv_and_json_say_the_same(tmp_path: Path) -> None:
    save(tmp_path, "zwei, \n\udcff.png")
    (tmp_path / "notes.txt").write_text("notes")
    as_csv, as_json = io.StringIO(), io.StringIO()
    paths = predict.find([tmp_path])
    predict.write_csv(predict.answers(paths, model(), DATASET), as_csv)
    predict.write_json(predict.answers(paths, model(), DATASET), as_json)
    rows, values = list(csv.DictReader(io.StringIO(as_csv.getvalue()))), json.loads(as_json.getvalue())
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in values] == rows
    as_csv.getvalue().encode()
    assert Path(values[1]["file"]).name == "zwei, ??.png"
    assert values[1]["class"] == "class 3"
    assert values[1]["sure"] is True
    assert values[0]["problem"]


def test_many_files_go_in_batches_and_stay_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, sizes = [save(tmp_path, f"{index}.png") for index in range(25)], []
    monkeypatch.setattr(predict, "BATCH", 10)
    counting = SimpleNamespace(
        predict_on_batch=lambda images: sizes.append(len(images)) or np.tile(np.eye(10)[0], (len(images), 1))
    )
    assert [answer.picture.path for answer in predict.answers(paths, counting, DATASET)] == paths
    assert sizes == [10, 10, 5]


def test_the_sheet_shows_what_the_network_saw(tmp_path: Path) -> None:
    paths = [save(tmp_path, f"{index}.png", index) for index in range(9)]
    predict.draw(list(predict.answers(paths, model(), DATASET)), tmp_path / "out/seen.png", 9)
    with Image.open(tmp_path / "out/seen.png") as sheet:
        assert sheet.width > 8 * 100
        assert np.asarray(sheet.convert("L")).std() > 10


@pytest.mark.slow
def test_the_command(repro: Project, tmp_path: Path) -> None:
    paths = [save(tmp_path, f"scans/{index}.png", index) for index in range(8)]
    (tmp_path / "scans/notes.txt").write_text("notes")

    def run(*arguments: object, status: int = 0) -> str:
        return repro.run(*COMMAND, *map(str, arguments), status=status, PYTHONPATH="src")

    output = run(tmp_path / "scans", "--picture", tmp_path / "seen.png")
    assert "compact, 9 files:" in output
    assert "1 not classified" in output
    assert all(str(path) in output for path in paths)
    assert (tmp_path / "seen.png").stat().st_size > 5_000
    # The same model by other names gives the same answers.
    repro.record()
    own = run("--csv", "--model", "compact", *paths)
    copied = run("--csv", "--model", repro.folder / "models/compact/model.keras", *paths)
    client = mlflow.MlflowClient(f"sqlite:///{repro.folder}/mlflow.db")
    (outputs,) = (one.outputs for one in runs(client, "tags.model = 'compact'"))
    model_id = outputs.model_outputs[0].model_id
    logged = run("--csv", "--model", f"models:/{model_id}", *paths)
    rows = [[line for line in each.splitlines() if line.startswith(str(tmp_path))] for each in (own, copied, logged)]
    assert len(rows[0]) == 8
    assert rows[0] == rows[1] == rows[2]
    # Mistakes are one sentence each.
    assert "did you mean compact?" in run("--model", "compct", paths[0], status=1)
    assert "models:/nothing@champion can't be loaded" in run("--model", "models:/nothing@champion", paths[0], status=1)
    assert "nothing was classified" in run(tmp_path / "scans/notes.txt", status=1)
    model_file = repro.folder / "models/dense/model.keras"
    content, mode = model_file.read_bytes(), model_file.stat().st_mode
    try:
        model_file.chmod(mode | stat.S_IWUSR)
        model_file.write_bytes(content + b" ")
        assert "is not the file that dvc.lock describes" in run("--model", "dense", paths[0], status=1)
    finally:
        model_file.write_bytes(content)
        model_file.chmod(mode)
