"""`dvc metrics diff` between the baseline and the selected model: `python -m mnistflow.commands.compare`.

The baseline's side is a DVC experiment that selects the baseline model. It takes seconds, because DVC's cache has all
of its training. Its name begins with an underscore and holds the hash of the metrics in it, so that it is made once for
each result and is nobody else's.
"""

import subprocess
import sys

from mnistflow.commands.git import commit_of, git
from mnistflow.commands.repro import check_up_to_date, environment
from mnistflow.core import cli, params
from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import METRICS, md5

DVC = (sys.executable, "-m", "dvc")
# DVC makes a commit, of its own, for which Git wants a name. It is in no branch.
IDENTITY = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "mnistflow"), ("EMAIL", "mnistflow@localhost"))
}


def main() -> None:
    """Show the difference."""
    evaluate, head = params.load().evaluate, commit_of("HEAD")
    check_up_to_date()
    if evaluate.model == evaluate.baseline:
        print(f"The selected model is the baseline, {evaluate.baseline}.")
        return
    name = f"_baseline-{md5(METRICS / f'{evaluate.baseline}.json')[:8]}"
    experiment = _experiment(head, name) or _run(head, name, evaluate.baseline)
    print(f"The baseline {evaluate.baseline} against the selected model {evaluate.model}:", flush=True)
    command = [*DVC, "metrics", "diff", experiment, "--targets", str(METRICS / "selected.json")]
    subprocess.run(command, check=False)


def _experiment(head: str, name: str) -> str | None:
    """The commit of the experiment of this name on the commit `head`; None if there is none."""
    refs = git("for-each-ref", "--format=%(objectname)", f"refs/exps/{head[:2]}/{head[2:]}/{name}")
    return refs or None


def _run(head: str, name: str, baseline: str) -> str:
    """Run the experiment, in a copy of the project; returns its commit.

    Raises:
        WorkflowError: DVC could not run it.
    """
    command = [*DVC, "exp", "run", "--temp", "--name", name, "--set-param", f"evaluate.model={baseline}"]
    done = subprocess.run(command, env=IDENTITY | environment(), capture_output=True, text=True, check=False)
    experiment = _experiment(head, name)
    if done.returncode or not experiment:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
        raise WorkflowError(f"DVC could not make the experiment {name}: {reasons[0]}.")
    return experiment


if __name__ == "__main__":
    cli.run(main)
