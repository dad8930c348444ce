"""The main job, `make repro`: run what is out of date, record it, show how the models compare.

`python -m mnistflow.commands.repro [DATASET]`. It needs no Git, so it works in a shallow clone, in the folder of a ZIP
file and in a container. With DATASET, params.yaml is changed to that data set first.
"""

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

from ruamel.yaml import YAML

from mnistflow.core import cli, params
from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import LOCK, METRICS, cache, merge_line, read_json, write_text
from mnistflow.core.params import PARAMS
from mnistflow.core.processes import child, started_by
from mnistflow.data import catalog
from mnistflow.evaluation import comparisons
from mnistflow.tracking import status

DVC = (sys.executable, "-m", "dvc")
# In .cache: params.yaml as it was before DATASET changed it, and as DATASET made it.
OWN, MADE = "params.own.yaml", "params.made.yaml"


def main(dataset: str = "") -> None:
    """Do the main job."""
    params.load()
    catalog.load(dataset or params.load().fetch.dataset)
    check_lock()
    with alone() as lock:
        mend_rwlock()
        with chosen(dataset) as own:
            run_pipeline(lock)
        if not status.is_up_to_date():
            record()
    print()
    print("\n".join(comparison()))
    print("\nFigures: plots/, data/overview/.   Metrics: metrics/.   Next: make report, make ui, make check")
    if dataset and own:
        print(f"{PARAMS} has {dataset} now. To go back: make repro DATASET={own}")


