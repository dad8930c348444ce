"""Copy an MLflow store from SQLite to a server's database: `python cluster/move.py RECORD DATABASE ARTIFACTS`.

RECORD is the file mlflow.db, DATABASE the address of an empty PostgreSQL database (with its password in PGPASSFILE),
ARTIFACTS the artifact folder of the MLflow server. All rows of all tables are copied, so runs keep their IDs, times,
parameters, metrics and tags, and the registry its versions and aliases. Artifact addresses become those of the server.
RECORD is only read.

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

REVISION = "alembic_version"  # the table with the version of the schema
ROWS = 1000  # copied at a time
PROXY = "mlflow-artifacts:/"  # the prefix of addresses of artifacts that a server provides


def main(record: Path, database: str, artifacts: Path) -> None:
    """Copy everything, and print how much it was."""
    if not record.is_file():
        raise WorkflowError(f"{record} is missing; the SQLite file of a record is expected, usually mlflow.db.")
    if not artifacts.is_dir():
        raise WorkflowError(f"{artifacts} is missing; the server's folder of artifacts is expected.")
    read = f"{record.resolve().as_uri()}?mode=ro"
    source = sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(read, uri=True))
    try:
        sa.create_engine(database).connect().close()  # MLflow would try for minutes
        MlflowClient(database).search_experiments(max_results=1)  # makes the tables
        with source.connect() as old, sa.create_engine(database).begin() as new:
            old.exec_driver_sql("BEGIN")  # a consistent snapshot
            count, files = copy(old, new)
            # Addresses in the record may be relative to it.
            copy_artifacts({record.resolve().parent / folder: address for folder, address in files.items()}, artifacts)
    except (SQLAlchemyError, MlflowException) as error:
        reason = without_password(" ".join(str(error).split()))[:400]
        raise WorkflowError(f"{record} can't be moved to {without_password(database)}: {reason}") from error
    print(f"moved: {count['runs']} runs, {count['metrics']} metrics, {count['logged_models']} logged models, ", end="")
    print(f"{count['model_versions']} versions in the registry, {len(files)} folders of files")
    print(f"{record} is as it was. Next: export MLFLOW_TRACKING_URI=http://..., the server's address, and make record")


def copy(old: sa.Connection, new: sa.Connection) -> tuple[dict[str, int], dict[Path, str]]:
    """Copy all tables; returns the number of rows by table, and the new address of each artifact folder.

    Raises:
        WorkflowError: the schemas differ, or the new database is not empty.
    """
    source, target = tables_of(old), tables_of(new)
    check(old, new, source, target)
    for table in reversed(target.sorted_tables):
        if table.name != REVISION:
            new.execute(table.delete())  # the default experiment of a new store
    addresses = locations(old, source)
    count: dict[str, int] = {}
    files: dict[Path, str] = {}
    for table in tqdm(target.sorted_tables, unit="table", leave=False, disable=None):
        if table.name == REVISION:
            continue
        count[table.name] = 0
        for rows in old.execute(sa.select(source.tables[table.name])).mappings().partitions(ROWS):
            new.execute(table.insert(), [{key: moved(row[key], addresses, files) for key in row} for row in rows])
            count[table.name] += len(rows)
        set_sequences(new, table)
    return count, files


def tables_of(connection: sa.Connection) -> sa.MetaData:
    """The tables that a database has."""
    metadata = sa.MetaData()
    metadata.reflect(connection)
    for column in (column for table in metadata.tables.values() for column in table.columns):
        if isinstance(column.type, sa.JSON):
            column.type.none_as_null = True  # None becomes SQL's NULL, not JSON's null
    return metadata


def check(old: sa.Connection, new: sa.Connection, source: sa.MetaData, target: sa.MetaData) -> None:
    """Check that both databases have the same schema, and that the new one is empty.

    Raises:
        WorkflowError: they have not, or it is not.
    """
    if REVISION not in source.tables:
        raise WorkflowError("that SQLite file holds no MLflow record.")
    revisions = [database.execute(sa.select(source.tables[REVISION])).scalar() for database in (old, new)]
    if revisions[0] != revisions[1]:
        raise WorkflowError(
            f"the record is of another version of MLflow than the database ({revisions[0]}, {revisions[1]}); bring "
            "both up to date: mlflow db upgrade ADDRESS."
        )
    for name in sorted(set(target.tables) - {REVISION, "experiments", "experiment_tags", "workspaces"}):
        if new.execute(sa.select(sa.literal(1)).select_from(target.tables[name]).limit(1)).first():
            raise WorkflowError(f"the database is in use: its table {name} has rows; an empty one is expected.")


def locations(old: sa.Connection, source: sa.MetaData) -> dict[str, str]:
    """The new artifact address of each experiment, by the old one."""
    experiments = source.tables["experiments"]
    rows = old.execute(sa.select(experiments.c.artifact_location, experiments.c.experiment_id))
    addresses = {each: f"{PROXY}{number}" for each, number in rows if each and urlparse(each).scheme in ("", "file")}
    # Longest first, because one experiment's folder may be inside another's.
    return dict(sorted(addresses.items(), key=lambda pair: -len(pair[0])))


def moved(value: Any, addresses: dict[str, str], files: dict[Path, str]) -> Any:
    """A value for the new database. An artifact address becomes the server's, and is added to `files` by folder."""
    if isinstance(value, str):
        for before, after in addresses.items():
            if value == before:
                return after
            if value.startswith(f"{before}/"):
                address = after + value.removeprefix(before)
                files[Path(url2pathname(urlparse(value).path))] = address
                return address
    return value


def set_sequences(new: sa.Connection, table: sa.Table) -> None:
    """Set the database's sequences to the largest copied IDs."""
    for column in table.primary_key.columns:
        if isinstance(column.type, sa.Integer):
            names = {"table": table.name, "column": column.name}
            counter = sa.func.pg_get_serial_sequence(sa.bindparam("table"), sa.bindparam("column"))
            last = sa.select(sa.func.max(column)).scalar_subquery()
            query = sa.select(sa.func.setval(counter, last)).where(counter.is_not(None), last.is_not(None))
            new.execute(query, names)


def copy_artifacts(files: dict[Path, str], artifacts: Path) -> None:
    """Copy the artifact folders that exist to the server's folder. A run without artifacts has none."""
    for folder, address in tqdm(files.items(), unit="folder", leave=False, disable=None):
        if folder.is_dir():
            shutil.copytree(folder, artifacts / address.removeprefix(PROXY), dirs_exist_ok=True)


if __name__ == "__main__":
    cli.run(main)
