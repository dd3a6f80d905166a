"""Where MLflow's records lie, and a client for them: SQLite in the storage, or whatever MLFLOW_TRACKING_URI names.

MLflow's fluent API keeps its state in globals; only its client is used here.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from data.errors import UserError
from data.paths import absolute
from search.tracking.mlflow_place import correct

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as Run

DATABASE = "mlflow.db"  # in the storage
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
# answers that another try would not change
FINAL = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}
FINAL |= {"INVALID_STATE", "PERMISSION_DENIED", "ENDPOINT_NOT_FOUND"}
BUSY = {408, 429}  # HTTP: request timeout, too many requests
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # migrations and its own retries; what matters arrives as an exception
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # its own retries block for minutes; the tracker has better ones
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class StoreError(UserError):
    """MLflow's store cannot be used. reason: why, in a few words."""

    def __init__(self, uri: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"MLflow at {shown(uri)} cannot be used: {reason}; start it, "
            "or unset MLFLOW_TRACKING_URI to keep records in the storage"
        )


def choose_uri(storage: Path) -> str:
    """MLFLOW_TRACKING_URI, or SQLite in the storage; a file by its absolute path.

    Raises UserError for what is no store of today's MLflow.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return own_uri(storage)
    _check(uri)
    file = database_file(uri)
    if file is None or file.is_absolute():
        return uri
    return sqlite_uri(file.absolute()) + "".join(uri.partition("?")[1:])


def own_uri(storage: Path) -> str:
    """The address of a storage's own database. Raises UserError for a path that can have none."""
    return sqlite_uri(absolute(storage) / DATABASE)


def sqlite_uri(path: Path) -> str:
    """The address of a SQLite file, for MLflow.

    >>> sqlite_uri(Path("/my runs/mlflow.db")), sqlite_uri(Path("/50%?/mlflow.db"))
    ('sqlite:////my runs/mlflow.db', 'sqlite+pysqlite:////50%25%3F/mlflow.db')
    """
    quoted = str(path).replace("%", "%25").replace("?", "%3F")  # what SQLAlchemy does not take literally
    # at `sqlite:///` MLflow makes the folder of the quoted name, too
    return f"sqlite:///{path}" if quoted == str(path) else f"sqlite+pysqlite:///{quoted}"


def database_file(uri: str) -> Path | None:
    """The file of a SQLite store, as SQLAlchemy reads its address; None for another store.

    >>> database_file("sqlite:///runs/a%20b.db?timeout=5"), database_file("http://localhost:5000")
    (PosixPath('runs/a b.db'), None)
    """
    scheme, _, path = uri.partition(":///")
    return Path(unquote(path.partition("?")[0])) if scheme.partition("+")[0] == "sqlite" else None


def _check(uri: str) -> None:
    scheme = urlsplit(uri).scheme
    if re.fullmatch(r"[\w.-]+(:\d+)?(/.*)?", uri) and (":" in uri or uri.startswith("localhost")):
        raise UserError(
            f"MLFLOW_TRACKING_URI: {uri} has no scheme; a server's address is http://{uri}", kind="no_scheme"
        )
    if scheme in ("", "file"):
        raise UserError(
            f"MLFLOW_TRACKING_URI: {uri} is a folder of files, which MLflow no longer writes; "
            "give a server (http://HOST:5000) or sqlite:///PATH/mlflow.db, or unset it",
            kind="file_store",
        )
    if scheme.partition("+")[0] == "sqlite" and not re.match(r"sqlite(\+\w+)?:///[^?]", uri):
        raise UserError(
            f"MLFLOW_TRACKING_URI: {uri} names no file; write sqlite:///PATH/mlflow.db, with four slashes for an "
            "absolute path",
            kind="no_file",
        )


def shown(uri: str) -> str:
    """A URI for people: without its password.

    >>> shown("postgresql://me:secret@db/mlflow")
    'postgresql://me:***@db/mlflow'
    """
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@", 1) if password else uri