@contextmanager
def alone() -> Iterator[TextIO]:
    """Keep a second main job out of this folder; yields the file that is locked.

    A child that inherits the file holds the lock too, so that it lasts as long as one of them works here.

    Raises:
        WorkflowError: there is one.
    """
    cache().mkdir(exist_ok=True)
    with (cache() / "repro.lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkflowError(busy(file)) from error
        file.truncate(0)
        note(file, os.getpid())
        yield file


def note(lock: TextIO, process: int) -> None:
    """Write the ID of a process that works here into the file of the lock."""
    lock.write(f"{process} ")
    lock.flush()


def busy(lock: TextIO) -> str:
    """That others hold the lock, and what to do; a sentence."""
    lock.seek(0)  # both the main job and its DVC are there: DVC and its stage outlive a kill of the main job
    processes = [each.pid for number in map(int, lock.read().split()) for each in started_by(number)]
    stop = f"stop it by `kill {' '.join(map(str, dict.fromkeys(processes)))}`"
    elsewhere = "stop it in the container or on the machine where it runs"
    return f"another run works in this folder; wait until it ends, or {stop if processes else elsewhere}."


def run_pipeline(lock: TextIO) -> None:
    """Run what is out of date.

    Raises:
        WorkflowError: a stage failed; its messages are on the screen.
    """
    with child([*DVC, "repro"], env=environment(), pass_fds=[lock.fileno()]) as process:
        note(lock, process.pid)
        if process.wait():
            check_whole_lock()
            raise WorkflowError("`dvc repro` failed, see above.")


def check_lock() -> None:
    """Check that dvc.lock is one file, and not two that a merge has put together.

    Raises:
        WorkflowError: a merge has left both sides in it.
    """
    if LOCK.is_file() and merge_line(LOCK.read_text(encoding="utf-8", errors="replace")):
        raise WorkflowError(
            f"{LOCK} has both sides of a merge in it; take one, as by `git checkout --ours {LOCK}`, then run "
            "`make repro`, which makes the file anew."
        )


def check_whole_lock() -> None:
    """Check that dvc.lock is whole. Only where DVC has failed: reading it takes a tenth of a second.

    Raises:
        WorkflowError: it is not.
    """
    if not LOCK.is_file():
        return
    with suppress(WorkflowError):
        values = params.read_yaml(LOCK)
        if isinstance(values, dict) and isinstance(values.get("stages"), dict):
            return
    raise WorkflowError(
        f"{LOCK} is damaged, as by a kill or a full disk while it was written; run `rm {LOCK} && make repro`: what "
        "DVC's cache has is not made again."
    )


def mend_rwlock() -> None:
    """Delete DVC's list of busy files if a kill has left half of it: DVC would refuse to work for ever."""
    path = Path(".dvc/tmp/rwlock")
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except ValueError:
        path.unlink()


@contextmanager
def chosen(dataset: str) -> Iterator[str | None]:
    """Change params.yaml to a data set; where the block fails, it becomes again what it was.

    Yields the data set of the user's own params.yaml, or None where that is what params.yaml is. A change of data set
    starts from there, as long as nobody has edited params.yaml since: the values that suit one data set do not suit
    another, and the way back leads to every value as it was.
    """
    own, made = (cache() / name for name in (OWN, MADE))
    current = PARAMS.read_text(encoding="utf-8")
    is_made = own.is_file() and made.is_file() and made.read_text(encoding="utf-8") == current
    base = own.read_text(encoding="utf-8") if is_made else current
    text = with_dataset(base, dataset) if dataset else current
    if text != current:
        write_text(own, base)
        write_text(made, text)
        write_text(PARAMS, text)
    try:
        yield None if text == base else YAML().load(base)["fetch"]["dataset"]
    except WorkflowError as error:
        if text == current:
            raise
        write_text(made, current if is_made else "")
        write_text(PARAMS, current)
        raise WorkflowError(f"{error} {PARAMS} is again as it was before.") from error


def with_dataset(text: str, dataset: str) -> str:
    """The text of params.yaml with another data set and the values that suit it; comments stay."""
    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    values, entry = yaml.load(text), catalog.load(dataset)
    if values["fetch"]["dataset"] == dataset:
        return text
    values["fetch"]["dataset"] = dataset
    # A target is one of a data set; an entry without one has none.
    suited = {"evaluate.target_accuracy": 0, **entry.params}
    if values["explain"]["label"] >= len(entry.classes):
        suited = {"explain.label": 0, **suited}
    for key, value in suited.items():
        _set(values, key, value)
    output = StringIO()
    yaml.dump(values, output)
    settings = YAML(typ="safe", pure=True).load(output.getvalue())
    params.parse(params.Settings, settings, f"datasets.yaml, {dataset}.params")
    return output.getvalue()


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value by its key with dots. The model in it may have been removed; another unknown key is found later."""
    *sections, last = key.split(".")
    for section in sections:
        if section not in values and sections[0] == "models":
            return
        if not isinstance(values.get(section), dict):
            values[section] = {}  # instead of a single value; the check of the settings refuses it
        values = values[section]
    values[last] = value


def environment() -> dict[str, str]:
    """The environment for DVC. It runs stages by $SHELL, so that is /bin/sh here: others may have another syntax.

    Git is hidden from DVC, which would need a repository, and would advise to commit dvc.lock alone.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # dvc.yaml says `python`
    without_git = str(Path(".dvc/without-git").resolve())
    return os.environ | {"SHELL": "/bin/sh", "PATH": path, "DVC_SYSTEM_CONFIG_DIR": without_git}


def ask_dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The outcome of a DVC command that changes nothing.

    Raises:
        WorkflowError: params.yaml can't be read, or dvc.lock has both sides of a merge in it.
    """
    params.load()
    check_lock()
    return subprocess.run([*DVC, *arguments], env=environment(), capture_output=True, text=True, check=False)


def check_up_to_date() -> None:
    """Check that the outputs are what params.yaml and the code say.

    Raises:
        WorkflowError: they are not.
    """
    done = ask_dvc("status", "--json")
    if done.returncode:
        check_whole_lock()
        reason = (done.stderr or done.stdout).strip().partition("\n")[0]
        raise WorkflowError(f"`dvc status` failed ({reason}); correct that, then run the same command again.")
    if json.loads(done.stdout):
        raise WorkflowError("the outputs are missing or behind params.yaml or the code; run `make repro` first.")


def check_described() -> None:
    """Check that dvc.lock describes the code, the settings and the data that are here.

    Raises:
        WorkflowError: it does not; the stages that would run.
    """
    done = ask_dvc("repro", "--dry", "--allow-missing", "--keep-going")
    # Without the data, DVC fails where a stage would run whose inputs are missing.
    failures = re.findall("^ERROR: failed to reproduce ('.*)", done.stderr, re.MULTILINE)
    stages = re.findall(r"Running stage '(.+)'", done.stdout) + re.findall("'(.+?)'", " ".join(failures))
    if done.returncode and not stages:
        check_whole_lock()
    if stages or done.returncode:
        reason = f"it would run {', '.join(stages)}" if stages else done.stderr.strip().partition("\n")[0]
        raise WorkflowError(
            f"dvc.lock does not describe the code and params.yaml ({reason}); run `make repro` and commit dvc.lock, "
            "metrics and plots with the change."
        )


def record() -> None:
    """Bring the MLflow record up to date; a store that does not answer costs a warning."""
    from mnistflow.tracking import record, store

    try:
        record.main()
    except store.TrackingError as error:
        print(f"not recorded: {error}; `make record` completes the record", file=sys.stderr)


def comparison() -> list[str]:
    """The models and how they compare, in lines, from metrics/."""
    metrics = {name: read_json(METRICS / f"{name}.json") for name in params.load().model_names()}
    return comparisons.table(metrics, read_json(METRICS / "comparison.json"))


if __name__ == "__main__":
    cli.run(main)
