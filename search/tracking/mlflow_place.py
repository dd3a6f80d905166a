"""Where MLflow's records say that files lie: corrected when a storage has moved.

MLflow's database holds absolute addresses, of each experiment, run, model and version. After `mv a b`, or in a copy on
another machine, they name a place that is gone: MLflow would make it again, outside of the storage, and load no model.
Addresses that a server gave (`mlflow-artifacts:/`) move along, but without a server nothing is found by them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from search.study.journal import NAME

if TYPE_CHECKING:
    from sqlalchemy import Connection

ARTIFACTS = "mlartifacts"  # in the storage: a folder for each experiment
_BY_SERVER = "mlflow-artifacts"
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def place_of(storage: Path, study: str) -> str:
    """The address of a study's files in a storage: quoted, as MLflow takes even a plain path for a quoted one."""
    return (storage.resolve() / ARTIFACTS / study).as_uri()


def correct(uri: str, storage: Path, study: str | None = None) -> None:
    """Let a database's records name the files in this storage, where those of a study lie in it.

    uri: of a database with MLflow's tables. study: the only one to look at, which will be used without a server; by
    default all whose addresses are folders, as the database is the storage's own. Raises what SQLAlchemy raises.
    """
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as database:
            rows = database.execute(sqlalchemy.text("SELECT name, artifact_location FROM experiments")).all()
            for name, address in rows:
                if study in (None, name) and (new := _corrected(name, address or "", storage.resolve(), bool(study))):
                    _replace(database, address, new)
            database.commit()
    finally:
        engine.dispose()


def _corrected(study: str, address: str, storage: Path, alone: bool) -> str | None:
    """The address that should stand for an experiment's; None where it is right, or another storage's. alone: the
    database may be of several storages."""
    parts = urlsplit(address) if address.startswith((f"{_BY_SERVER}:", "file:")) else urlsplit("")
    former = Path(url2pathname(parts.path or address))
    here = storage / ARTIFACTS / former.name
    if parts.scheme == _BY_SERVER:
        return here.as_uri() if alone and here.exists() else None
    if former.parent.name != ARTIFACTS or (former.exists() and (alone or _same(former, here))):
        return None
    return here.as_uri() if here.exists() or (storage / study / NAME).exists() else None


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def _replace(database: Connection, old: str, new: str) -> None:
    """Put an address in the place of another, for all that lies below it."""
    import sqlalchemy

    values = {"new": new, "after": len(old) + 1, "old": old, "length": len(old) + 1, "below": f"{old}/"}
    for table, column in _ADDRESSES:
        statement = (
            f"UPDATE {table} SET {column} = :new || substr({column}, :after) "
            f"WHERE {column} = :old OR substr({column}, 1, :length) = :below"
        )
        database.execute(sqlalchemy.text(statement), values)
