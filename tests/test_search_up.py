"""`nanosweep up`, `status`, `down` with a real Ray and a real MLflow: one service, taken through its life.

Loopback first; then its processes are killed by hand, and it comes up again, open to others and with a password.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from search.cli.main import main
from search.service import background, ray_head, state
from search.service.state import Service
from search.tracking.mlflow_store import connect
from search.tracking.mlflow_tracker import MlflowTracker
from tests import journals
from tests.stores import fresh_store
from tests.waiting import CEILING, until

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow
CLIENTS = "for ray job submit, a notebook or a script, in this shell:"


class Up(NamedTuple):
    storage: Path
    options: list[str]  # its ports
    said: str
    found: Service


def nanosweep(*words: str, storage: Path) -> tuple[int, str]:
    """The command as a process of its own, which ends: its exit code, and all that it said."""
    without = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    command = [sys.executable, "-m", "search", *words, "--storage", str(storage)]
    done = subprocess.run(command, cwd=ROOT, env=without, capture_output=True, text=True, timeout=CEILING)
    return done.returncode, done.stdout + done.stderr


def free_ports(count: int) -> list[int]:
    """Free ones, where neither Ray's workers nor clients of other tests get theirs."""
    return [port for port in range(23100, 23200) if background.free(port, "0.0.0.0")][:count]


def got(url: str, **headers: str) -> int:
    """The HTTP status of a GET."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=CEILING) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def token(found: Service) -> str:
    assert found.token_file is not None
    return found.token_file.read_text().strip()


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Up on loopback over a storage with the study quick."""
    storage = tmp_path_factory.mktemp("service")
    uri = fresh_store(storage)
    ledger = journals.write_study(storage / "quick")
    tracker = MlflowTracker(storage / "quick", uri)
    tracker.follow(ledger)
    assert tracker.close() == ""
    ray, dashboard, mlflow = (str(port) for port in free_ports(3))
    options = ["--ray-port", ray, "--dashboard-port", dashboard, "--mlflow-port", mlflow]
    code, said = nanosweep("up", *options, "--num-cpus", "2", storage=storage)
    try:
        assert code == 0, said
        found = state.running(storage)
        assert found is not None
        yield Up(storage, options, said, found)
    finally:
        nanosweep("down", storage=storage)


@pytest.fixture(scope="module")
def exposed(loopback: Up) -> Up:
    """The same storage after both of its processes were killed by hand: up again, for other machines as well."""
    if state.running(loopback.storage):  # this test runs by itself
        assert nanosweep("down", storage=loopback.storage)[0] == 0
    code, said = nanosweep("up", *loopback.options, "--host", "0.0.0.0", storage=loopback.storage)
    assert code == 0, said
    found = state.running(loopback.storage)
    assert found is not None
    return Up(loopback.storage, loopback.options, said, found)


def test_up_says_where_and_outlives_who_started_it(loopback: Up) -> None:
    found = loopback.found
    assert f"Ray's dashboard: {found.dashboard} " in loopback.said
    assert f"quick, sorted by objective: {found.mlflow}/#/experiments/" in loopback.said
    for process in found.parts.values():
        assert psutil.Process(process.pid).terminal() is None
        assert os.getsid(process.pid) == process.pid


def test_the_lines_that_up_prints_let_a_bare_shell_in(loopback: Up, tmp_path: Path) -> None:
    told = loopback.said.splitlines()
    client, submit_line = (line.strip() for line in told[told.index(CLIENTS) + 1 :][:2])
    assert submit_line.startswith(f"ray job submit --working-dir {ROOT} -- python -m search run SPEC --storage /")
    bare = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    script = f"{client}\npython -c 'import search; print(search.__file__)'\nray job list"
    done = subprocess.run(["bash", "-euc", script], cwd=ROOT, env=bare, capture_output=True, text=True, timeout=CEILING)
    assert done.returncode == 0, done.stderr
    assert str(ROOT / "search" / "__init__.py") in done.stdout


