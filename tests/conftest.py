"""What the tests share: a tiny data set, a mirror that serves it, and a clone of this project that uses it."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pytest
from filelock import FileLock
from mlflow.entities import Run
from ruamel.yaml import YAML

from mnistflow.data import catalog, formats
from mnistflow.data.arrays import Split
from mnistflow.tracking import store

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

HERE = Path(__file__).parent.parent
TRAIN, TEST = 300, 100
# A shell makes what it starts in the background deaf to Ctrl-C, and so all that is started from there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The checkout that the tests run from must be out of their reach, also in a Git hook or `git rebase --exec`.
for name in [name for name in os.environ if name.startswith("GIT_")]:
    del os.environ[name]

REPRO = (sys.executable, "-m", "mnistflow.commands.repro")
RECORD = (sys.executable, "-m", "mnistflow.tracking.record")
OUTPUTS = ("data", "models", "evaluation", "inside", "metrics", "plots")
COMPACT_EPOCHS = 8  # of a fifth of a second: time to stop one in the middle


def digits() -> Split:
    """All of scikit-learn's digits, as 28x28 images."""
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    large = np.kron(small.reshape(-1, 8, 8), np.ones((1, 3, 3))) * (255 / 16)
    return Split(np.pad(large, ((0, 0), (2, 2), (2, 2))).astype(np.uint8), labels.astype(np.uint8))


def write_tiny(folder: Path) -> None:
    """Write the four IDX files of a data set of 300 and 100 digits, called by their roles."""
    images, labels = digits()
    for part, chosen in (("train", slice(0, TRAIN)), ("test", slice(TRAIN, TRAIN + TEST))):
        formats.write_idx(folder / f"{part}_images", images[chosen])
        formats.write_idx(folder / f"{part}_labels", labels[chosen])


def tiny_entry(folder: Path, source: str) -> dict[str, Any]:
    """The entry of that data set for datasets.yaml."""
    hashes = {role: hashlib.sha256((folder / role).read_bytes()).hexdigest() for role in catalog.ROLES}
    return {
        "format": "idx",
        "classes": list("0123456789"),
        "prepare": "digit",
        "files": {role: {"name": role, "sha256": sha256} for role, sha256 in hashes.items()},
        "sources": [source],
    }


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of pytest-xdist share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def tiny_files(shared: Path) -> Path:
    """The folder of the tiny data set's files."""
    folder = shared / "tiny"
    with FileLock(shared / "tiny.lock"):
        if not folder.is_dir():
            write_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def tiny() -> tuple[Split, Split]:
    """300 images to train on and 100 others."""
    images, labels = digits()
    return Split(images[:TRAIN], labels[:TRAIN]), Split(images[TRAIN : TRAIN + TEST], labels[TRAIN : TRAIN + TEST])


@dataclass
class Mirror:
    """A web server on loopback, and what it was asked for."""

    url: str
    requests: list[str] = field(default_factory=list)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, notes each request."""

    mirror: Mirror

    def do_GET(self) -> None:
        self.mirror.requests.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def serve(handler: Any) -> Iterator[str]:
    """Run a web server with this handler while the caller holds on to the iterator; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def mirror(tiny_files: Path) -> Iterator[Mirror]:
    """A web server that has the tiny data set."""
    handler = type("TinyHandler", (Handler,), {"mirror": Mirror("")})
    for url in serve(partial(handler, directory=str(tiny_files))):
        handler.mirror.url = url
        yield handler.mirror


