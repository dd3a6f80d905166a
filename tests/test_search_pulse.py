"""Ray's own death, and a trial that hangs: what Ray's client would wait for, for ever."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from search.run.watch import _watch
from search.study.journal import NAME
from search.study.study import read_study
from tests.drivers import children, records, workers
from tests.waiting import CEILING, until

ROOT = Path(__file__).resolve().parent.parent
SPEC = """
study: hangs
base: base.yaml
set: {max_tokens: 1M, eval_every: 1600}
space:
  learning_rate: {log: [1e-3, 1e-2]}
sampler: random
budget: {trials: 2}
report_timeout_minutes: 0.5  # of the other trial, too, on a busy machine
"""


FINALISTS = """
study: finals
base: base.yaml
set: {max_tokens: 96k, eval_every: 3200}
space:
  learning_rate: {log: [1e-3, 1e-2]}
sampler: random
budget: {trials: 2}
finalists: {top: 2, seeds: 4}
tracking: none
"""


def test_what_stops_answering_is_told_once_and_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.run.watch._EVERY", 0.05)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as lives:
        dies = socket.create_server(("127.0.0.1", 0))
        parts = {"one": lives.getsockname(), "other": dies.getsockname()}
        over = threading.Event()
        thread = threading.Thread(target=_watch, args=(parts, said.append, over))
        thread.start()
        dies.accept()[0].close()
        assert said == []
        dies.close()
        thread.join(CEILING)
        assert not thread.is_alive()
    assert said == [f"other ({parts['other'][0]}:{parts['other'][1]}) is gone"]


@pytest.mark.slow
def test_a_hanging_trial_is_ended_and_rays_death_is_said_and_loses_nothing(tmp_path: Path) -> None:
    from tests.test_search_study_run import write

    path = write(tmp_path, SPEC, tmp_path / "runs")
    journal = tmp_path / "runs" / "hangs" / NAME
    command = [sys.executable, "-m", "search", "run", str(path)]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "NANOSWEEP_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as driver:
        try:
            until(lambda: all(records(journal, "report", n) for n in (0, 1)))
            hanging = workers(driver.pid)[0]
            hanging.suspend()
            until(lambda: any(records(journal, "status", n)[-1]["status"] == "failed" for n in (0, 1)))
            until(lambda: not hanging.is_running() or hanging.status() == psutil.STATUS_ZOMBIE)
            (head,) = children(driver.pid, "gcs_server")
            head.kill()
            assert driver.wait(CEILING) == 1
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
        assert driver.stderr is not None
        last = driver.stderr.read().splitlines()[-1]
    assert last.startswith("nanosweep: Ray's head (")
    assert last.endswith("is gone; nothing is lost, the same command resumes the study")
    study = read_study(journal.parent)
    hung, other = sorted(study.trials.values(), key=lambda trial: trial.status)
    assert (hung.status, other.status) == ("failed", "interrupted")
    assert hung.cause.startswith("no report for 0.5 minutes")
    assert study.unfinished() == [other.number]


@pytest.mark.slow
def test_sigterm_among_finalists_is_said_as_such_though_rays_processes_get_it_too(tmp_path: Path) -> None:
    from tests.test_search_study_run import write

    path = write(tmp_path, FINALISTS, tmp_path / "runs")
    journal = tmp_path / "runs" / "finals" / NAME
    command = [sys.executable, "-m", "search", "run", str(path)]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "NANOSWEEP_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True, start_new_session=True
    ) as driver:
        try:
            until(lambda: all(records(journal, "report", number) for number in (2, 3)))
            os.killpg(driver.pid, signal.SIGTERM)  # as a service manager or a batch system does
            said, errors = driver.communicate(timeout=CEILING)
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
    left = read_study(journal.parent).unfinished()
    assert "is gone" not in errors
    if driver.returncode == 1 and not said.count("SIGTERM"):  # Ray's client saw its daemon die, and ended the process
        assert set(left) == {2, 3}
        return
    assert driver.returncode == 130, errors
    assert left, "at most one of two may have ended as it was told to stop"
    assert "stopped by SIGTERM" in said + errors  # by the command, or by the thread that watches Ray
    assert {records(journal, "status", number)[-1]["cause"] for number in left} == {"stopped by SIGTERM"}


def test_what_a_killed_driver_left_in_the_temporary_folder_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.run.ray_session import _scratch

    monkeypatch.setattr("search.run.ray_session.tempfile.gettempdir", lambda: "/tmp")
    code = "from search.run.ray_session import _scratch; made = _scratch(); print(made[0], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        mine, lock = _scratch()
        assert left.exists(), "its driver lives"
        other.kill()
        other.wait()
        lock.release()
        again, lock = _scratch()
        assert not left.exists()
        assert not mine.exists()
        lock.release()
        _scratch()[1].release()
        assert not again.exists()
