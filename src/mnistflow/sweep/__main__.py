"""Search for better settings: `python -m mnistflow.sweep [--address HOST:PORT]`, as sweep.yaml says.

Optuna suggests settings, Ray trains them, successive halving gives up on the worse. Trials are judged on the validation
images; the test set stays closed. Writes sweep/trials.csv and sweep/search.png, and ends with the command that makes an
experiment of the best setting. Interrupted, the same command goes on.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from mnistflow import cli, figures, params
from mnistflow.sweep import board, engine, plans, space, trial
from mnistflow.sweep.board import Board
from mnistflow.sweep.space import Sweep
from mnistflow.sweep.trial import OVER, Plan, Trial
from mnistflow.workspace import WorkflowError, replacing

RESULTS = Path("sweep")


def distributions(sweep: Sweep) -> dict[str, BaseDistribution]:
    """The space in Optuna's words."""
    found: dict[str, BaseDistribution] = {}
    for key, span in sweep.space.items():
        ends = span.ends(key)
        if span.values is not None:
            found[key] = CategoricalDistribution(ends)
        elif all(isinstance(end, int) for end in ends):
            found[key] = IntDistribution(*ends, log=span.log)
        else:
            found[key] = FloatDistribution(*ends, log=span.log)
    return found


def tidy(sweep: Sweep, suggested: dict[str, Any]) -> dict[str, Any]:
    """What Optuna suggests, with three digits: as many as a person would write down."""
    settings = dict(suggested)
    for key, span in sweep.space.items():
        if span.values is None and isinstance(settings[key], float):
            low, high = span.ends(key)
            settings[key] = min(max(float(f"{settings[key]:.3g}"), low), high)
    return settings


def scheduler(sweep: Sweep, plan: Plan, trials: Sequence[Trial]) -> ASHAScheduler | None:
    """What stops trials early, told of those that are over already."""
    if sweep.early_stopping is None:
        return None
    halving = ASHAScheduler(
        "epoch",
        "value",
        "min" if sweep.objective == "val_loss" else "max",
        max_t=plan.epochs + 1,  # a trial's last epoch is not for it to stop
        grace_period=sweep.early_stopping.epochs,
        reduction_factor=sweep.early_stopping.reduction,
    )
    for one in trials:
        if one.status in OVER:
            earlier = SimpleNamespace(trial_id=f"trial {one.number}")
            halving.on_trial_add(None, earlier)
            for epoch, value in one.values.items():
                halving.on_trial_result(None, earlier, {"epoch": int(epoch), "value": value})
    return halving


def main(file: Path, arrays: Path, address: str) -> None:
    """Search, show, write."""
    settings = params.load()
    sweep = space.load(file, settings)
    mine = settings.models[sweep.model]
    # More trials of the same search go on from those that there are.
    what = sweep.model_dump_json(include={"space", "seed", "early_stopping"})
    with plans.begun(
        f"search for {sweep.model}", sweep.model, settings, mine, arrays, sweep.objective, sweep.seeds, what
    ) as plan:
        trials = trial.read(plan.folder)
        if not trials and (now := sweep.present(mine)):
            trials.append(Trial(1, now))
        todo = sweep.trials - sum(one.status in OVER for one in trials)
        if todo > 0:
            search(sweep, plan, trials, todo, address)
        plans.close(plan, trials, sweep.trials)
        conclude(file, sweep, plan, trials)


