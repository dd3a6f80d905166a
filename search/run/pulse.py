"""Whether Ray itself lives. When its head or this machine's part of it dies, Ray's client waits for ever, or ends the
process without a word; so a thread looks at their ports and says so.

    with beating(gone):    # gone("Ray's head at HOST:PORT is gone") is called in the thread
        ...
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY = 2.0  # seconds between looks
_MISSES = 3  # looks in a row without an answer: a machine under load may miss one


@contextmanager
def beating(gone: Callable[[str], None]) -> Iterator[None]:
    """Watch the Ray that we are connected to for as long as the block runs; `gone` is called at most once."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(_parts(), gone, over), name="ray-pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_EVERY + _MISSES)


def _parts() -> dict[str, tuple[str, int]]:
    """What must answer, by its name for people: the head, and the daemon of the node that we are on."""
    import ray

    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    parts = {"Ray's head": (host, int(port))}
    for node in ray.nodes():
        if node["NodeID"] == context.get_node_id():
            parts["Ray's daemon on this machine"] = (node["NodeManagerAddress"], node["NodeManagerPort"])
    return parts


def _watch(parts: dict[str, tuple[str, int]], gone: Callable[[str], None], over: threading.Event) -> None:
    missed = dict.fromkeys(parts, 0)
    while not over.wait(_EVERY):
        for name, (host, port) in parts.items():
            missed[name] = 0 if _answers(host, port) else missed[name] + 1
            if missed[name] == _MISSES and not over.is_set():
                gone(f"{name} ({host}:{port}) is gone")
                return


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_EVERY).close()
    except OSError:
        return False
    return True
