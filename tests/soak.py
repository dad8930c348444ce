"""The main job killed at random moments, again and again: `make soak N=20`. It takes minutes."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from conftest import REPRO, Project, kill, stages_run
from test_faults import check_outcome

KILLS = int(os.environ.get("KILLS", "20"))
KILLS_EACH = 4  # of one project, before it may finish


def test_no_kill_changes_the_outcome(repro: Project, new_project: Callable[[Path], Project], tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", time.time()))
    print(f"\nSEED={seed}")
    moments = random.Random(seed)
    for first in range(0, KILLS, KILLS_EACH):
        project = new_project(tmp_path / f"project{first}")
        for number in range(first, min(first + KILLS_EACH, KILLS)):
            process = project.start(*REPRO, PYTHONPATH="src")
            seconds = moments.uniform(1, 25)  # of some forty that are left to do
            time.sleep(seconds)
            kill(process)
            print(f"kill {number + 1} of {KILLS}, after {seconds:.1f} s", flush=True)
        print(f"then: {', '.join(stages_run(project.repro()))}", flush=True)
        check_outcome(project, repro)
