"""A seal on each finished run: a hash of its parameters and metrics, by which a later change to them is noticed.

SQLite has no checksums: a bit that flips inside a row makes another number of it and nothing else. Databases that have
servers check their pages themselves, so that runs are looked through in SQLite alone.

A run has no seal while something is logged to it: no crash leaves one that does not fit.
"""

import hashlib
import json
from collections.abc import Iterator

from mlflow.entities import Run

from mnistflow import history, store

SEAL = "seal.1"  # the tag that holds it; what covers something else takes another number, and leaves these alone


def put(run_id: str) -> None:
    """Seal a run as it is."""
    store.client().set_tag(run_id, SEAL, _hash(store.client().get_run(run_id)))


def lift(run: Run) -> None:
    """Take the seal off a run to which something is to be logged."""
    if SEAL in run.data.tags:
        store.client().delete_tag(run.info.run_id, SEAL)


def is_broken(run: Run) -> bool:
    """Whether a run's settings or figures are no longer those that were sealed."""
    return SEAL in run.data.tags and run.data.tags[SEAL] != _hash(run)


def broken() -> Iterator[Run]:
    """The experiment's runs whose seal is broken, in an SQLite store."""
    token = None
    while store.sqlite_file():
        found = store.client().search_runs([store.experiment()], page_token=token)
        yield from (run for run in found if is_broken(run))
        if not (token := found.token):
            break


def _hash(run: Run) -> str:
    curves = {
        key: sorted((point.step, point.value) for point in store.client().get_metric_history(run.info.run_id, key))
        for key in run.data.metrics.keys() & {*history.COLUMNS, "epoch_seconds"}
    }
    content = json.dumps([run.data.params, run.data.metrics, curves], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
