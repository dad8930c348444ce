"""The main job, `make repro`: run what is out of date, record it, show how the models compare.

`python -m mnistflow.commands.repro [DATASET]`. It needs no Git, so it works in a shallow clone, in the folder of a ZIP
file and in a container. With DATASET, params.yaml is changed to that data set first.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from mnistflow.core import cli, params
from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import LOCK, METRICS, cache, read_json, write_text
from mnistflow.core.params import PARAMS
from mnistflow.data import catalog
from mnistflow.evaluation import comparisons
from mnistflow.tracking import mark

# In .cache: params.yaml as it was before DATASET changed it, and as DATASET made it.
OWN, MADE = "params.own.yaml", "params.made.yaml"


def main(dataset: str = "") -> None:
    """Do the main job."""
    params.load()
    catalog.load(dataset or params.load().fetch.dataset)
    check_lock()
    with alone():
        mend_rwlock()
        with chosen(dataset) as own:
            if subprocess.run([sys.executable, "-m", "dvc", "repro"], env=environment(), check=False).returncode:
                raise WorkflowError("`dvc repro` failed, see above.")
        if not mark.is_up_to_date():
            record()
    print()
    print("\n".join(comparison()))
    print("\nFigures: plots/, data/overview/.   Metrics: metrics/.   Next: make report, make ui, make check")
    if dataset and own:
        print(f"{PARAMS} has {dataset} now. To go back: make repro DATASET={own}")


@contextmanager
def alone() -> Iterator[None]:
    """Keep a second main job out of this folder.

    Raises:
        WorkflowError: there is one.
    """
    cache().mkdir(exist_ok=True)
    try:
        with FileLock(cache() / "repro.lock", blocking=False):
            yield
    except Timeout as error:
        raise WorkflowError("another `make repro` is running in this folder; wait until it ends.") from error


def check_lock() -> None:
    """Check that dvc.lock can be read.

    Raises:
        WorkflowError: a merge has left both sides in it.
    """
    if LOCK.is_file() and b"\n<<<<<<< " in LOCK.read_bytes():
        raise WorkflowError(
            f"{LOCK} has both sides of a merge in it; take one, as by `git checkout --ours {LOCK}`, then run "
            "`make repro` again: it makes the file anew."
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
    """Set a value by its key with dots; the models in it may have been removed."""
    *sections, last = key.split(".")
    for section in sections:
        if section not in values:
            return
        values = values[section]
    values[last] = value


def environment() -> dict[str, str]:
    """The environment for DVC: it runs stages by $SHELL, which may have another syntax, and wants a Git repository."""
    asked = shutil.which("git") and subprocess.run(["git", "rev-parse"], capture_output=True, check=False)
    is_repository = asked and asked.returncode == 0
    without_git = {} if is_repository else {"DVC_SYSTEM_CONFIG_DIR": str(Path(".dvc/without-git").resolve())}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # dvc.yaml says `python`
    return os.environ | {"SHELL": "/bin/sh", "PATH": path} | without_git


def check_up_to_date() -> None:
    """Check that the outputs are what params.yaml and the code say.

    Raises:
        WorkflowError: they are not.
    """
    if subprocess.run([sys.executable, "-m", "dvc", "status", "--quiet"], env=environment(), check=False).returncode:
        raise WorkflowError("the outputs are behind params.yaml or the code; run `make repro` first.")


def check_described() -> None:
    """Check that dvc.lock describes the code, the settings and the data that are here.

    Raises:
        WorkflowError: it does not; the stages that would run.
    """
    dry = [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing", "--keep-going"]
    done = subprocess.run(dry, env=environment(), capture_output=True, text=True, check=False)
    # Without the data, DVC fails where a stage would run whose inputs are missing.
    failures = re.findall("^ERROR: failed to reproduce ('.*)", done.stderr, re.MULTILINE)
    stages = re.findall(r"Running stage '(.+)'", done.stdout) + re.findall("'(.+?)'", " ".join(failures))
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
