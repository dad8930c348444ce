"""Run trials on Ray, on this machine or on an existing cluster.

Ray runs workers and reports lost ones. A worker gets the number of a trial and writes the trial's file, so a search is
resumed from these files alone.

All machines of a cluster need the project's folder under the same path, with its .venv, from which `ray start` was
called, and an MLflow store to which several machines can write (MLFLOW_TRACKING_URI).
"""

import logging
import os
import platform
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from mnistflow.core.errors import WorkflowError
from mnistflow.search import plans, trials
from mnistflow.search.plans import Plan, Trial
from mnistflow.search.space import Resources
from mnistflow.tracking.status import address as store_address

FORWARDED = ("MLFLOW_", "MNISTFLOW_", "KERAS_", "TF_")  # environment variables that workers get
# Ray reads these when it is imported, in this process and in its workers.
RAY_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no usage reports over the network
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no warning about a default that is to change
}


def run(
    plan: Plan,
    total: int,
    suggest: Callable[[list[Trial]], dict[str, Any]],
    resources: Resources,
    retries: int = 2,
    address: str = "",
) -> list[Trial]:
    """Train the unfinished trials, and new ones until there are `total`; returns all.

    Args:
        plan: the search or study.
        total: the number of trials at the end.
        suggest: returns the settings of a new trial, from the trials so far.
        resources: of a trial.
        retries: how often a lost or failed trial is tried again.
        address: a Ray cluster to join, HOST:PORT; by default, this machine.

    Raises:
        WorkflowError: the cluster can't be used, was lost, or has no machine with the resources.
    """
    all_trials = plans.read(plan)
    waiting = [trial.number for trial in all_trials if not trial.is_over]
    remaining = len(waiting) + max(0, total - len(all_trials))
    if not remaining:
        return all_trials
    _say(f"{plan.model}: {remaining} of {total} trials to go; Ctrl-C stops, the same command goes on")
    failures: Counter[int] = Counter()
    running: dict[Any, int] = {}  # the trial's number by Ray's reference to the worker's result
    progress = tqdm(total=total, unit="trial", leave=False, disable=not sys.stderr.isatty())
    with _session(plan, resources, address) as ray, progress:
        worker = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0)(trials.train)
        try:
            while running or waiting or len(all_trials) < total:
                # New trials are suggested as late as possible, when the results of more trials are known.
                while len(running) < _slots(ray, resources) and (waiting or len(all_trials) < total):
                    if not waiting:
                        all_trials.append(Trial(len(all_trials) + 1, suggest(all_trials)))
                        all_trials[-1].write(plan)
                        waiting.append(all_trials[-1].number)
                    number = waiting.pop(0)
                    running[worker.remote(plan, number)] = number
                if not running:
                    time.sleep(1)  # until a machine is back
                    continue
                ended, _ = ray.wait(list(running), timeout=1)
                all_trials = plans.read(plan)
                for reference in ended:
                    trial = all_trials[running.pop(reference) - 1]
                    try:
                        ray.get(reference)
                    except ray.exceptions.RayError as error:
                        failures[trial.number] += 1
                        if failures[trial.number] <= retries:
                            waiting.append(trial.number)
                        _note_failure(plan, trial, error, is_last=trial.number not in waiting)
                    _say(_line(plan, trial))
                _show(progress, plan, all_trials)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=10)
    return all_trials


def _note_failure(plan: Plan, trial: Trial, error: Any, *, is_last: bool) -> None:
    """Write into a trial's file that its worker was lost or raised an error."""
    cause = getattr(error, "cause", None)  # the worker's exception
    reason = f"{type(cause).__name__}: {cause}" if cause else str(error).strip().partition("\n")[0]
    trial.status, trial.failure = ("failed" if is_last else "waiting"), reason[:300]
    trial.interruptions += not is_last
    trial.write(plan)