def test_a_second_up_says_that_it_is_up_and_where_it_is(loopback: Up) -> None:
    code, said = nanosweep("up", storage=loopback.storage)
    assert (code, state.running(loopback.storage)) == (0, loopback.found)
    assert "up already" in said
    assert loopback.found.dashboard in said
    code, said = nanosweep("up", "--dashboard-port", "8299", storage=loopback.storage)
    assert code == 2
    assert f"is up with --dashboard-port {loopback.options[3]}; nanosweep down first" in said


def test_ray_answers_to_nobody_without_the_token(loopback: Up) -> None:
    import grpc

    url = f"{loopback.found.dashboard}/api/version"
    assert got(url) == 401
    assert got(url, Authorization="Bearer 0123456789abcdef") == 403
    assert got(url, Authorization=f"Bearer {token(loopback.found)}") == 200
    for path in ("/api/jobs/", "/nodes?view=summary", "/api/v0/nodes", "/api/cluster_status"):
        assert got(loopback.found.dashboard + path) == 401
    with grpc.insecure_channel(loopback.found.ray_address) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            ask(b"", timeout=CEILING)
        assert ask(b"", timeout=CEILING, metadata=[("authorization", f"Bearer {token(loopback.found)}")])


def test_mlflow_on_loopback_answers_to_its_own_name_alone(loopback: Up) -> None:
    url = f"{loopback.found.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    assert got(url) == 200
    assert got(url, Host="evil.example") == 403


def test_secrets_are_in_files_of_mode_600_and_nowhere_else(loopback: Up) -> None:
    secret = token(loopback.found).encode()
    check_hidden(loopback.found, [secret])


