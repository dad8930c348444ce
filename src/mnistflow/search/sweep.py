"""Hyperparameter search as sweep.yaml describes it: `python -m mnistflow.search.sweep [--address HOST:PORT]`.

Optuna suggests settings, Ray trains them, successive halving stops the worse trials early. The objective is computed on
the validation images; the test set stays closed. Writes sweep/trials.csv and sweep/search.png, and prints the command
that makes a DVC experiment of the best settings. After an interruption, the same command continues the search.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from mnistflow.core import cli, params
from mnistflow.core.errors import WorkflowError
from mnistflow.core.params import ModelSettings
from mnistflow.figures import style
from mnistflow.search import plans, ray_cluster, space
from mnistflow.search.plans import Plan, Trial
from mnistflow.search.space import Sweep

RESULTS = Path("sweep")
STYLES: dict[str, dict[str, Any]] = {
    "finished": {"color": "tab:blue", "label": "trained to its end"},
    "stopped": {"facecolors": "none", "edgecolors": "tab:grey", "label": "stopped early"},
    "diverged": {"color": "tab:red", "marker": "x", "label": "diverged"},
}


def main(file: Path, address: str) -> None:
    """Run the trials, then write, record and print the results."""
    settings = params.load()
    sweep = space.load(file, settings)
    present = settings.models[sweep.model]
    # The number of trials is left out: with more of them, the same search goes on.
    text = sweep.model_dump_json(include={"space", "seed"})
    with plans.begin("search", sweep.model, present, sweep.objective, sweep.seeds, sweep.early_stopping, text) as plan:
        suggestion = partial(suggest, sweep, present)
        trials = ray_cluster.run(plan, sweep.trials, suggestion, sweep.resources, sweep.retries, address)
        conclude(file, sweep, plan, trials)


def suggest(sweep: Sweep, present: ModelSettings, trials: Sequence[Trial]) -> dict[str, Any]:
    """The settings of the next trial: those of params.yaml first, then Optuna's suggestion, rounded to three digits.

    It depends on the arguments alone: a search is resumed from its trials, without a state of Optuna's.
    """
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

    own = sweep.present(present)
    if not trials and own:
        return own
    distributions: dict[str, BaseDistribution] = {}
    for key, span in sweep.space.items():
        if span.values is not None:
            distributions[key] = CategoricalDistribution(span.values)
        else:
            kind = IntDistribution if space.is_whole(key) else FloatDistribution
            distributions[key] = kind(*span.limits(), log=span.log)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    random = min(10, 1 + sweep.trials // 3)  # trials with random settings at the beginning
    # constant_liar: avoids settings near those of running trials.
    sampler = optuna.samplers.TPESampler(seed=sweep.seed + len(trials), n_startup_trials=random, constant_liar=True)
    study = optuna.create_study(sampler=sampler, direction="minimize" if sweep.objective == "val_loss" else "maximize")
    states = {"finished": "COMPLETE", "diverged": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}
    for trial in trials:
        status = states.get(trial.status, "RUNNING")
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[status],
                params=trial.settings,
                distributions=distributions,
                value=trial.values[-1] if status == "COMPLETE" else None,
                intermediate_values=dict(enumerate(trial.values)),
            )
        )
    settings: dict[str, Any] = study.ask(distributions).params
    for key, value in settings.items():
        if isinstance(value, float) and sweep.space[key].values is None:
            low, high = sweep.space[key].limits()
            settings[key] = min(max(float(f"{value:.3g}"), low), high)
    return settings


def conclude(file: Path, sweep: Sweep, plan: Plan, trials: Sequence[Trial]) -> None:
    """Write, record and print the results.

    Raises:
        WorkflowError: no trial is finished.
    """
    best = plans.best(plan, trials)
    if best is None:
        raise WorkflowError("\n       ".join(["no trial came to its end:", *plans.failures(trials)]))
    figure, table = RESULTS / "search.png", RESULTS / "trials.csv"
    style.save(figure, draw(sweep, plan, trials))
    write(table, sweep, trials)
    counts = Counter(trial.status for trial in trials)
    lines = [
        f"{len(trials)} trials: {', '.join(f'{counts[status]} {status}' for status in sorted(counts))}; "
        f"the best is trial {best.number}, {plan.objective} {plan.text(best.values[-1])}",
        *plans.failures(trials),
    ]
    present = next((trial for trial in trials if trial.settings == sweep.present(plan.settings)), None)
    if present and present is not best and present.values:
        value = plan.text(present.values[-1])
        lines.append(f"trial {present.number} has the settings of params.yaml: {present.status}, {value}")
    command = f"dvc exp run {plan.options(best.settings)}"
    items = "\n".join(f"- {line}" for line in lines)
    picture = f"![the search](get-artifact?path={figure.name}&run_uuid={plan.parent})"
    text = f"{items}\n\nThe best as an experiment:\n\n    {command}\n\n{picture}\n"
    metrics = {f"best_{sweep.objective}": best.values[-1], "trials": len(trials)}
    plans.finish(plan, text, metrics, [figure, table, file])
    print("\n".join(lines))
    print(f"{figure}, {table}; in MLflow, the run `search of {sweep.model}`, with a run for each training below it")
    print(f"The best as an experiment:   {command}")


def write(path: Path, sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Write a row per trial as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["trial", "status", "epochs", "interruptions", sweep.objective, *sweep.space])
        for trial in trials:
            value = trial.values[-1] if trial.values else ""
            settings = [trial.settings[key] for key in sweep.space]
            table.writerow([trial.number, trial.status, len(trial.values), trial.interruptions, value, *settings])


def draw(sweep: Sweep, plan: Plan, trials: Sequence[Trial]) -> Figure:
    """The objective by trial, and by each setting; the best trial has a ring."""
    panels = ["trial", *sweep.space]
    figure = style.new_figure(3 * len(panels), 3.6)
    axes = figure.subplots(1, len(panels), sharey=True)
    for panel, ax in zip(panels, axes, strict=True):
        _draw_panel(ax, panel, sweep, plan, trials)
    axes[0].set_ylabel(sweep.objective)
    if sweep.objective == "val_loss":
        axes[0].set_yscale("log")
        _set_plain_ticks(axes[0].yaxis)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    mean = "" if plan.seeds == 1 else f", mean of {plan.seeds} seeds"
    figure.suptitle(f"{sweep.model}: {len(trials)} trials on the validation images{mean}", size=11)
    return figure


def _draw_panel(ax: Axes, panel: str, sweep: Sweep, plan: Plan, trials: Sequence[Trial]) -> None:
    """Draw the objective over a setting, or over the trials' numbers."""
    span = sweep.space.get(panel)
    choices = span.values if span else None

    def x(trial: Trial) -> Any:
        value = trial.settings.get(panel, trial.number)
        return choices.index(value) if choices else value

    for status, options in STYLES.items():
        if shown := [trial for trial in trials if trial.status == status]:
            ax.scatter([x(trial) for trial in shown], [trial.values[-1] for trial in shown], s=28, zorder=3, **options)
    if best := plans.best(plan, trials):
        ax.scatter([x(best)], [best.values[-1]], s=110, facecolors="none", edgecolors="tab:red", label="best")
    if choices:
        ax.set_xticks(range(len(choices)), list(map(str, choices)))
        ax.set_xlim(-0.5, len(choices) - 0.5)
    elif span is None or space.is_whole(panel):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if span and span.log:
        ax.set_xscale("log")
        _set_plain_ticks(ax.xaxis)
    ax.set_xlabel(panel)
    ax.grid(alpha=0.4)


def _set_plain_ticks(axis: Axis) -> None:
    """Set the ticks of a logarithmic axis to 1, 2 and 5 times a power of ten, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m mnistflow.search.sweep", description=str(__doc__).splitlines()[0])
    parser.add_argument("--file", type=Path, default="sweep.yaml", help="the search (sweep.yaml)")
    parser.add_argument("--address", default="", help="a Ray cluster to join, HOST:PORT; by default, this machine")
    options = parser.parse_args()
    cli.run(main, options.file, options.address)
