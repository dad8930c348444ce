"""A shared cache: what one clone trained, another has without training, and on record."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from conftest import Project, is_clean, runs, stages_run, steps

from mnistflow.workspace import md5

S3 = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def first(repro: Project, tmp_path: Path) -> Project:
    """A clone in which all is trained and committed; its MLflow record stays with it."""
    shutil.copytree(repro.folder, tmp_path / "first", symlinks=True)
    return Project(tmp_path / "first")


@pytest.fixture
def bucket() -> Iterator[str]:
    """The address of an S3 server on loopback, with an empty bucket `shared`."""
    server = pytest.importorskip("moto.server", reason="moto is not installed: make cluster")
    pytest.importorskip("dvc_s3", reason="dvc-s3 is not installed: make cluster")
    import boto3

    serving = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    serving.start()
    address = "http://{}:{}".format(*serving.get_host_and_port())
    boto3.client(
        "s3",
        endpoint_url=address,
        aws_access_key_id=S3["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=S3["AWS_SECRET_ACCESS_KEY"],
        region_name=S3["AWS_DEFAULT_REGION"],
    ).create_bucket(Bucket="shared")
    yield address
    serving.stop()


def share(first: Project, folder: Path, **environment: str) -> None:
    """Commit the remote, push from the first clone, and make sure that a second one has it all and trains nothing."""
    first.commit("a shared cache", ".dvc/config")
    assert is_clean(first)
    assert "pushed" in first.dvc("push", **environment)
    assert "Everything is up to date" in first.dvc("push", **environment)

    first.run("git", "clone", "--quiet", str(first.folder), str(folder))
    second = Project(folder)
    second.dvc("pull", **environment)
    assert stages_run(second.dvc("repro", **environment)) == []
    assert is_clean(second)
    assert second.outputs() == first.outputs()

    # Its record begins with the three trainings, and holds what another machine's outputs can tell.
    assert "recorded" not in second.record()
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    restored = {run.data.tags["model"]: run for run in runs(client)}
    assert sorted(restored) == ["cnn", "compact", "dense"]
    assert len(runs(client)) == 3
    for model, run in restored.items():
        assert run.data.tags["restored"] == "true"
        assert "test_accuracy" in run.data.metrics
        history = (folder / f"models/{model}/history.csv").read_text().splitlines()
        assert steps(client, run) == list(range(1, len(history)))

    # And what it changes runs there as anywhere.
    second.set(evaluate__target_accuracy=0.35)
    assert stages_run(second.dvc("repro", **environment)) == ["params", "compare"]


def test_a_clone_that_pulls_from_a_shared_folder_trains_nothing(first: Project, tmp_path: Path) -> None:
    first.dvc("remote", "add", "--default", "shared", str(tmp_path / "shared"))
    first.dvc("remote", "modify", "shared", "verify", "true")
    share(first, tmp_path / "second")

    hashed = md5(first.folder / "data/arrays/training/images.npy")
    kept = tmp_path / "shared/files/md5" / hashed[:2] / hashed[2:]
    kept.chmod(0o644)
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    first.run("git", "clone", "--quiet", str(first.folder), str(tmp_path / "third"))
    third = Project(tmp_path / "third")
    assert "data/arrays/training" in third.dvc("pull", status=1)
    assert not (third.folder / "data/arrays/training/images.npy").exists()


def test_a_clone_that_pulls_from_s3_trains_nothing(first: Project, tmp_path: Path, bucket: str) -> None:
    first.dvc("remote", "add", "--default", "shared", "s3://shared/mnistflow")
    first.dvc("remote", "modify", "shared", "endpointurl", bucket)
    share(first, tmp_path / "second", **S3)
    assert "nobody" not in (first.folder / ".dvc/config").read_text()
