"""Server processes: who holds a port, and an end that leaves no child."""

from __future__ import annotations

import os
import socket
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

from data.errors import UserError
from search.service import background
from tests.waiting import until


def test_an_occupied_port_says_who_holds_it_and_which_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} is taken by process {os.getpid()} \(.*\); try --port \d+"):
            background.check_port(port)
    background.check_port(port)


def test_ending_a_server_ends_its_children_even_stubborn_ones(tmp_path: Path) -> None:
    stubborn = (
        "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(3600)"
    )
    command = ["sh", "-c", f'{sys.executable} -c "{stubborn}" & wait']
    process = background.begin(command, dict(os.environ), tmp_path / "out", tmp_path)
    until(lambda: (tmp_path / "out").read_text() == "up\n")
    children = psutil.Process(process.pid).children(recursive=True)
    assert background.end(lambda: background.group(process.pid), patience=1) == 2
    process.wait()
    assert len(children) == 1
    until(lambda: not background.breathes(children[0]))


def test_a_server_that_does_not_start_is_told_by_its_last_line(tmp_path: Path) -> None:
    process = background.begin(["sh", "-c", "echo no such store; exit 3"], dict(os.environ), tmp_path / "out", tmp_path)
    with pytest.raises(UserError, match="MLflow did not start: no such store"):
        background.wait(process, lambda: False, tmp_path / "out", "MLflow")
    sleeper = background.begin(["sleep", "3600"], dict(os.environ), tmp_path / "out", tmp_path)
    with pytest.raises(UserError, match=r"did not answer within 0\.1 s: it said nothing"):
        background.wait(sleeper, lambda: False, tmp_path / "out", "MLflow", patience=0.1)
    background.end(lambda: [psutil.Process(sleeper.pid)])
    sleeper.wait()


def test_a_server_is_asked_past_any_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    (tmp_path / "said").write_text("yes")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert background.answers(f"{url}/said") == b"yes"
        assert background.answers(f"{url}/unknown") is None
        server.shutdown()
    assert background.answers(f"{url}/said") is None
