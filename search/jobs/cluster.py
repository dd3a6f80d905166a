"""Which cluster is meant: the address given, RAY_API_SERVER_ADDRESS, or what `nanosweep up` left. No Ray in here.

The address is that of Ray's dashboard, which takes jobs (http://HOST:8265). Its token is found by Ray itself
(RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token), or here, for a service of `nanosweep up`.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from data.errors import UserError
from data.paths import at_home
from search.service import state
from search.service.state import Service

ADDRESS = "RAY_API_SERVER_ADDRESS"  # Ray's own variable, which its clients prefer to what they are told
PORT = 8265
_PATIENCE = 5.0  # seconds for a connection


@dataclass(frozen=True)
class Cluster:
    """address: http://HOST:PORT of its dashboard. service: what `nanosweep up` left, where that is it."""

    address: str
    service: Service | None = None


def find(address: str | None, storages: list[Path]) -> Cluster:
    """The cluster meant, which has answered on its port. storages: where a service is looked for, the first wins.

    Sets what Ray's client reads from the environment: call it before Ray is imported. Raises UserError.
    """
    service = next((one for storage in storages if (one := state.running(storage)) is not None), None)
    wanted = address or os.environ.get(ADDRESS) or (service.dashboard if service else None)
    if wanted is None:
        places = " or ".join(dict.fromkeys(str(at_home(storage).resolve()) for storage in storages))
        raise UserError(
            f"no cluster: nothing runs for {places}. Start one on this machine with `nanosweep up`, or name one: "
            f"--address http://HOST:{PORT} (or {ADDRESS})"
        )
    cluster = Cluster(normal(wanted))
    if service is not None and normal(service.dashboard) == cluster.address:
        cluster = Cluster(cluster.address, service)
        os.environ.pop("RAY_AUTH_TOKEN", None)  # of another cluster: Ray would take it before the file
        for name, value in state.environment(service).items():
            if name.startswith("RAY_"):
                os.environ[name] = value
            elif "MLFLOW_TRACKING_URI" not in os.environ or os.environ["MLFLOW_TRACKING_URI"] == service.mlflow:
                os.environ.setdefault(name, value)
    os.environ[ADDRESS] = cluster.address
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _past_proxies(urlsplit(cluster.address).hostname or "")
    _knock(cluster.address)
    return cluster


def normal(address: str) -> str:
    """`HOST:8265` as `http://HOST:8265`. Raises UserError for an address of another kind.

    >>> normal("head:8265/")
    'http://head:8265'
    """
    text = address.strip()
    text = text if "://" in text else f"http://{text}"
    parts = urlsplit(text)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.username is not None:
        raise UserError(
            f"address {re.sub('//.*@', '//***@', address)}: expected that of Ray's dashboard, "
            f"http://HOST:{PORT} (jobs go there; not ray://, not the head's port)"
        )
    text = text.rstrip("/")
    return text if port or parts.scheme == "https" else f"{text}:{PORT}"


def _past_proxies(host: str) -> None:
    """A proxy does not know what is on this machine."""
    if host == "localhost" or host.startswith("127."):
        for name in ("no_proxy", "NO_PROXY"):
            os.environ[name] = ",".join(filter(None, [os.environ.get(name), host]))


def _knock(address: str) -> None:
    """Ray's client would wait for a machine that is away for as long as the system does."""
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=_PATIENCE).close()
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
        raise UserError(
            f"no Ray dashboard answers at {address}: {reason}; start one on this machine with `nanosweep up`, "
            "or give another --address"
        ) from None