def search(sweep: Sweep, plan: Plan, trials: list[Trial], todo: int, address: str) -> None:
    """Run the trials that are missing; those that failed before are missing too."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = TPESampler(seed=sweep.seed + len(trials), n_startup_trials=min(10, 1 + sweep.trials // 3))
    mode = "min" if sweep.objective == "val_loss" else "max"
    ask = OptunaSearch(distributions(sweep), metric="value", mode=mode, sampler=sampler)
    halving = scheduler(sweep, plan, trials)
    screen = Board(plan, trials, sweep.trials)
    print(f"{sweep.model}: {todo} of {sweep.trials} trials to go; Ctrl-C stops, the same command goes on", flush=True)
    engine.run(
        plan,
        engine.Search(plan, trials, ask, lambda suggested: tidy(sweep, suggested)),
        engine.Watch(plan, trials, screen, lambda one: plans.settle(plan, [one])),
        todo,
        sweep.resources,
        sweep.retries,
        address or None,
        halving,
    )
    screen.draw(last=True)


def conclude(file: Path, sweep: Sweep, plan: Plan, trials: list[Trial]) -> None:
    """Write, record and say what the search came to.

    Raises:
        WorkflowError: no trial came to its end.
    """
    best = board.best(plan, trials)
    if best is None or best.value is None:
        plans.end(plan, "FAILED", "\n".join(plans.events(trials)), {}, [])
        raise WorkflowError("no trial came to its end:\n       " + "\n       ".join(plans.events(trials)))
    files = [RESULTS / "search.png", RESULTS / "trials.csv"]
    figures.save(files[0], draw(sweep, plan, trials))
    write(files[1], sweep, trials)
    lines = [board.summary(plan, trials, sweep.trials), *plans.events(trials)]
    present = next((one for one in trials if one.settings == sweep.present(plan.settings({}))), None)
    if present and present.status == "finished" and present.value is not None:
        own = "it is the best" if present is best else board.show(plan, present.value)
        lines.append(f"params.yaml's own settings are those of trial {present.number}: {own}")
    command = f"dvc exp run {trial.overrides(sweep.model, best.settings)}"
    page = f"![the search](get-artifact?path=search.png&run_uuid={plan.parent})"
    plans.end(
        plan,
        "FINISHED",
        "\n".join([*(f"- {line}" for line in lines), f"\nThe best as an experiment:\n\n    {command}\n\n{page}\n"]),
        {f"best_{sweep.objective}": best.value, "trials": len(trials)},
        [*files, file],
    )
    plans.forget_states(plan, trials)
    print("\n".join(lines))
    print(f"{files[0]}, {files[1]}; in MLflow, the run `search for {sweep.model}` with one for each training below it")
    print(f"The best as an experiment:   {command}")


def write(path: Path, sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Write a row per trial as CSV, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["trial", "status", "epochs", sweep.objective, *sweep.space])
        for one in trials:
            value = "" if one.value is None else one.value
            table.writerow([one.number, one.status, one.epoch, value, *(one.settings[key] for key in sweep.space)])


def set_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


STYLES: dict[str, dict[str, Any]] = {
    "finished": {"color": "tab:blue", "label": "trained to its end"},
    "stopped": {"facecolors": "none", "edgecolors": "tab:grey", "label": "stopped early"},
    "diverged": {"color": "tab:red", "marker": "x", "label": "diverged"},
}


def draw(sweep: Sweep, plan: Plan, trials: Sequence[Trial]) -> Figure:
    """The objective of each trial in their order, and over each of the settings; a ring around the best."""
    panels = ["trial", *sweep.space]
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3 * columns, 2.9 * rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    shown = [one for one in trials if one.value is not None and one.status in STYLES]
    best = board.best(plan, trials)
    for ax, panel in zip(axes, panels, strict=False):
        choices = None if panel == "trial" else sweep.space[panel].values

        def place(one: Trial, panel: str = panel, choices: list[Any] | None = choices) -> Any:
            value = one.number if panel == "trial" else one.settings[panel]
            return value if choices is None else choices.index(value)

        for status, style in STYLES.items():
            if of := [one for one in shown if one.status == status]:
                ax.scatter([place(one) for one in of], [one.value for one in of], s=28, zorder=3, **style)
        if best:
            ax.scatter([place(best)], [best.value], s=110, facecolors="none", edgecolors="tab:red", zorder=4)
        if choices is not None:
            ax.set_xticks(range(len(choices)), [str(choice) for choice in choices])
            ax.set_xlim(-0.5, len(choices) - 0.5)
        elif panel == "trial" or isinstance(sweep.space[panel].ends(panel)[0], int):
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if panel != "trial" and sweep.space[panel].log:
            ax.set_xscale("log")
            set_ticks(ax.xaxis)
        if sweep.objective == "val_loss":
            ax.set_yscale("log")
            set_ticks(ax.yaxis)
        ax.set_xlabel(panel)
        ax.grid(alpha=0.4)
    for ax in axes[len(panels) :]:
        ax.axis("off")
    for row in range(rows):
        axes[row * columns].set_ylabel(sweep.objective)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    over = "" if plan.seeds == 1 else f", mean of {plan.seeds} seeds"
    figure.suptitle(f"{sweep.model}: {len(trials)} trials on the validation images{over}", size=11)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m mnistflow.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--file", default="sweep.yaml", help="what to search (sweep.yaml)")
    parser.add_argument("--arrays", default="data/arrays", help="what `dvc repro preprocess` made (data/arrays)")
    parser.add_argument("--address", default="", help="a Ray cluster to join, HOST:PORT; without one, this machine")
    said = parser.parse_args()
    sys.argv[1:] = [said.file, said.arrays, said.address]
    cli.run(main)