@dataclass
class Project:
    """A clone of this project in a temporary folder, whose path has a space in it."""

    folder: Path

    def environment(self) -> dict[str, str]:
        """The environment of a user who activated the virtual environment and set nothing else."""
        ours = ("MLFLOW_", "DVC_", "MNISTFLOW_", "KERAS_", "PYTEST_", "GITHUB_", "PYTHONPATH")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        environment["GIT_CONFIG_GLOBAL"] = os.devnull  # nobody has told git who they are
        return environment

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command here, in a process group of its own."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment() | environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *command: str, status: int = 0, **environment: str) -> str:
        """Run a command here and return what it printed; fails when its exit status is another than expected."""
        process = self.start(*command, **environment)
        try:
            output, _ = process.communicate(timeout=300)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == status, output
        return output

    def dvc(self, *arguments: str, status: int = 0, **environment: str) -> str:
        """Run DVC here."""
        return self.run(sys.executable, "-m", "dvc", *arguments, status=status, **environment)

    def repro(self, *arguments: str, status: int = 0, **environment: str) -> str:
        """Do the main job, as `make repro` does."""
        return self.run(*REPRO, *arguments, status=status, **{"PYTHONPATH": "src"} | environment)

    def commit(self, message: str, *paths: str) -> None:
        """Commit everything, or what is new in these paths."""
        self.run("git", "add", "--all", "--", *(paths or ["."]))
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
        self.run("git", *identity, "commit", "--quiet", "--message", message)

    def params(self) -> Any:
        return YAML().load(self.folder / "params.yaml")

    def set(self, **values: Any) -> None:
        """Change values in params.yaml; models__cnn__epochs=3 sets models.cnn.epochs."""
        params = self.params()
        for key, value in values.items():
            *sections, last = key.split("__")
            section = params
            for name in sections:
                section = section[name]
            section[last] = value
        YAML().dump(params, self.folder / "params.yaml")

    def remove_models(self, *names: str) -> None:
        """Remove sections of models from params.yaml."""
        params = self.params()
        for name in names:
            del params["models"][name]
        YAML().dump(params, self.folder / "params.yaml")

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def outputs(self) -> dict[str, bytes]:
        """The content of every file that the pipeline made, by its path."""
        paths = [path for name in OUTPUTS for path in (self.folder / name).rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}

    def record(self, *, status: int = 0, **environment: str) -> str:
        """Bring the MLflow record up to date, as `make record` does."""
        return self.run(*RECORD, status=status, **{"PYTHONPATH": "src"} | environment)

    def forget(self, out: str) -> None:
        """Delete an output from DVC's cache, so that it can't be brought back without running its stage."""
        lock = YAML(typ="safe").load(self.folder / "dvc.lock")
        (md5,) = (each["md5"] for stage in lock["stages"].values() for each in stage["outs"] if each["path"] == out)
        (self.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()

    def temporary_files(self) -> list[Path]:
        """Files that a process was still writing when it ended."""
        return [path for path in self.folder.rglob(".*@*") if ".git" not in path.parts]

    def states(self, pattern: str = "*") -> list[Path]:
        """What trainings could go on from."""
        return list((self.folder / ".cache/training").glob(pattern))


def is_clean(project: Project) -> bool:
    """Whether git sees no difference to what was committed."""
    return project.run("git", "status", "--porcelain") == ""


def stages_run(output: str) -> list[str]:
    """The stages that DVC says it ran, in order."""
    return re.findall(r"^Running stage '(.+)':", output, re.MULTILINE)


def address_of(project: Project) -> str:
    """The address of the project's record: absolute, because MLflow keeps stores open, by their addresses."""
    return f"sqlite:///{project.folder}/mlflow.db"


def client_of(project: Project) -> mlflow.MlflowClient:
    """A client of the project's record. Artifacts have relative addresses: they are found from the project's folder."""
    return mlflow.MlflowClient(address_of(project))


@contextmanager
def inside(project: Project) -> Iterator[mlflow.MlflowClient]:
    """Work in the project's folder and with its record, as a user's own script does; yields a client."""
    before = mlflow.get_tracking_uri()
    with chdir(project.folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", address_of(project))
        mlflow.set_tracking_uri(address_of(project))
        try:
            yield client_of(project)
        finally:
            mlflow.set_tracking_uri(before)


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store as `connect` makes it. MLflow takes seconds for its tables: the tests get copies."""
    made = tmp_path_factory.mktemp("new store")
    before = mlflow.get_tracking_uri()
    with chdir(made), pytest.MonkeyPatch.context() as patch:
        patch.delenv("DVC_ROOT", raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", address_of(Project(made)))
        store.connect()
    mlflow.set_tracking_uri(before)
    return made


def runs(client: mlflow.MlflowClient, where: str = "") -> list[Run]:
    """The runs of the experiment, newest first."""
    experiment = client.get_experiment_by_name("mnistflow")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], where, order_by=["attributes.start_time DESC"]))


def steps(client: mlflow.MlflowClient, run: Run, metric: str = "val_loss") -> list[int]:
    """The epochs of which the run holds a metric, each as often as it does."""
    return sorted(point.step for point in client.get_metric_history(run.info.run_id, metric))


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[Any], seconds: float = 120) -> None:
    """Wait until a condition holds; fails when the process ends before."""
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)


def kill(process: subprocess.Popen[Any], how: signal.Signals = signal.SIGKILL) -> None:
    """Stop a process and all that it started; returns when none of them is left.

    DVC takes the process of a lock for alive as long as the system lists it.
    """
    os.killpg(process.pid, how)
    process.communicate()
    until = time.monotonic() + 60
    with suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(process.pid, 0)
            time.sleep(0.02)


def clone(folder: Path) -> Project:
    """Copy this project's files, as they are in the working tree, into `folder` and make it a repository."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=HERE, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (HERE / name).is_file() and not name.startswith(("metrics/", "plots/")) and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(HERE / name, folder / name)
    return Project(folder)


def make_tiny(project: Project, entry: dict[str, Any]) -> None:
    """Add the tiny data set to datasets.yaml, as somebody with data of their own would, and choose it.

    Two models, because each takes a quarter of a minute, most of it to import TensorFlow and MLflow.
    """
    with (project.folder / "datasets.yaml").open("a") as file:
        file.write(f"\ntiny: {json.dumps(entry)}\n")
    project.remove_models("cnn")
    project.set(
        fetch__dataset="tiny",
        split__validation=50,
        models__dense__epochs=2,
        models__compact__epochs=COMPACT_EPOCHS,
        models__compact__batch_size=20,
        evaluate__model="compact",
        explain__model="compact",
        evaluate__target_accuracy=0.3,
    )


@pytest.fixture(scope="session")
def new_project(tiny_files: Path) -> Callable[[Path], Project]:
    """What makes a clone with a tiny data set in a folder; nothing has run in it."""

    def new(folder: Path) -> Project:
        project = clone(folder)
        make_tiny(project, tiny_entry(tiny_files, str(tiny_files)))
        project.run("git", "init", "--quiet", "--initial-branch", "main")
        project.commit("start")
        return project

    return new


@pytest.fixture(scope="session")
def copy_of_repro(shared: Path, new_project: Callable[[Path], Project]) -> Callable[[Path], Project]:
    """What copies a clone with a tiny data set, in which the main job has run once, into a folder.

    It runs once for all workers; each copy is complete: Git's repository, DVC's cache, the MLflow record.
    """
    original = shared / "with space" / "project"
    with FileLock(shared / "project.lock"):
        if not (shared / "with space" / "done").is_file():
            shutil.rmtree(original, ignore_errors=True)
            project = new_project(original)
            (project.folder / ".cache").mkdir()
            (project.folder / ".cache/repro.log").write_text(project.repro())
            project.commit("run", "dvc.lock", "metrics", "plots", "params.schema.json")
            (shared / "with space" / "done").touch()

    def copy(folder: Path) -> Project:
        shutil.copytree(original, folder, symlinks=True)
        return Project(folder)

    return copy


@pytest.fixture(scope="session")
def repro(tmp_path_factory: pytest.TempPathFactory, copy_of_repro: Callable[[Path], Project]) -> Project:
    """A clone with a tiny data set in which the main job has run once."""
    return copy_of_repro(tmp_path_factory.mktemp("with space") / "project")


def answers(address: str) -> bool:
    """Whether a server answers a request with success."""
    with suppress(OSError), urllib.request.urlopen(address, timeout=5):
        return True
    return False


@contextmanager
def serving(project: Project, health: str, *command: str) -> Iterator[str]:
    """Run a server in the project, on loopback and a free port, until the block ends; yields its address.

    `command` gets the host and the port as options; `health` is the path that answers once the server is up.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, log = f"http://127.0.0.1:{port}/", project.folder / f".cache/{port}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=project.folder,
            # MLflow's servers start seven processes more for jobs that nothing here asks for.
            env=project.environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + 120
        while not answers(address + health):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Chrome"]:
    """A headless Chromium, 1280x900. Skips where there is none: Debian's packages are chromium and chromium-driver."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("no browser to look with: install chromium and chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    # Without a sandbox, because root may not have one and the pages are our own.
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1280,900"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(programs[1])))
    yield driver
    driver.quit()
