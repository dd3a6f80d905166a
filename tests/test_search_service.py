"""The record of a background service: believed only where it is true; secrets for their owner's eyes alone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from data.errors import UserError
from search.cli.main import main
from search.service import background, mlflow_server, state, up, upkeep
from search.service.state import Process, Service
from search.spec.study_spec import StudySpec
from tests.waiting import until
from trainer.files import write_private
from trainer.yaml_file import YamlFile, validate

GONE = Process(2**22 - 1, 1.0, "mark")  # above the usual number of processes


@pytest.fixture
def sleeper() -> Iterator[tuple[psutil.Process, str]]:
    """A process with a mark, and the mark."""
    popen = subprocess.Popen(["sleep", "3600"], env={**os.environ, background.MARK: "a#Ray#1"}, start_new_session=True)
    process = psutil.Process(popen.pid)
    until(lambda: background.environ(process).get(background.MARK) == "a#Ray#1")  # /proc may show it a moment later
    yield process, "a#Ray#1"
    popen.kill()
    popen.wait()


def written(storage: Path, **changes: object) -> Service:
    """A service's record in a storage, of processes that are gone unless changed."""
    folder = state.folder(storage)
    folder.mkdir(parents=True, mode=0o700)
    write_private(folder / "ray-token", "secret\n")
    found = Service(
        storage=storage,
        machine=socket.gethostname(),
        started=time.time(),
        host="127.0.0.1",
        ray_address="127.0.0.1:6379",
        dashboard="http://127.0.0.1:8265",
        mlflow="http://127.0.0.1:5000",
        scratch=storage / "nanosweep-scratch",
        token_file=folder / "ray-token",
        mlflow_credentials=None,
        mlflow_ours=True,
        ray=GONE,
        mlflow_server=GONE,
    )
    found = replace(found, **changes)  # type: ignore[arg-type]
    state.record(found)
    return found


def test_a_record_is_read_back_as_it_was_written_by_its_owner_alone(tmp_path: Path) -> None:
    found = written(tmp_path)
    assert state.recorded(tmp_path) == found
    assert (state.folder(tmp_path) / state.STATE).stat().st_mode & 0o777 == 0o600


def test_a_process_is_ours_by_number_and_time_or_by_its_mark(sleeper: tuple[psutil.Process, str]) -> None:
    process, mark = sleeper
    assert state.lives(Process(process.pid, process.create_time(), "unreadable"))
    # a number that was given again, after a restart of the machine for example
    assert not state.lives(Process(process.pid, process.create_time() - 3600, "another"))
    # the clock was set meanwhile
    assert state.lives(Process(process.pid, process.create_time() - 3600, mark))


def test_a_process_that_nobody_waited_for_does_not_live() -> None:
    popen = subprocess.Popen(["true"])
    created = psutil.Process(popen.pid).create_time()
    until(lambda: psutil.Process(popen.pid).status() == psutil.STATUS_ZOMBIE)
    assert not state.lives(Process(popen.pid, created, "mark"))
    popen.wait()


def test_running_wants_all_of_it_alive(tmp_path: Path, sleeper: tuple[psutil.Process, str]) -> None:
    process, mark = sleeper
    alive = Process(process.pid, process.create_time(), mark)
    found = written(tmp_path, ray=alive, mlflow_server=GONE)
    assert state.running(tmp_path) is None
    assert state.missing(found) == ["MLflow"]
    state.record(replace(found, mlflow_server=None, mlflow_ours=False))
    assert state.running(tmp_path) is not None
    assert state.running(tmp_path / "elsewhere") is None


def test_state_from_before_a_restart_is_said_and_forgotten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    this = psutil.Process()  # the number of a process of before is now another's
    reused = Process(this.pid, this.create_time() - 1e6, "mark")
    found = written(tmp_path, ray=reused, mlflow_server=reused, started=psutil.boot_time() - 1e6)
    found.scratch.mkdir()
    assert main(["status", "--storage", str(tmp_path)]) == 3
    assert "the machine was restarted since" in capsys.readouterr().out
    assert state.recorded(tmp_path) is None
    assert not found.scratch.exists()
    assert main(["status", "--storage", str(tmp_path)]) == 3
    assert capsys.readouterr().out.startswith(f"not up in {tmp_path}")
    assert main(["down", "--storage", str(tmp_path)]) == 0


def test_a_service_whose_storage_has_moved_is_ended_there_before_it_is_started_anew(
    tmp_path: Path, sleeper: tuple[psutil.Process, str], capsys: pytest.CaptureFixture[str]
) -> None:
    process, mark = sleeper
    part = Process(process.pid, process.create_time(), mark)
    first, second, copy = (tmp_path / name for name in ("first", "second", "copy"))
    written(first, ray=part, mlflow_server=part)
    shutil.copytree(first, copy)
    assert (state.recorded(copy), state.running(copy)) == (None, None)  # the original has it still
    first.rename(second)
    service = state.recorded(second)
    assert service is not None
    assert (service.storage, service.token_file) == (second, second / ".service" / "ray-token")
    assert state.running(second) is None  # what runs looks for its files in the former place
    assert main(["up", "--storage", str(second)]) == 2
    assert f"nanosweep down --storage {second}" in capsys.readouterr().err
    assert main(["down", "--storage", str(second)]) == 0
    assert not state.lives(part)
    assert state.recorded(second) is None
    assert not first.exists()