def _line(plan: Plan, trial: Trial) -> str:
    """The status of a trial, in a line."""
    epoch = len(trial.values)
    if trial.status == "waiting":
        return f"trial {trial.number} was interrupted ({trial.failure}) and will go on after epoch {epoch}"
    result = trial.failure or plan.text(trial.values[-1])
    settings = ", ".join(f"{key} {value}" for key, value in trial.settings.items())
    return f"trial {trial.number} {trial.status}: {result}, epoch {epoch}, {settings}"


def _say(text: str) -> None:
    tqdm.write(text)
    sys.stdout.flush()


def _show(progress: "tqdm[Any]", plan: Plan, all_trials: list[Trial]) -> None:
    """Show in a terminal how many trials are over, and how far the others are."""
    progress.n = sum(trial.is_over for trial in all_trials)
    running = (trial for trial in all_trials if trial.status == "running" and trial.values)
    parts = (f"trial {trial.number} epoch {len(trial.values)} {plan.text(trial.values[-1])}" for trial in running)
    progress.set_postfix_str(", ".join(parts))


@contextmanager
def _session(plan: Plan, resources: Resources, address: str) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at the address, or to a local one that ends with the block."""
    if address:
        _check_address(address)
    os.environ.update(RAY_VARIABLES)
    if not address or address.startswith(("127.", "localhost")):
        # Without this, Ray would listen on all network interfaces.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray  # reads those variables

    threads = str(resources.cpus)
    variables = {key: value for key, value in os.environ.items() if key.startswith(FORWARDED)} | RAY_VARIABLES
    variables |= {"TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads}
    variables |= {"PYTHONPATH": str(plan.project / "src"), "MLFLOW_TRACKING_URI": store_address()}
    own = {} if address else {"include_dashboard": False, "object_store_memory": 100 * 2**20}  # bytes
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        ray.init(
            address=address or "local",
            runtime_env={"env_vars": variables},
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            **own,
        )
    except Exception as error:  # Ray raises exceptions of many types
        reason = str(error).strip().partition("\n")[0]
        advice = "; one with a token wants it in ~/.ray/auth_token here too, and RAY_AUTH_MODE=token" if address else ""
        raise WorkflowError(f"no Ray cluster can be used at {address or 'this machine'} ({reason}){advice}.") from error
    try:
        _check_machines(ray, resources)
        yield ray
    except ray.exceptions.RayError as error:
        reason = str(error).strip().partition("\n")[0]
        raise WorkflowError(f"the Ray cluster was lost ({reason}); run the same command again to go on.") from error
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Check that a server listens at HOST:PORT. Ray itself would try for many minutes.

    Raises:
        WorkflowError: none does, or the address has another form.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise WorkflowError(f"no Ray cluster can be used at {address} ({error}); HOST:PORT is expected.") from error


def _machines(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _slots(ray: Any, resources: Resources) -> int:
    """The number of trials that the machines can run at the same time."""
    needed = {kind: amount for kind, amount in (("CPU", resources.cpus), ("GPU", resources.gpus)) if amount}
    return sum(
        int(min(node["Resources"].get(kind, 0) / amount for kind, amount in needed.items())) for node in _machines(ray)
    )


def _check_machines(ray: Any, resources: Resources) -> None:
    """Check that a machine has the resources of a trial, and that all machines can write to the MLflow store.

    Raises:
        WorkflowError: none has them, or the store is a file and there is a second machine.
    """
    if not _slots(ray, resources):
        machines = (tuple(node["Resources"].get(kind, 0) for kind in ("CPU", "GPU")) for node in _machines(ray))
        has = "; ".join(f"{cpus:g} and {gpus:g}" for cpus, gpus in machines)
        raise WorkflowError(
            f"resources: a trial needs {resources.cpus} cores and {resources.gpus:g} GPUs, and no machine has them "
            f"(they have {has})."
        )
    others = {node["NodeManagerHostname"] for node in _machines(ray)} - {platform.node()}
    if others and store_address().startswith(("sqlite:", "file:", "/")):
        raise WorkflowError(
            f"the record is {store_address()}, on this machine, but trials would run on {', '.join(sorted(others))} "
            "too; set MLFLOW_TRACKING_URI to a server."
        )
