"""What the driver looks at between two events of Ray Tune."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from search.run.resources import Share
from search.run.scheduler import LedgerScheduler
from search.run.watch import Stopped, Watch
from search.study.ledger import Ledger
from search.study.machine import Node
from tests import journals, specs


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("search.run.watch.time.monotonic", made)
    return made


def watch(folder: Path, asked: list[str], nodes: list[Node], lacking: str = "", said: list[str] | None = None) -> Watch:
    ledger = Ledger(folder)
    ledger.write("study", **journals.header())
    scheduler = LedgerScheduler(ledger, specs.space(learning_rate={"log": [1e-4, 1]}), None)
    say = [].append if said is None else said.append
    return Watch(scheduler, Share(cpus=2, gpus=0, slots=1), asked, lambda: nodes, lambda each: lacking, say)


def test_without_a_machine_for_a_trial_the_study_stops_within_a_minute_and_says_what_there_is(
    tmp_path: Path, clock: Clock
) -> None:
    asked: list[str] = []
    nodes = [Node("big", 2, 0), Node("small", 1, 0)]
    watching = watch(tmp_path, asked, nodes)
    for clock.now in range(100):
        assert watching.stop_all() is False
    del nodes[0]  # lost; replaced half a minute later
    for clock.now in range(100, 130):
        assert watching.stop_all() is False
    nodes.append(Node("big", 2, 0))
    for clock.now in range(130, 160):
        assert watching.stop_all() is False
    nodes.pop()
    for clock.now in range(160, 200):
        assert watching.stop_all() is False
    clock.now = 220
    with pytest.raises(Stopped):
        watching.stop_all()
    assert asked == ["no machine is left that can give a trial cpus: 2 and gpus: 0; there is small: 1 CPUs, 0 GPUs"]


def test_a_cluster_that_others_fill_is_waited_for_and_said_again_and_again_for_a_day(
    tmp_path: Path, clock: Clock
) -> None:
    asked: list[str] = []
    said: list[str] = []
    watching = watch(tmp_path, asked, [Node("big", 2, 0)], "held by job quick-1 (2 CPUs)", said)
    at = []
    for clock.now in range(0, 24 * 3600, 20):
        before = len(said)
        assert watching.stop_all() is False
        at += [clock.now] * (len(said) - before)
    assert asked == []
    assert at[0] <= 60
    assert all(later - earlier <= 3620 for earlier, later in zip(at, [*at[1:], clock.now], strict=True))
    assert len(at) < 40
    assert all("held by job quick-1 (2 CPUs)" in line and "cpus: 2 and gpus: 0" in line for line in said)
    clock.now = 25 * 3600
    with pytest.raises(Stopped):
        watching.stop_all()
    assert "held by job quick-1" in asked[0]


def test_a_cluster_with_room_is_not_said_to_have_none_however_slowly_workers_start(
    tmp_path: Path, clock: Clock
) -> None:
    said: list[str] = []
    watching = watch(tmp_path, [], [Node("big", 2, 0)], said=said)
    for clock.now in range(0, 26 * 3600, 20):
        assert watching.stop_all() is False
    assert said == []


def test_a_reason_to_stop_is_heeded_at_once(tmp_path: Path, clock: Clock) -> None:
    asked: list[str] = []
    watching = watch(tmp_path, asked, [Node("n", 2, 0)])
    watching.stop_all()
    asked.append("stopped by Ctrl-C")
    with pytest.raises(Stopped):
        watching.stop_all()


def test_tunes_snapshot_holds_nothing_of_it(tmp_path: Path, clock: Clock) -> None:
    copy: Any = pickle.loads(pickle.dumps(watch(tmp_path, [], [])))
    assert vars(copy) == {}
