"""Whether a change may be merged, and what it brings: `python -m mnistflow.commands.ci REVISION`, in any CI.

In this order, so that what takes a second fails before what takes minutes:

1. dvc.lock describes the code and params.yaml. The data is not needed for that.
2. `dvc repro` runs what the change affects. Where DVC has no cache, that is everything.
3. Parameters, metrics and figures are compared with the Git revision, in ci/summary.md, figures beside it.
4. The gate compares the selected model with its target, the baseline and the revision.

Another kind of processor makes other outputs than the committed ones, in their last bits. The summary says so, and
nothing else follows from it: the gate alone decides. On GitHub, the summary is shown on the run's page.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from mnistflow.commands import gate, git, repro
from mnistflow.core import cli, files, params
from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import LOCK, METRICS, PLOTS, SELECTED, md5, read_json

FOLDER = Path("ci")
OTHER_BYTES = (
    "Outputs made here are not the committed bytes: another kind of processor rounds differently in the last bits. "
    "So small differences below, also of models that the change leaves alone, mean nothing."
)


def main(revision: str = "HEAD") -> None:
    """Check, reproduce, compare and judge; fail with the reasons."""
    commit = git.commit_of(revision)
    try:
        repro.check_described()
        before = md5(LOCK)
        with repro.alone() as lock:
            repro.run_pipeline(lock)
    except WorkflowError as error:
        publish(title(error))
        raise
    failure = None
    try:
        opinion = title(gate.verdict(revision))
    except WorkflowError as error:
        failure, opinion = error, title(error)
    notes = [] if md5(LOCK) == before else [OTHER_BYTES]
    text = "\n\n".join([opinion, *notes, *tables(revision), *figures(commit, revision)])
    publish(text, {"before": commit, "now": os.environ.get("GITHUB_SHA", "HEAD")})
    if failure:
        raise failure


def title(opinion: str | WorkflowError) -> str:
    """The summary's beginning: whether the change passes, and the reasons."""
    heading = "Does not pass" if isinstance(opinion, WorkflowError) else "Passes"
    return f"# {heading}\n\n```text\n{opinion}\n```"


def tables(revision: str) -> list[str]:
    """What differs from the revision, and the selected model against the baseline, as Markdown."""
    return [
        "## Parameters",
        _difference("params", revision) or f"No parameter differs from {revision}.",
        "## Metrics",
        _difference("metrics", revision) or f"No metric differs from {revision}.",
        *against_baseline(),
    ]


def _difference(kind: str, revision: str) -> str:
    """The table of `dvc params diff` or `dvc metrics diff`; empty where nothing differs.

    Raises:
        WorkflowError: DVC can't make it.
    """
    done = subprocess.run([*repro.DVC, kind, "diff", "--md", revision], capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkflowError(f"`dvc {kind} diff {revision}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def against_baseline() -> list[str]:
    """The selected model's metrics beside the baseline's."""
    chosen = params.load().evaluate
    if chosen.model == chosen.baseline:
        return [f"The selected model is the baseline, {chosen.baseline}."]
    model, baseline = read_json(SELECTED), read_json(METRICS / f"{chosen.baseline}.json")
    rows = []
    for key, value in model.items():
        if isinstance(value, int | float):
            digits = "," if isinstance(value, int) else ".5f"
            change = value - baseline[key]
            rows.append(f"| {key} | {baseline[key]:{digits}} | {value:{digits}} | {change:+{digits}} |")
    head = [f"| metric | {chosen.baseline} | {chosen.model} | change |", "|---|---:|---:|---:|"]
    return [f"## {chosen.model} against the baseline {chosen.baseline}", "\n".join([*head, *rows])]


def figures(commit: str, revision: str) -> list[str]:
    """The figures that differ from the commit, before and now, as Markdown; copies of both are put into the folder."""
    for when in ("before", "now"):
        shutil.rmtree(FOLDER / when, ignore_errors=True)
    parts = []
    for figure in sorted(PLOTS.glob("*.png")):
        versions = {"before": git.file_at(commit, figure), "now": figure.read_bytes()}
        if versions["before"] == versions["now"]:
            continue
        cells = []
        for when, content in versions.items():
            if content:
                (FOLDER / when).mkdir(parents=True, exist_ok=True)
                (FOLDER / when / figure.name).write_bytes(content)
            cells.append(f"![{when}]({when}/{figure.name})" if content else "none")
        parts.append(f"| {figure} at {revision} | now |\n|---|---|\n| {cells[0]} | {cells[1]} |")
    return ["## Figures", *(parts or [f"No figure differs from {revision}."])]


def publish(text: str, commits: Mapping[str, str] | None = None) -> None:
    """Write the summary into the folder, and to where GitHub shows it; print it.

    GitHub shows an image there by its full address alone: that of the committed figures at the `commits` that stand for
    the folders `before` and `now`.
    """
    page = FOLDER / "summary.md"
    files.write_text(page, text + "\n")
    print(f"\n{text}\n\n{page}: the same, with its figures", flush=True)
    if file := os.environ.get("GITHUB_STEP_SUMMARY"):
        site = f"{os.environ.get('GITHUB_SERVER_URL')}/{os.environ.get('GITHUB_REPOSITORY')}"
        for when, commit in (commits or {}).items():
            text = text.replace(f"]({when}/", f"]({site}/raw/{commit}/{PLOTS}/")
        with Path(file).open("a", encoding="utf-8") as summary:
            summary.write(text + "\n")


if __name__ == "__main__":
    cli.run(main)