def served(uri: str) -> bool:
    """Whether a server answers for the store, so that artifacts go through it."""
    return urlsplit(uri).scheme.partition("+")[0] not in _DATABASES


def connect(uri: str, seconds: float | None = None) -> MlflowClient:
    """A client of a store that has answered. seconds: patience; default 10 for a server, 60 for a database.

    A fresh SQLite file gets MLflow's tables first (a few seconds). Raises StoreError when the store is
    away, UserError for an address of none.
    """
    _check(uri)
    patience = seconds or (10 if served(uri) else 60)
    answer: list[MlflowClient | Exception] = []

    def ask() -> None:
        try:
            answer.append(_connect(uri))
        except Exception as error:
            answer.append(error)

    # in a thread, as MLflow tries a database that is away for minutes, whatever one asks
    thread = threading.Thread(target=ask, name="mlflow-connect", daemon=True)
    thread.start()
    thread.join(patience)
    client = answer[0] if answer else StoreError(uri, f"no answer within {patience:g} s")
    if isinstance(client, UserError):
        raise client
    if isinstance(client, Exception):
        raise StoreError(uri, reason(client)) from None
    return client


def _connect(uri: str) -> MlflowClient:
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    file = database_file(uri)
    with nullcontext() if file is None else _prepared(file) as path:
        if path is not None and not path.stat().st_size:
            # MLflow refuses for good a file whose tables it was killed over: they appear at once and whole
            fresh = path.with_name(f".{path.name}.new")
            fresh.unlink(missing_ok=True)
            MlflowClient(sqlite_uri(fresh)).search_experiments(max_results=1)
            fresh.replace(path)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
        if path is not None and path.name == DATABASE:
            correct(uri, path.resolve().parent)
    return client


def check_file(path: Path) -> None:
    """Whether a SQLite store can be written, without MLflow. Raises UserError."""
    with _prepared(path):
        pass


@contextmanager
def _prepared(path: Path) -> Iterator[Path]:
    """Its folder made, the file writable; held, as two processes that make the tables at once break each other."""
    from filelock import FileLock

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        database = sqlite3.connect(path, timeout=30)
        database.execute("BEGIN IMMEDIATE")
        database.close()
    except (OSError, sqlite3.Error) as error:
        lock.release()
        raise UserError(f"{path}: MLflow's database cannot be written: {error}; give another storage") from None
    try:
        yield path
    finally:
        lock.release()


def reason(error: BaseException) -> str:
    """What went wrong, in a few words: by the types of the errors that MLflow and urllib3 wrap into each other."""
    for one in _chain(error):
        if isinstance(one, StoreError):
            return one.reason
        if isinstance(one, ConnectionRefusedError):
            return "connection refused"
        if isinstance(one, socket.gaierror):
            return (one.strerror or "name or service not known").lower()
        if isinstance(one, TimeoutError) or type(one).__name__ in _TIMEOUTS:
            return "timed out"
    return " ".join(str(error).split())[:160] or type(error).__name__


_TIMEOUTS = {"Timeout", "ReadTimeout", "ConnectTimeout", "ReadTimeoutError", "ConnectTimeoutError"}  # of two libraries


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it wraps: as its cause or context, or as requests and urllib3 keep them."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        wrapped = (one.__cause__, one.__context__, getattr(one, "reason", None), getattr(one, "orig", None), *one.args)
        waiting += [inner for inner in wrapped if isinstance(inner, BaseException)]


def passing(error: BaseException) -> bool:
    """Whether another try may succeed: the server is away or busy, as against an answer that will stay the same."""
    from mlflow.exceptions import MlflowException
    from requests import ConnectionError, HTTPError, Timeout

    if isinstance(error, MlflowException):
        return error.error_code not in FINAL
    if isinstance(error, HTTPError):
        return error.response is None or error.response.status_code in BUSY or error.response.status_code >= 500
    return isinstance(error, (StoreError, ConnectionError, Timeout))
