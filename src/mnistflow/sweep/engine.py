"""Trials on Ray: on this machine, or on a cluster that is there.

Ray Tune starts them, starts those again that were lost, and asks its scheduler which to stop early. What is known of a
trial is written down here as it becomes known, and nothing that Tune writes is read again: after a crash of this
process, a search goes on from those files alone.

What a cluster needs: this folder under the same path on every machine, with its .venv, whose `ray start` made the node;
and a record that several machines can write to (MLFLOW_TRACKING_URI).
"""

import logging
import os
import platform
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

# Ray reads these when it is imported, in this process and in its workers.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would report its use over the network
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
os.environ.update({**QUIET, **os.environ})

import ray
from ray import tune
from ray._private import ray_constants
from ray.tune.search import Searcher

from mnistflow import store
from mnistflow.sweep import trial
from mnistflow.sweep.board import Board, show
from mnistflow.sweep.space import Resources
from mnistflow.sweep.trial import OVER, Plan, Trial
from mnistflow.workspace import WorkflowError

MINE = ("MLFLOW_", "MNISTFLOW_", "KERAS_", "TF_")  # variables that mean something to a training
SCRATCH = "tune"  # Tune's own folder


class Search(Searcher):  # type: ignore[misc]
    """Hands Tune the trials that wait, and then what `ask`, another of Tune's searchers, suggests."""

    def __init__(self, plan: Plan, trials: list[Trial], ask: Any, tidy: Callable[[dict[str, Any]], dict[str, Any]]):
        """`trials` is added to; `tidy` makes settings of what `ask` suggests."""
        super().__init__()
        self._plan, self._trials, self._ask, self._tidy = plan, trials, ask, tidy
        self._waiting = [one for one in trials if one.status not in OVER]
        self._asked: set[str] = set()
        self._settings: dict[str, dict[str, Any]] = {}
        for one in trials:
            if ask and one.status in OVER:
                ask.add_evaluated_point(one.settings, one.value)

    def suggest(self, trial_id: str) -> Any:
        """The next trial, as what `_train` gets."""
        if self._waiting:
            one = self._waiting.pop(0)
            one.status, one.failure = "waiting", None
        elif self._ask is None:
            return self.FINISHED
        else:
            one = Trial(len(self._trials) + 1, self._tidy(self._ask.suggest(trial_id)))
            self._asked.add(trial_id)
            self._trials.append(one)
        one.write(self._plan.folder)
        self._settings[trial_id] = one.settings
        return {"number": one.number, "settings": one.settings}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: a suggestion takes the ends of trials into account."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell `ask` what became of a trial."""
        if trial_id in self._asked:
            self._ask.on_trial_complete(trial_id, result, error)
        elif self._ask and result and "value" in result:
            self._ask.add_evaluated_point(self._settings[trial_id], result["value"])