def check_hidden(found: Service, secrets: list[bytes]) -> None:
    """No process shows a secret in its command line, no log and no file of Ray's holds one."""
    lines = [b" ".join(w.encode() for w in p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert len(lines) > 10
    assert not [line for line in lines for secret in secrets if secret in line]
    folder = state.folder(found.storage)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert found.scratch.stat().st_mode & 0o777 == 0o700
    private = {folder / "ray-token", folder / "mlflow.ini"}
    for path in [*folder.rglob("*"), *found.scratch.rglob("*")]:
        if path.is_file() and any(secret in path.read_bytes() for secret in secrets):
            assert path in private
            assert path.stat().st_mode & 0o777 == 0o600
    logs = [path.name for path in folder.glob("*.log")]
    assert sorted(logs) == ["mlflow.log", "ray.log"]


def test_a_direct_run_the_server_and_ui_share_the_storage(
    loopback: Up, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = journals.write_study(loopback.storage / "direct")
    tracker = MlflowTracker(loopback.storage / "direct", f"sqlite:///{loopback.storage / 'mlflow.db'}")
    tracker.follow(ledger)
    assert tracker.close() == ""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["ui", "direct", "--storage", str(loopback.storage)]) == 0
    assert f"direct, sorted by objective: {loopback.found.mlflow}/#/experiments/" in capsys.readouterr().out
    for name, value in state.environment(loopback.found).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(loopback.storage.parent)
    assert main(["leaderboard", "direct"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["1", "1", "4.000"]


def test_status_says_what_is_up_and_what_is_known(loopback: Up) -> None:
    code, said = nanosweep("status", storage=loopback.storage)
    assert code == 0
    assert f"{loopback.found.dashboard} (1 node, 2 CPUs, 0 GPUs; drivers: {loopback.found.ray_address}" in said
    assert loopback.found.mlflow in said
    assert "study     quick\n" in said
    assert token(loopback.found) not in said
    assert token(loopback.found) in nanosweep("status", "--show-secrets", storage=loopback.storage)[1]


def test_a_port_that_is_taken_says_by_whom(loopback: Up, tmp_path: Path) -> None:
    code, said = nanosweep("up", *loopback.options, storage=tmp_path)
    assert code == 2
    assert f"port {loopback.options[3]} is taken by process" in said
    assert f"(the service of {loopback.storage}); try --dashboard-port" in said
    assert state.recorded(tmp_path) is None


def test_killed_by_hand_is_said_and_up_starts_what_is_missing(loopback: Up) -> None:
    found = loopback.found
    assert found.mlflow_server is not None
    assert found.ray is not None
    os.kill(found.mlflow_server.pid, signal.SIGKILL)
    until(lambda: state.running(loopback.storage) is None)
    code, said = nanosweep("status", storage=loopback.storage)
    assert code == 3
    assert f"MLflow    its process has died at {found.mlflow}" in said
    code, said = nanosweep("up", storage=loopback.storage)
    assert code == 0, said
    again = state.running(loopback.storage)
    assert again is not None
    assert again.ray == found.ray
    assert got(f"{again.mlflow}/version") == 200
    for process in again.parts.values():
        os.kill(process.pid, signal.SIGKILL)
    until(lambda: not state.without_dead(again).parts)
    code, said = nanosweep("status", storage=loopback.storage)
    assert code == 3
    assert "its processes have died" in said
    assert_nothing_left(again)


def test_open_to_others_mlflow_asks_for_its_password_too(exposed: Up) -> None:
    found = exposed.found
    assert found.mlflow_credentials is not None
    user, password = state.credentials(found.mlflow_credentials)
    right = base64.b64encode(f"{user}:{password}".encode()).decode()
    wrong = base64.b64encode(f"{user}:password1234".encode()).decode()
    for path in (
        "/",
        "/version",
        "/api/2.0/mlflow/experiments/search?max_results=1",
        "/get-artifact?path=a",
    ):
        assert got(found.mlflow + path) == 401
        assert got(found.mlflow + path, Authorization=f"Basic {wrong}") == 401
    url = f"{found.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    assert got(url, Authorization=f"Basic {right}") == 200
    assert got(url, Authorization=f"Basic {right}", Host=socket.gethostname()) == 200
    assert got(url, Authorization=f"Basic {right}", Host="evil.example") == 403
    assert got(f"{found.dashboard}/api/version") == 401
    assert got(f"{found.dashboard}/api/version", Authorization=f"Bearer {token(found)}") == 200
    check_hidden(found, [token(found).encode(), password.encode()])
    assert password not in exposed.said
    assert "MLFLOW_TRACKING_PASSWORD=AS_IN_mlflow.ini" in exposed.said


def test_with_the_environment_another_machine_reads_through_the_password(
    exposed: Up, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in state.environment(exposed.found).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    assert main(["leaderboard", "quick"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["1", "1", "4.000"]
    ledger = journals.write_study(tmp_path / "far")
    tracker = MlflowTracker(tmp_path / "far", exposed.found.mlflow)
    tracker.follow(ledger)
    assert tracker.close() == ""
    assert connect(exposed.found.mlflow).search_experiments()


def test_down_says_what_it_interrupts_and_leaves_nothing(exposed: Up) -> None:
    job = submit(exposed.found, "sleep 1234")
    until(lambda: [j["status"] for j in ray_head.jobs(exposed.found)] == ["RUNNING"])
    assert f"job       {job} running: sleep 1234" in nanosweep("status", storage=exposed.storage)[1]
    code, said = nanosweep("down", storage=exposed.storage)
    assert code == 0, said
    assert f"interrupting {job}: nothing is lost" in said
    assert "ended: Ray and MLflow" in said
    assert_nothing_left(exposed.found)
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "1234"]]
    assert nanosweep("down", storage=exposed.storage) == (0, f"nothing is up in {exposed.storage}\n")


def submit(found: Service, entrypoint: str) -> str:
    headers = {"Authorization": f"Bearer {token(found)}", "Content-Type": "application/json"}
    body = json.dumps({"entrypoint": entrypoint}).encode()
    request = urllib.request.Request(f"{found.dashboard}/api/jobs/", body, headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=CEILING) as answer:
        said: dict[str, Any] = json.loads(answer.read())
    return str(said["submission_id"])


def assert_nothing_left(found: Service) -> None:
    """No process, no open port, no state, none of Ray's files; the secrets stay, for the next up."""
    assert not [p for part in found.parts.values() for p in state.members(part)]
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(found.scratch) in " ".join(p.info["cmdline"] or [])]
    for address in (found.ray_address, found.dashboard, found.mlflow):
        assert background.free(int(address.rpartition(":")[2]), "0.0.0.0")
    assert state.recorded(found.storage) is None
    assert not found.scratch.exists()
