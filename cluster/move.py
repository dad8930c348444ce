"""Move a record from SQLite to a server's database: `python cluster/move.py RECORD DATABASE ARTIFACTS`.

RECORD is the file mlflow.db, DATABASE the address of an empty PostgreSQL database (leave its password to PGPASSFILE),
ARTIFACTS the folder from which the MLflow server in front of it hands out files. Every row of every table is copied
as it is, so that runs keep their IDs, times, parameters, metrics and tags, and the registry its versions and aliases;
what points to files points to the server afterwards. The record in SQLite stays as it is.

MLflow 3.17 has no command for this: `mlflow migrate-filestore` goes from files to SQLite.
"""

import shutil
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from mnistflow.core import cli
from mnistflow.core.errors import WorkflowError, without_password

REVISION = "alembic_version"  # the table that names the state of all others
AT_ONCE = 1000  # rows
PROXY = "mlflow-artifacts:/"  # how an address begins of which the server knows the place


def main(record: Path, database: str, artifacts: Path) -> None:
    """Copy, and say what."""
    if not record.is_file():
        raise WorkflowError(f"{record} is missing; the SQLite file of a record is expected, usually mlflow.db.")
    if not artifacts.is_dir():
        raise WorkflowError(f"{artifacts} is missing; the folder from which the server hands out files is expected.")
    # Read-only: a slip can't cost the record anything.
    read = f"{record.resolve().as_uri()}?mode=ro"
    source = sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(read, uri=True))
    try:
        sa.create_engine(database).connect().close()  # MLflow would try for minutes
        MlflowClient(database).search_experiments(max_results=1)  # makes the tables
        with source.connect() as old, sa.create_engine(database).begin() as new:
            old.exec_driver_sql("BEGIN")  # all that is read is of one moment
            count, files = copy(old, new)
            # Addresses in the record may be relative to it.
            bring({record.resolve().parent / folder: address for folder, address in files.items()}, artifacts)
    except (SQLAlchemyError, MlflowException) as error:
        reason = without_password(" ".join(str(error).split()))[:400]
        raise WorkflowError(f"{record} can't be moved to {without_password(database)}: {reason}") from error
    print(f"moved: {count['runs']} runs, {count['metrics']} metrics, {count['logged_models']} logged models, ", end="")
    print(f"{count['model_versions']} versions in the registry, {len(files)} folders of files")
    print(f"{record} is as it was. Next: export MLFLOW_TRACKING_URI=http://..., the server's address, and make record")


def copy(old: sa.Connection, new: sa.Connection) -> tuple[dict[str, int], dict[Path, str]]:
    """Copy all tables; returns the rows of each, and which folder of files goes to which place of the server's.

    Raises:
        WorkflowError: the two are not of the same version of MLflow, or the new one holds something already.
    """
    tables, theirs = reflected(old), reflected(new)
    check(old, new, tables, theirs)
    for table in reversed(theirs.sorted_tables):
        if table.name != REVISION:
            new.execute(table.delete())  # what every new store begins with: the default experiment
    served = places(old, tables)
    count: dict[str, int] = {}
    files: dict[Path, str] = {}
    for table in tqdm(theirs.sorted_tables, unit="table", leave=False, disable=None):
        if table.name == REVISION:
            continue
        count[table.name] = 0
        for rows in old.execute(sa.select(tables.tables[table.name])).mappings().partitions(AT_ONCE):
            new.execute(table.insert(), [{key: moved(row[key], served, files) for key in row} for row in rows])
            count[table.name] += len(rows)
        go_on_counting(new, table)
    return count, files


def reflected(connection: sa.Connection) -> sa.MetaData:
    """The tables that a database has."""
    found = sa.MetaData()
    found.reflect(connection)
    for column in (column for table in found.tables.values() for column in table.columns):
        if isinstance(column.type, sa.JSON):
            column.type.none_as_null = True  # else what is missing would become JSON's null
    return found


def check(old: sa.Connection, new: sa.Connection, tables: sa.MetaData, theirs: sa.MetaData) -> None:
    """Make sure that rows can go from one to the other, and that the other has nothing to lose."""
    if REVISION not in tables.tables:
        raise WorkflowError("that SQLite file holds no MLflow record.")
    revisions = [side.execute(sa.select(tables.tables[REVISION])).scalar() for side in (old, new)]
    if revisions[0] != revisions[1]:
        raise WorkflowError(
            f"the record is of another version of MLflow than the database ({revisions[0]}, {revisions[1]}); bring "
            "both up to date: mlflow db upgrade ADDRESS."
        )
    for name in sorted(set(theirs.tables) - {REVISION, "experiments", "experiment_tags", "workspaces"}):
        if new.execute(sa.select(sa.literal(1)).select_from(theirs.tables[name]).limit(1)).first():
            raise WorkflowError(f"the database is in use: its table {name} holds something; an empty one is expected.")


def places(old: sa.Connection, tables: sa.MetaData) -> dict[str, str]:
    """Where each experiment's files lie, if that is on this machine, and where a server would put them."""
    experiments = tables.tables["experiments"]
    rows = old.execute(sa.select(experiments.c.artifact_location, experiments.c.experiment_id))
    found = {place: f"{PROXY}{number}" for place, number in rows if place and urlparse(place).scheme in ("", "file")}
    # One experiment's folder may lie in another's; the deeper one is meant.
    return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))


def moved(value: Any, served: dict[str, str], files: dict[Path, str]) -> Any:
    """A value of a row as it is to be; where it is an address of files, that is noted in `files`."""
    if isinstance(value, str):
        for place, address in served.items():
            if value == place:
                return address
            if value.startswith(f"{place}/"):
                there = address + value.removeprefix(place)
                files[Path(url2pathname(urlparse(value).path))] = there
                return there
    return value


def go_on_counting(new: sa.Connection, table: sa.Table) -> None:
    """Have the database number new rows from where the copied ones end."""
    for column in table.primary_key.columns:
        if isinstance(column.type, sa.Integer):
            names = {"table": table.name, "column": column.name}
            counter = sa.func.pg_get_serial_sequence(sa.bindparam("table"), sa.bindparam("column"))
            last = sa.select(sa.func.max(column)).scalar_subquery()
            query = sa.select(sa.func.setval(counter, last)).where(counter.is_not(None), last.is_not(None))
            new.execute(query, names)


def bring(files: dict[Path, str], artifacts: Path) -> None:
    """Copy the folders that exist (a run without files has none) to where the server hands them out."""
    for folder, address in tqdm(files.items(), unit="folder", leave=False, disable=None):
        if folder.is_dir():
            shutil.copytree(folder, artifacts / address.removeprefix(PROXY), dirs_exist_ok=True)


if __name__ == "__main__":
    cli.run(main)
