"""A shared cache: what one clone trained, another has without training, and on record."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Project, client_of, is_clean, runs, stages_run, steps

from mnistflow.core.files import md5

pytestmark = pytest.mark.slow
S3 = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def first(copy_of_repro: Callable[[Path], Project], tmp_path: Path) -> Project:
    """A clone in which everything is trained and committed."""
    return copy_of_repro(tmp_path / "first")


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


def push_and_clone(first: Project, folder: Path, **environment: str) -> Project:
    """Push from the first clone, clone it, and check that the second one has all outputs and runs no stage."""
    first.commit("a shared cache", ".dvc/config")
    assert is_clean(first)
    assert "pushed" in first.dvc("push", **environment)
    first.run("git", "clone", "--quiet", str(first.folder), str(folder))
    second = Project(folder)
    second.dvc("pull", **environment)
    assert stages_run(second.dvc("repro", **environment)) == []
    assert is_clean(second)
    assert second.outputs() == first.outputs()
    return second


def test_a_clone_that_pulls_from_a_shared_folder_trains_nothing(first: Project, tmp_path: Path) -> None:
    first.dvc("remote", "add", "--default", "shared", str(tmp_path / "shared"))
    first.dvc("remote", "modify", "shared", "verify", "true")
    second = push_and_clone(first, tmp_path / "second")

    # Its record is written from the outputs.
    second.record()
    client = client_of(second)
    restored = {run.data.tags["model"]: run for run in runs(client)}
    assert sorted(restored) == sorted(second.params()["models"])
    assert len(runs(client)) == len(restored)
    for model, run in restored.items():
        assert run.data.tags["restored"] == "true"
        assert "test/accuracy" in run.data.metrics
        history = (second.folder / f"models/{model}/history.csv").read_text().splitlines()
        assert steps(client, run) == list(range(1, len(history)))

    second.set(evaluate__target_accuracy=0.35)
    assert stages_run(second.dvc("repro")) == ["params", "compare", "plot"]

    # A file that was changed in the shared folder is not taken.
    digest = md5(first.folder / "data/training/images.npy")
    shared = tmp_path / "shared/files/md5" / digest[:2] / digest[2:]
    shared.chmod(0o644)
    shared.write_bytes(shared.read_bytes()[:-1] + b"x")
    first.run("git", "clone", "--quiet", str(first.folder), str(tmp_path / "third"))
    third = Project(tmp_path / "third")
    assert "data/training" in third.dvc("pull", status=1)
    assert not (third.folder / "data/training/images.npy").exists()


def test_a_clone_that_pulls_from_s3_trains_nothing(first: Project, tmp_path: Path, bucket: str) -> None:
    first.dvc("remote", "add", "--default", "shared", "s3://shared/mnistflow")
    first.dvc("remote", "modify", "shared", "endpointurl", bucket)
    push_and_clone(first, tmp_path / "second", **S3)
    assert "nobody" not in (first.folder / ".dvc/config").read_text()
