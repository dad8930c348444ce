"""`dvc repro` killed at random moments, again and again: `make soak N=20`. No part of `make test`: it takes minutes."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from conftest import Project, kill, stages_run
from test_faults import check_outcome

KILLS = int(os.environ.get("KILLS", "20"))
EACH = 4  # kills of one project before it may finish


def test_no_kill_changes_the_outcome(repro: Project, new_project: Callable[[Path], Project], tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", time.time()))
    print(f"\nSEED={seed}")
    moments = random.Random(seed)
    for place in range(0, KILLS, EACH):
        project = new_project(tmp_path / f"project{place}")
        for number in range(place, min(place + EACH, KILLS)):
            process = project.start("dvc", "repro")
            # Starting takes DVC a second; what is left to do, some forty.
            seconds = moments.uniform(1, 25)
            time.sleep(seconds)
            kill(process)
            print(f"kill {number + 1} of {KILLS}, after {seconds:.1f} s", flush=True)
        print(f"then: {', '.join(stages_run(project.dvc('repro')))}", flush=True)
        check_outcome(project, repro)
