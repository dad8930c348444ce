"""What is out of step with dvc.lock: `python -m mnistflow.drift` fails with a line per stage.

Without the data: what dvc.lock recorded of each stage is held against the command, the values and the files in Git that
are here, and what a stage was given against what the stage before it made.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo

from mnistflow import cli
from mnistflow.workspace import WorkflowError, md5


def complaints() -> list[str]:
    """A line for each stage of dvc.yaml that is not as dvc.lock recorded it, with what differs.

    Raises:
        WorkflowError: DVC can't read dvc.yaml, dvc.lock or params.yaml.
    """
    try:
        with Repo() as repo:
            stages = list(repo.index.stages)
            made = {out.def_path: out for stage in stages for out in stage.outs}
            found = {stage.addressing: list(_reasons(stage, made)) for stage in stages}
    except DvcException as error:
        raise WorkflowError(f"DVC can't read this project: {error}; `dvc status` says more.") from error
    return [f"{name}: {'; '.join(reasons)}" for name, reasons in found.items() if reasons]


def _reasons(stage: Any, made: Mapping[str, Any]) -> Iterator[str]:
    """What of one stage differs; `made` are all stages' outputs by their paths."""
    if not any(out.hash_info for out in stage.outs):
        yield "dvc.lock has no run of it"
        return
    if stage.cmd_changed:
        yield "cmd has changed"
    in_git = {out.def_path: out.hash_info for out in stage.outs if not out.use_cache}
    for dep in stage.deps:
        path = dep.def_path
        if isinstance(dep, ParamsDependency):
            yield from _differences("", dep.hash_info.value or {}, dep.read_params())
        elif path not in made:
            in_git[path] = dep.hash_info
        elif dep.hash_info != made[path].hash_info:
            yield f"{path} is recorded otherwise than {made[path].stage.addressing} made it"
    files = {Path(path): recorded for path, recorded in in_git.items()}
    states = {
        "missing": [path for path in files if not path.is_file()],
        "new": [path for path, recorded in files.items() if path.is_file() and not recorded],
        "changed": [path for path, was in files.items() if path.is_file() and was and md5(path) != was.value],
    }
    yield from (f"{state}: {', '.join(map(str, paths))}" for state, paths in states.items() if paths)


def _differences(key: str, recorded: Any, found: Any) -> Iterator[str]:
    """Which values below a key of params.yaml differ; None stands for one that is not there."""
    if isinstance(recorded, Mapping) and isinstance(found, Mapping):
        for name in dict.fromkeys([*recorded, *found]):
            yield from _differences(f"{key}.{name}".lstrip("."), recorded.get(name), found.get(name))
    elif recorded is None:
        yield f"{key} is new"
    elif found is None:
        yield f"{key} is gone"
    elif found != recorded:
        yield f"{key} is {found}, recorded is {recorded}"


def check() -> None:
    """Make sure that dvc.lock describes what is here.

    Raises:
        WorkflowError: it does not; a line per stage.
    """
    if found := complaints():
        lines = "".join(f"\n       {complaint}" for complaint in found)
        raise WorkflowError(
            "dvc.lock is not in step with the code and params.yaml. Run `make repro` and commit dvc.lock, metrics and "
            f"plots with the change.{lines}"
        )


def main() -> None:
    """Print the verdict, or fail."""
    check()
    print("dvc.lock is in step with the code and params.yaml")


if __name__ == "__main__":
    cli.run(main)