def test_the_service_of_another_machine_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    this = psutil.Process()
    mine = Process(this.pid, this.create_time(), "mark")
    found = written(tmp_path, ray=mine, mlflow_server=mine, machine="node7")
    assert state.running(tmp_path) is None
    assert main(["status", "--storage", str(tmp_path)]) == 3
    assert "node7" in capsys.readouterr().out
    for command in ("up", "down"):
        assert main([command, "--storage", str(tmp_path)]) == 2
        assert "runs on node7: say nanosweep down there" in capsys.readouterr().err
    assert state.recorded(tmp_path) == found


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"storage": 1}', '{"ray": {"pid": 1}}', "\x00"])
def test_a_damaged_state_is_one_line(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    state.folder(tmp_path).mkdir(parents=True)
    (state.folder(tmp_path) / state.STATE).write_text(text)
    for command in ("status", "down", "up"):
        assert main([command, "--storage", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "state.json is not what `nanosweep up` wrote" in said


def test_a_client_gets_addresses_the_path_of_the_token_and_the_password(tmp_path: Path) -> None:
    found = written(tmp_path)
    assert state.environment(found) == {
        "RAY_ADDRESS": "127.0.0.1:6379",
        "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8265",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / ".service" / "ray-token"),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
    }
    path = mlflow_server.protect(state.folder(tmp_path))
    told = state.environment(replace(found, mlflow_credentials=path))
    assert told["MLFLOW_TRACKING_USERNAME"] == "admin"
    assert len(told["MLFLOW_TRACKING_PASSWORD"]) >= 24
    assert mlflow_server.protect(state.folder(tmp_path)) == path
    assert state.environment(replace(found, mlflow_credentials=path)) == told  # the same after down and up
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    with pytest.raises(UserError, match="password cannot be read"):
        state.environment(replace(found, mlflow_credentials=path))


def test_a_shell_that_reads_the_clients_file_has_the_clients_environment(tmp_path: Path) -> None:
    storage = tmp_path / "it's here"
    found = written(storage, dashboard="http://10.0.0.7:8265")
    found = replace(found, mlflow_credentials=mlflow_server.protect(state.folder(storage)))
    path = state.write_client(found)
    assert state.environment(found)["MLFLOW_TRACKING_PASSWORD"] not in path.read_text()
    before = {"PATH": os.environ["PATH"], "RAY_AUTH_TOKEN": "of another cluster", "NO_PROXY": "corp"}
    script = 'set -eu; . "$0"; env -0'
    said = subprocess.run(["sh", "-c", script, str(path)], env=before, capture_output=True, text=True, check=True)
    environment = dict(line.split("=", 1) for line in said.stdout.split("\0") if line)
    assert environment.items() >= state.environment(found).items()
    assert "RAY_AUTH_TOKEN" not in environment
    assert environment["no_proxy"] == "10.0.0.7,corp"
    state.forget(found)
    assert not path.exists()


def test_a_secret_that_others_could_read_is_closed_again(tmp_path: Path) -> None:
    path = mlflow_server.protect(tmp_path)
    path.chmod(0o644)
    assert mlflow_server.protect(tmp_path).stat().st_mode & 0o777 == 0o600


def test_no_study_can_be_where_the_service_keeps_its_secrets() -> None:
    for name in (state.FOLDER, "../elsewhere", "/elsewhere", "a/b", "..", ".", "a\nb", "a\x00b", "a" * 64):
        spec = {"study": name, "base": "b.yaml", "space": {"dropout": {"choice": [0]}}, "budget": {"trials": 1}}
        with pytest.raises(UserError, match="safe folder name"):
            validate(StudySpec, YamlFile("spec", spec, {}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ray-port", "10500"], "Ray gives 10002 to 19999 to its workers"),
        (["--ray-port", "7000", "--mlflow-port", "7000"], "three ports are needed"),
        (["--host", "no.such.host.invalid"], "is no IPv4 address of this machine"),
        (["--host", "192.0.2.7"], "is no IPv4 address of this machine"),
    ],
)
def test_what_cannot_be_listened_on_is_refused_before_anything_starts(
    tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", "--storage", str(tmp_path), *options]) == 2
    assert said in capsys.readouterr().err
    assert state.recorded(tmp_path) is None


def test_a_storage_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["up", "--storage", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_one_up_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with upkeep.alone(tmp_path):
        assert main(["down", "--storage", str(tmp_path)]) == 2
    assert "another nanosweep up or down is at work" in capsys.readouterr().err


def test_our_own_server_in_the_environment_is_not_taken_for_somebody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = "http://127.0.0.1:5000"
    for told in (ours, f"{ours}/", "http://localhost:5000"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", told)
        assert up._store(tmp_path, ours) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert up._store(tmp_path, ours) == "http://tracking:5000"


def test_the_end_finds_what_lost_its_parent() -> None:
    mark = background.mark_of(Path("/storage"), "Ray")
    assert background.storage_of(mark) == "/storage"
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\n"
    script = f'{sys.executable} -c "{stubborn}time.sleep(3600)" & setsid sleep 3600 & wait'
    popen = subprocess.Popen(
        ["sh", "-c", script],
        env={**os.environ, background.MARK: mark},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert popen.stdout is not None
    assert popen.stdout.readline() == "up\n"
    created = psutil.Process(popen.pid).create_time()
    children = psutil.Process(popen.pid).children(recursive=True)
    popen.send_signal(signal.SIGKILL)
    popen.wait()
    part = Process(popen.pid, created, mark)
    assert not state.lives(part)
    assert background.end(lambda: state.members(part), patience=1) == 2
    until(lambda: not [child for child in children if background.breathes(child)])
    popen.stdout.close()
