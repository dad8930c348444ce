"""`dvc metrics diff` between the baseline and the selected model: `python -m mnistflow.commands.compare`.

DVC compares Git revisions. So the baseline's metrics are put into a commit, as if the baseline were selected there. No
branch, tag or experiment leads to it, and Git deletes it by itself after some weeks.
"""

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from mnistflow.commands.git import commit_of, git
from mnistflow.commands.repro import DVC, check_up_to_date
from mnistflow.core import cli, params
from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import METRICS, SELECTED

# Git wants a name and a date for a commit. They are always the same, and so is the commit of the same metrics.
IDENTITY = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "mnistflow"), ("EMAIL", "mnistflow@localhost"), ("DATE", "@0 +0000"))
}


def main() -> None:
    """Show the difference."""
    evaluate = params.load().evaluate
    commit_of("HEAD")  # DVC shows nothing, and no error, in a repository without a commit
    git("ls-files", str(SELECTED))  # where Git's index is damaged, this ends in a sentence, and DVC would hang
    check_up_to_date()
    if evaluate.model == evaluate.baseline:
        print(f"The selected model is the baseline, {evaluate.baseline}.")
        return
    commit = commit_metrics(METRICS / f"{evaluate.baseline}.json")
    print(f"The baseline {evaluate.baseline} against the selected model {evaluate.model}:", flush=True)
    command = [*DVC, "metrics", "diff", commit, "--targets", str(SELECTED)]
    if subprocess.run(command, check=False).returncode:
        raise WorkflowError("`dvc metrics diff` failed, see above.")


def commit_metrics(file: Path) -> str:
    """Commit this file alone, in the place of the selected model's metrics; returns the commit's hash."""
    content = git("hash-object", "-w", "--no-filters", str(file))
    path = git("rev-parse", "--show-prefix") + SELECTED.as_posix()  # the project may lie in a larger repository
    with TemporaryDirectory() as folder:  # an index of its own leaves alone what is staged or being merged
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git("update-index", "--add", "--cacheinfo", f"100644,{content},{path}", **index)
        tree = git("write-tree", **index)
    return git("commit-tree", tree, "-m", f"the metrics of {file.stem}", **IDENTITY)


if __name__ == "__main__":
    cli.run(main)
