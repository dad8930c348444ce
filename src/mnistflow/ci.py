"""Whether a change may be merged, and what it brings: `python -m mnistflow.ci BASE PLOTS FOLDER`, in any CI.

In this order, so that what takes a second fails before what takes minutes:

1. dvc.lock is in step with the code and params.yaml (drift.py). The data is not needed for that.
2. `dvc repro` runs what the change affects. Where DVC has no cache, that is everything.
3. Parameters, metrics and figures are held against the Git revision BASE, in FOLDER/summary.md, figures beside it.
4. The gate (gate.py) holds the selected model against its target, the dense baseline and BASE.

Another kind of processor makes other outputs than the committed ones, in their last bits. The summary says so, and no
more comes of it: the gate alone judges. On GitHub, the summary is shown on the run's page.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mnistflow import cli, drift, gate, params
from mnistflow.workspace import WorkflowError, md5, read_json, write_text

LOCK = Path("dvc.lock")


OTHER_BYTES = (
    "Outputs made here are not the committed bytes: another kind of processor rounds differently in the last bits. "
    "So small differences below, also of models that the change leaves alone, are no news."
)


def main(base: str, plots: Path, folder: Path) -> None:
    """Check, reproduce, compare and judge; fail with what is wrong."""
    commit = gate.commit_of(base)
    try:
        drift.check()
        recorded = md5(LOCK)
        reproduce()
    except WorkflowError as error:
        publish(folder, verdict(error))
        raise
    failure = None
    try:
        opinion = verdict(gate.verdict(base))
    except WorkflowError as error:
        failure, opinion = error, verdict(error)
    note = [] if md5(LOCK) == recorded else [OTHER_BYTES]
    text = "\n\n".join([opinion, *note, *tables(base), *figures(base, plots, folder)])
    publish(folder, text, {"before": commit, "now": os.environ.get("GITHUB_SHA", "HEAD")}, plots)
    if failure:
        raise failure


def reproduce() -> None:
    """Run what is out of date.

    Raises:
        WorkflowError: a stage failed; what it said is on the screen.
    """
    if subprocess.run([sys.executable, "-m", "dvc", "repro"], check=False).returncode:
        raise WorkflowError("`dvc repro` failed; its own words are above, in the log.")


def verdict(said: str | WorkflowError) -> str:
    """The summary's beginning: whether the change passes, and the sentences that say why."""
    title = "Does not pass" if isinstance(said, WorkflowError) else "Passes"
    return f"# {title}\n\n```text\n{said}\n```"


def tables(base: str) -> list[str]:
    """What differs from BASE, and the selected model against the dense baseline, as Markdown."""
    return [
        "## Parameters",
        _dvc("params", base) or f"No parameter differs from {base}.",
        "## Metrics",
        _dvc("metrics", base) or f"No metric differs from {base}.",
        *against_baseline(),
    ]


def _dvc(kind: str, base: str) -> str:
    """The table of `dvc params diff` or `dvc metrics diff`; nothing where nothing differs.

    Raises:
        WorkflowError: DVC can't make it.
    """
    command = [sys.executable, "-m", "dvc", kind, "diff", "--md", base]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkflowError(f"`dvc {kind} diff {base}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def against_baseline() -> list[str]:
    """The selected model's metrics beside those of the dense baseline."""
    name = params.load().evaluate.model
    if name == "dense":
        return ["The selected model is the dense baseline."]
    ours, theirs = read_json(gate.SELECTED), read_json(gate.BASELINE)
    rows = []
    for key, value in ours.items():
        if isinstance(value, int | float):
            digits = "," if isinstance(value, int) else ".5f"
            rows.append(f"| {key} | {theirs[key]:{digits}} | {value:{digits}} | {value - theirs[key]:+{digits}} |")
    head = [f"| metric | dense | {name} | change |", "|---|---:|---:|---:|"]
    return [f"## {name} against the dense baseline", "\n".join([*head, *rows])]


def figures(base: str, plots: Path, folder: Path) -> list[str]:
    """Those that are not as they were at BASE, before and now, as Markdown; copies of both are put into the folder."""
    for when in ("before", "now"):
        shutil.rmtree(folder / when, ignore_errors=True)
    parts = []
    for figure in sorted(plots.glob("*.png")):
        show = ["git", "show", f"{base}:./{figure.as_posix()}"]
        versions = {"before": subprocess.run(show, capture_output=True, check=False).stdout, "now": figure.read_bytes()}
        if versions["before"] == versions["now"]:
            continue
        cells = []
        for when, content in versions.items():
            if content:
                (folder / when).mkdir(parents=True, exist_ok=True)
                (folder / when / figure.name).write_bytes(content)
            cells.append(f"![{when}]({when}/{figure.name})" if content else "none")
        parts.append(f"| {figure} at {base} | now |\n|---|---|\n| {cells[0]} | {cells[1]} |")
    return ["## Figures", *(parts or [f"No figure differs from {base}."])]


def publish(folder: Path, text: str, commits: Mapping[str, str] | None = None, plots: Path | None = None) -> None:
    """Write the summary into the folder, and to where GitHub shows it; print it.

    GitHub shows an image there by its full address alone: that of the committed `plots` at the `commits` that stand for
    the folders `before` and `now`.
    """
    page = folder / "summary.md"
    write_text(page, text + "\n")
    print(f"\n{text}\n\n{page}: the same, with its figures", flush=True)
    if file := os.environ.get("GITHUB_STEP_SUMMARY"):
        site = f"{os.environ.get('GITHUB_SERVER_URL')}/{os.environ.get('GITHUB_REPOSITORY')}"
        for when, commit in (commits or {}).items():
            text = text.replace(f"]({when}/", f"]({site}/raw/{commit}/{plots}/")
        with Path(file).open("a", encoding="utf-8") as summary:
            summary.write(text + "\n")


if __name__ == "__main__":
    cli.run(main)
