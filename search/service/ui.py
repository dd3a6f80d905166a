"""`nanosweep ui`: MLflow's page over the store that `run` writes, on this machine alone, until Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import UserError
from search.service import links, mlflow_server
from search.service.background import HOST, begin, check_port, end, group, last_line, wait
from search.service.state import running
from search.tracking.mlflow_store import choose_uri, database_file, served, shown


def serve(storage: Path, port: int, study: str | None = None) -> None:
    """Serve until Ctrl-C. Prints the link that opens the study (default: the newest) sorted by objective.

    Raises UserError for an occupied port, a store that cannot be used, an unknown study.
    """
    uri = choose_uri(storage)
    if served(uri):
        print(f"MLFLOW_TRACKING_URI names a server already: {shown(uri)}")
        print("\n".join(links.lines(uri, uri, study)))
        return
    if (file := database_file(uri)) is not None and not file.exists():
        raise UserError(f"{shown(uri)}: no such store; nanosweep run makes it (or give its --storage)")
    if (service := running(storage)) is not None:
        print(f"nanosweep up serves it already: {shown(service.mlflow)}")
        print("\n".join(links.lines(service.mlflow, uri, study)))
        return
    check_port(port)
    for number in (signal.SIGINT, signal.SIGTERM):  # the server ends with us, also where a shell has us ignore Ctrl-C
        signal.signal(number, signal.default_int_handler)
    with _server(uri, storage, port) as (process, log):
        lines = links.lines(f"http://{HOST}:{port}", uri, study)  # the store is read while the server starts
        wait(process, lambda: mlflow_server.healthy(port), log, "MLflow's server")
        print("\n".join([*lines, "Ctrl-C ends it"]), flush=True)
        process.wait()
        raise UserError(f"MLflow's server ended by itself: {last_line(log)}")


@contextmanager
def _server(uri: str, storage: Path, port: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """MLflow's server as a process group of its own, so that Ctrl-C reaches us first; ended with all its children."""
    with tempfile.TemporaryDirectory(prefix="nanosweep-ui-") as folder:
        log = Path(folder) / "server.log"
        process = begin(mlflow_server.command(storage, port), mlflow_server.environment(uri), log, Path(folder))
        try:
            yield process, log
        finally:
            end(lambda: group(process.pid))
            process.wait(8)
