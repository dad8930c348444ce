"""How far a search or study is: a live table in a terminal, and elsewhere a line for each thing that happens."""

import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Sequence

from mnistflow.sweep.trial import OVER, Plan, Trial

ROWS = 12  # at most


def ranked(plan: Plan, trials: Sequence[Trial]) -> list[Trial]:
    """The trials that have an objective and did not diverge, the best first."""
    sign = 1 if plan.objective == "val_loss" else -1
    return sorted(
        (trial for trial in trials if trial.value is not None and trial.status != "diverged"),
        key=lambda trial: sign * (trial.value or 0),
    )


def best(plan: Plan, trials: Sequence[Trial]) -> Trial | None:
    """The best trial that was trained to its end; None where there is none."""
    return next((trial for trial in ranked(plan, trials) if trial.status == "finished"), None)


def show(plan: Plan, value: float) -> str:
    """An objective as people read it."""
    return f"{value:.4f}" if plan.objective == "val_loss" else f"{value:.2%}"


def counts(trials: Sequence[Trial]) -> str:
    """How many trials are in which state."""
    said = Counter(trial.status for trial in trials)
    order = ("running", "waiting", "finished", "stopped", "diverged", "failed")
    words = {"stopped": "stopped early"}
    return ", ".join(f"{said[status]} {words.get(status, status)}" for status in order if said[status])


def summary(plan: Plan, trials: Sequence[Trial], total: int) -> str:
    """The state of all trials in a line."""
    first = best(plan, trials)
    said = f"; the best is trial {first.number}, {plan.objective} {show(plan, first.value or 0)}" if first else ""
    return f"{sum(trial.status in OVER for trial in trials)} of {total} trials are over: {counts(trials)}{said}"


def table(plan: Plan, trials: Sequence[Trial], total: int) -> list[str]:
    """The state of all, and a row for each of those that matter: what runs, and the best."""
    running = [trial for trial in trials if trial.status not in OVER]
    chosen = [*running, *(trial for trial in ranked(plan, trials) if trial.status in OVER)][:ROWS]
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    rows = [["trial", "state", "epoch", plan.objective, *keys]]
    for trial in chosen:
        of = plan.settings(trial.settings).epochs * plan.seeds
        value = "" if trial.value is None else show(plan, trial.value)
        settings = (f"{trial.settings.get(key, '')}" for key in keys)
        rows.append([str(trial.number), trial.status, f"{trial.epoch}/{of}", value, *settings])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [summary(plan, trials, total), *lines]


class Board:
    """Shows trials while they run."""

    def __init__(self, plan: Plan, trials: Sequence[Trial], total: int) -> None:
        """Nothing is shown before the first `draw` or `say`."""
        self._plan, self._trials, self._total = plan, trials, total
        self._is_live = sys.stdout.isatty()
        self._height, self._drawn = 0, 0.0

    def draw(self, *, last: bool = False) -> None:
        """Draw the table over the one before, at most twice a second unless it is the last time."""
        if not self._is_live or (time.monotonic() - self._drawn < 0.5 and not last):
            return
        columns, rows = shutil.get_terminal_size()
        said, *lines = table(self._plan, self._trials, self._total)
        lines = [*textwrap.wrap(said, columns - 1), *(line[: columns - 1] for line in lines)][: rows - 2]
        self._clear()
        print("\n".join(lines), flush=True)
        self._height, self._drawn = 0 if last else len(lines), time.monotonic()

    def say(self, sentence: str, *, always: bool = True) -> None:
        """Print a line above the table; with a table, only what is not in it."""
        if always or not self._is_live:
            self._clear()
            print(sentence, flush=True)
            self._drawn = 0.0

    def _clear(self) -> None:
        if self._height:
            print(f"\x1b[{self._height}F\x1b[J", end="")
            self._height = 0
