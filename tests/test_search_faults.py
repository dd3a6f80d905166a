"""Whole studies that lose a node or their driver to SIGKILL: the same command continues, and nothing is lost.

A killed worker and Ctrl-C: test_search_study_run.py. All of it again and again in one study: `make soak`.
"""

from __future__ import annotations

import os
import secrets
import signal
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from search.study.journal import ENDED, NAME, Record, read_records
from search.study.study import Trial, read_study
from tests.soak import checks
from tests.soak.alone import numbers, train
from tests.soak.follower import Follower
from tests.soak.nodes import Nodes
from tests.soak.processes import Driver, trainers
from tests.stores import fresh_store
from tests.waiting import CEILING, until

BASE = """corpus: stories:120
n_layer: 2
n_head: 2
n_embd: 32
block_size: 16
batch_size: 4
max_tokens: 64k
eval_every: 3200
eval_tokens: 1500
device: cpu
"""
SPEC = """study: {name}
base: {folder}/base.yaml
space:
  learning_rate: {{log: [1e-3, 1e-2]}}
sampler: random
budget: {{trials: {trials}}}
storage: {folder}/runs
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """For drivers and nodes: data prepared once, a token of their own, a short place for sockets and scratch files."""
    cache = tmp_path_factory.mktemp("cache")
    with tempfile.TemporaryDirectory(prefix="nst-", dir="/tmp", ignore_cleanup_errors=True) as short:
        given = {
            name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
        }
        given |= {"NANOSWEEP_CACHE": str(cache), "RAY_TMPDIR": short, "TMPDIR": short, "OMP_NUM_THREADS": "1"}
        yield given | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def write(folder: Path, name: str, trials: int) -> Path:
    (folder / "base.yaml").write_text(BASE)
    path = folder / "spec.yaml"
    path.write_text(SPEC.format(name=name, folder=folder, trials=trials))
    return path


def reports(follower: Follower, number: int) -> int:
    """How many a trial has made so far."""
    follower.read()
    return len(follower.study.trials[number].reports) if number in follower.study.trials else 0


def runs_from(records: list[Record], number: int) -> list[int]:
    """The tokens from which a trial ran, each time."""
    return [r["tokens"] for r in records if r.get("status") == "running" and r["trial"] == number]


def check_values(trials: list[Trial], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Trials have the reports that the loop alone makes, none missing, none twice."""
    monkeypatch.setenv("NANOSWEEP_CACHE", environment["NANOSWEEP_CACHE"])
    for trial in trials:
        assert trial.status == "completed"
        assert numbers(trial) == train(trial.config, [], trial.tokens)
        assert len(trial.reports) == 20


def ended(driver: Driver) -> int:
    until(lambda: driver.code() is not None, "the driver's end")
    return driver.code() or 0


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def test_the_trial_of_a_lost_node_goes_on_from_its_checkpoint_on_another(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_store(tmp_path / "runs")
    journal = tmp_path / "runs" / "node" / NAME
    nodes = Nodes(2, environment, tmp_path / "ray.log")
    driver = Driver(write(tmp_path, "node", 1), nodes.address, environment, tmp_path / "driver.log")
    try:
        driver.start()
        follower = Follower(journal)
        until(lambda: reports(follower, 0) >= 3, "reports")
        (worker,) = trainers()
        assert worker.ppid() in nodes.raylets
        nodes.lose(worker.ppid())
        until(lambda: not living([worker]), "the end of the lost node's worker")
        assert ended(driver) == 0, driver.last_lines()
    finally:
        driver.kill()
        nodes.close()
    records = list(read_records(journal))
    first, second = runs_from(records, 0)
    assert first == 0
    assert second >= 3 * 3200
    assert checks.progress(records) == []
    study = read_study(journal.parent)
    check_values([study.trials[0]], monkeypatch, environment)


def test_after_kill_9_of_the_driver_the_same_command_goes_on(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = fresh_store(tmp_path / "runs")
    journal = tmp_path / "runs" / "driver" / NAME
    driver = Driver(write(tmp_path, "driver", 4), None, environment, tmp_path / "driver.log")
    children: list[psutil.Process] = []
    try:
        driver.start()
        follower = Follower(journal)
        until(lambda: middle(follower) and running(uri), "a trial that has ended, one that runs, and MLflow")
        children, workers = family(driver.pid), trainers()
        driver.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]  # it writes no more while we look
        before = list(read_records(journal))
        driver.kill()
        done = [n for n, trial in read_study(journal.parent).trials.items() if trial.status in ENDED]
        until(lambda: not living(workers), "the end of the killed driver's workers")  # Ray's agents take a minute
        driver.start()
        assert ended(driver) == 0, driver.last_lines()
    finally:
        driver.kill()
        kill(living(children))
    after = list(read_records(journal))[len(before) :]
    assert not [record for record in after if record.get("trial") in done]  # what had ended is not repeated
    last = {r["trial"]: r["tokens"] for r in before if r["record"] == "report"}
    going = {r["trial"] for r in before if r["record"] == "point"} - set(done)
    assert any(last.get(number) for number in going)
    for number in going:
        assert runs_from(after, number) == [last.get(number, 0)]
    study = read_study(journal.parent)
    assert [trial.status for trial in study.trials.values()] == ["completed"] * 4
    check_values([study.trials[number] for number in going], monkeypatch, environment)
    assert checks.mlflow(study, uri) == []


def middle(follower: Follower) -> bool:
    """Whether one trial has ended and another is well on its way."""
    follower.read()
    trials = follower.study.trials.values()
    return any(t.status in ENDED for t in trials) and any(
        t.status == "running" and 3 <= len(t.reports) <= 15 for t in trials
    )


def running(uri: str) -> Any:
    """Runs that MLflow's database holds as RUNNING, the parent among them."""
    with sqlite3.connect(uri.removeprefix("sqlite:///"), timeout=CEILING) as database:
        return database.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone()[0] >= 2
