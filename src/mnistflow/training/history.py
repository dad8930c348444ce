"""The history of a training: a row per epoch, and the CSV file that holds it."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mnistflow.core.errors import WorkflowError


@dataclass(frozen=True)
class Epoch:
    """One epoch. Losses are mean cross-entropies in nats; the training set's are averages while the weights move."""

    epoch: int  # from 1
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float  # at the epoch's last step


COLUMNS = tuple(field.name for field in fields(Epoch))


def best(history: Sequence[Epoch]) -> Epoch:
    """The first epoch with the lowest validation loss."""
    return min(history, key=lambda epoch: epoch.val_loss)


def write(path: Path, history: Sequence[Epoch]) -> None:
    """Write a row per epoch as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(epoch) for epoch in history)


def read(path: Path) -> list[Epoch]:
    """The rows of a file that `write` wrote.

    Raises:
        WorkflowError: the file is missing or damaged.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                Epoch(int(row.pop("epoch")), **{name: float(value) for name, value in row.items()})
                for row in csv.DictReader(file)
            ]
        if not rows:
            raise ValueError("it has no epoch")
        return rows
    except FileNotFoundError as error:
        raise WorkflowError(f"{path} is missing; `dvc repro` makes it.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise WorkflowError(f"{path} is damaged ({error}); run `rm {path} && dvc checkout {path}`.") from error
