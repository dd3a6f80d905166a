"""MLflow's server as a process, for `nanosweep ui` and `nanosweep up`: its command, its environment, its password.

On loopback it asks for no password. Elsewhere it does: a generated one, in a file of mode 600 that MLflow itself reads,
never on a command line; and it answers only to the names of this machine (a browser could otherwise be led to it).
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import secrets
import socket
import sys
from pathlib import Path

from data.errors import UserError
from search.service.background import HOST, answers
from search.tracking.mlflow_place import ARTIFACTS
from search.tracking.mlflow_store import QUIET, sqlite_uri
from trainer.files import check_private, write_private

CREDENTIALS, ACCOUNTS = "mlflow.ini", "mlflow-accounts.db"
USER = "admin"


def command(storage: Path, port: int, host: str = HOST, password: bool = False) -> list[str]:
    """The server over a storage's artifacts; what it serves is in the environment."""
    words = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    words += ["--uvicorn-opts", "--no-access-log"]  # else a line per request, for weeks
    words += ["--artifacts-destination", (storage.resolve() / ARTIFACTS).as_uri()]
    return words + (["--app-name", "basic-auth"] if password else [])


def environment(uri: str) -> dict[str, str]:
    """The server's environment over a store. uri: as of choose_uri, since the server works in another folder."""
    # its background jobs serve language-model evaluation, and cost a second process of 200 MB
    variables = {**os.environ, **QUIET, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    variables["MLFLOW_BACKEND_STORE_URI"] = uri  # not an argument: it may hold a password, and `ps` shows those
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        variables.pop(name, None)
    return variables


def healthy(port: int, host: str = HOST) -> bool:
    return answers(f"{local(host, port)}/health") is not None


def local(host: str, port: int) -> str:
    """The address of a server that listens on a host, for this machine."""
    return f"http://{HOST if host == '0.0.0.0' else host}:{port}"


def address(host: str) -> str:
    """The IPv4 address to listen on. Raises UserError for what is none."""
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError):
        raise UserError(f"--host {host} is no IPv4 address of this machine; use one, or 0.0.0.0") from None


def outside(host: str) -> bool:
    """Whether other machines reach what listens on an address."""
    return not ipaddress.ip_address(host).is_loopback


def protect(folder: Path) -> Path:
    """The file with the password, made once: MLflow's server reads it, and it serves as a client's
    ~/.mlflow/credentials. Raises UserError when MLflow's accounts cannot be had.
    """
    if importlib.util.find_spec("flask_wtf") is None:
        raise UserError("MLflow asks for passwords only with its extra `auth`; pip install 'mlflow[auth]'")
    path, accounts = folder / CREDENTIALS, folder / ACCOUNTS
    database = f"database_uri = {sqlite_uri(accounts).replace('%', '%%')}"  # MLflow's reader halves the signs again
    if path.exists():
        check_private(path)
        lines = path.read_text(encoding="utf-8").splitlines()
        if database not in lines:  # the storage has moved
            kept = [line for line in lines if not line.startswith("database_uri")]
            write_private(path, "\n".join([*kept, database]) + "\n")
        return path
    accounts.unlink(missing_ok=True)  # it knows another password, which nobody has any more
    password = secrets.token_urlsafe(24)
    lines = [
        "# MLflow's server reads this; a copy as ~/.mlflow/credentials lets another machine's clients in",
        "[mlflow]",
        f"admin_username = {USER}",
        f"admin_password = {password}",
        f"mlflow_tracking_username = {USER}",
        f"mlflow_tracking_password = {password}",
        database,
        "default_permission = READ",
        "auth_cache_ttl_seconds = 60",  # a password is hashed once a minute, not for every request
    ]
    write_private(path, "\n".join(lines) + "\n")
    return path


def protected(variables: dict[str, str], credentials: Path) -> dict[str, str]:
    """The environment of a server that asks for the password."""
    variables = {name: value for name, value in variables.items() if not name.startswith("MLFLOW_AUTH_ADMIN_")}
    key = secrets.token_hex(32)  # of its sessions, which end with it
    return {**variables, "MLFLOW_AUTH_CONFIG_PATH": str(credentials), "MLFLOW_FLASK_SERVER_SECRET_KEY": key}


def named(variables: dict[str, str], port: int, names: list[str]) -> dict[str, str]:
    """The environment of a server that answers to these names alone, and whose page may be opened under them."""
    hosts = [host for name in names for host in (name, f"{name}:{port}")]
    origins = [f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts]
    hosts_and_origins = {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),  # the page sends its own with each change
    }
    return {**variables, **hosts_and_origins}


def names(host: str, more: list[str]) -> list[str]:
    """By what this machine may be called: loopback, its names, its addresses, and what is given (MLflow checks the
    Host header of each request)."""
    import psutil

    own = [HOST, "localhost", socket.gethostname(), socket.getfqdn()]
    if host != "0.0.0.0":
        own.append(host)
    else:
        own += [a.address for card in psutil.net_if_addrs().values() for a in card if a.family == socket.AF_INET]
    return list(dict.fromkeys([*own, *more]))