class Watch(tune.Callback):  # type: ignore[misc]
    """Writes down what becomes of each trial, and shows it."""

    def __init__(self, plan: Plan, trials: list[Trial], board: Board, on_end: Callable[[Trial], None]):
        """`on_end` is told of each trial that is over or failed."""
        self._plan, self._trials, self._board, self._on_end = plan, trials, board, on_end

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """It runs."""
        self._note(trial, status="running")

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """An epoch is over, or the whole of it."""
        one = self._of(trial)
        one.values[str(result["epoch"])] = result["value"]
        self._note(trial, failure=result.get("failure"))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """It came to its end, or was stopped early."""
        last = trial.last_result
        status = "diverged" if last.get("failure") else "finished" if last.get("over") else "stopped"
        one = self._note(trial, status=status)
        said = f"trial {one.number} {status}: {one.failure or show(self._plan, one.value or 0)}"
        self._board.say(f"{said}, epoch {one.epoch}, {words(one.settings)}", always=bool(one.failure))
        self._on_end(one)

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """It was lost, and goes on elsewhere."""
        one = self._note(trial, status="waiting", lost=self._of(trial).lost + 1)
        self._board.say(f"trial {one.number} was interrupted ({cause(trial)}) and will go on after epoch {one.epoch}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """It failed too often."""
        one = self._note(trial, status="failed", failure=cause(trial))
        self._board.say(f"trial {one.number} failed: {one.failure}")
        self._on_end(one)

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Draw the table."""
        self._board.draw()

    def _of(self, theirs: Any) -> Trial:
        one: Trial = self._trials[theirs.config["number"] - 1]
        return one

    def _note(self, theirs: Any, **changes: Any) -> Trial:
        one = self._of(theirs)
        for name, value in changes.items():
            setattr(one, name, value)
        one.write(self._plan.folder)
        return one


def words(settings: dict[str, Any]) -> str:
    """Settings as people read them."""
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def cause(theirs: Any) -> str:
    """What a trial of Tune's failed of last, in a line: what Ray says of a lost worker, or what ends a traceback."""
    said = Path(theirs.error_file).read_text(encoding="utf-8").rpartition("Failure # ")[2]
    _, first, *others = said.strip().splitlines()
    return (others[-1] if others and "ray::" in first else first)[:300]


def _train(plan: Plan, config: dict[str, Any]) -> None:
    """What a worker runs."""
    trial.run(plan, config["number"], config["settings"], tune.report)


def run(
    plan: Plan,
    search: Search,
    watch: Watch,
    todo: int,
    resources: Resources,
    retries: int,
    address: str | None,
    scheduler: Any = None,
) -> None:
    """Run `todo` trials; what becomes of them is in their files, and in the list that `search` and `watch` share.

    Returns early on Ctrl-C.

    Raises:
        WorkflowError: no cluster answers at the address, or none of its machines has what a trial takes.
    """
    with _ray(plan, resources, address):
        tuner = tune.Tuner(
            tune.with_resources(partial(_train, plan), {"cpu": resources.cpus, "gpu": resources.gpus}),
            tune_config=tune.TuneConfig(search_alg=search, scheduler=scheduler, num_samples=todo, reuse_actors=True),
            run_config=tune.RunConfig(
                name=SCRATCH,
                storage_path=str(plan.folder),
                failure_config=tune.FailureConfig(max_failures=retries),
                callbacks=[watch],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()[0]
            raise WorkflowError(f"the Ray cluster was lost ({said}); the same command goes on from here.") from error
    shutil.rmtree(plan.folder / SCRATCH, ignore_errors=True)


@contextmanager
def _ray(plan: Plan, resources: Resources, address: str | None) -> Iterator[None]:
    """A connection to the cluster at the address, or to one of this machine's own that ends with the block."""
    variables = {key: value for key, value in os.environ.items() if key.startswith(MINE)}
    variables |= QUIET | {
        "PYTHONPATH": str(plan.project / "src"),
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": "600",  # for a trial to end its run before its worker gets another
        "MLFLOW_TRACKING_URI": store.address(),
        "TF_NUM_INTRAOP_THREADS": str(resources.cpus),
        "TF_NUM_INTEROP_THREADS": str(resources.cpus),
    }
    # Or else Ray takes this machine for one in a network, looks for itself there, and listens to it.
    ray_constants.ENABLE_RAY_CLUSTER = bool(address) and not str(address).startswith(("127.", "localhost"))
    own: dict[str, Any] = {}
    if address:
        _check_answers(address)
    else:
        own = {"include_dashboard": False, "object_store_memory": 100 * 2**20, "_node_ip_address": "127.0.0.1"}
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        ray.init(
            address=address or "local",
            runtime_env={"env_vars": variables},
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            **own,
        )
    except Exception as error:  # Ray raises bare ones, too
        said = str(error).strip().splitlines()[0]
        advice = "; one with a token wants it in ~/.ray/auth_token here too, and RAY_AUTH_MODE=token" if address else ""
        raise WorkflowError(f"no Ray cluster can be used at {address or 'this machine'} ({said}){advice}.") from error
    try:
        _check(resources)
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Make sure that something listens at HOST:PORT: Ray would try for many minutes.

    Raises:
        WorkflowError: nothing does, or it is no such address.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise WorkflowError(f"no Ray cluster can be used at {address} ({error}); HOST:PORT is expected.") from error


def _check(resources: Resources) -> None:
    """Make sure that a trial fits onto a machine, and that all machines can write to the record.

    Raises:
        WorkflowError: it does not, or they can't.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    has = [tuple(node["Resources"].get(kind, 0) for kind in ("CPU", "GPU")) for node in nodes]
    if not any(cpus >= resources.cpus and gpus >= resources.gpus for cpus, gpus in has):
        machines = "; ".join(f"{cpus:g} and {gpus:g}" for cpus, gpus in has)
        raise WorkflowError(
            f"resources: a trial takes {resources.cpus} cores and {resources.gpus:g} GPUs, and no machine has them "
            f"(they have {machines})."
        )
    others = {node["NodeManagerHostname"] for node in nodes} - {platform.node()}
    if others and store.address().startswith(("sqlite:", "file:", "/")):
        raise WorkflowError(
            f"the record is {store.address()}, on this machine, but trials would run on {', '.join(sorted(others))} "
            "too; set MLFLOW_TRACKING_URI to a server."
        )
