"""What a run prints on its way: away from a terminal never nothing for long, and how fast and how far it is."""

from __future__ import annotations

import threading

import pytest

from tests.waiting import until
from trainer import progress
from trainer.progress import Pace, display, waiting


def printed(capsys: pytest.CaptureFixture[str], lines: list[str]) -> list[str]:
    """All lines so far; `lines` keeps those of earlier calls."""
    lines += capsys.readouterr().out.splitlines()
    return lines


def test_the_pace_says_speed_and_time_left_of_what_it_has_seen() -> None:
    pace = Pace(1_000_000, start=0.0)
    assert "1m30s" in pace.describe(90)
    pace.step(1_000, now=100)
    assert pace.describe(100) == "tokens 1,000 of 1,000,000 (0.1%)"
    pace.step(101_000, now=200)
    assert pace.describe(200) == "tokens 101,000 of 1,000,000 (10.1%)  1,000 tokens/s with scoring  about 14m59s left"
    assert "500 tokens/s" in pace.describe(300)  # it scores for long: the time left grows


def test_a_run_that_began_again_from_its_checkpoint_has_no_negative_speed() -> None:
    pace = Pace(1_000, start=0.0)
    for tokens, now in ((400, 1), (800, 2), (600, 3), (700, 4)):
        pace.step(tokens, now)
    assert "  100 tokens/s" in pace.describe(4)
    assert "about 3s left" in pace.describe(4)


def test_away_from_a_terminal_a_line_comes_when_none_has_been_printed_for_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.05)
    lines: list[str] = []
    with display(1_000) as shown:
        until(lambda: any(line.startswith("no step yet") for line in printed(capsys, lines)))
        shown.on_step(10)
        until(lambda: any(line.startswith("tokens 10 of 1,000") for line in printed(capsys, lines)))
        shown.on_step(500)
        until(lambda: any(" left" in line for line in printed(capsys, lines)))  # no step since, and it still speaks
    with waiting("preparing text"):
        until(lambda: any(line.startswith("preparing text: ") for line in printed(capsys, lines)))
    assert "progress" not in {thread.name for thread in threading.enumerate()}  # nothing speaks after the end


def test_a_run_that_prints_by_itself_is_not_spoken_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 60.0)
    with display(1_000) as shown:
        shown.on_step(10)
        shown.say("lost worker 1")
    assert capsys.readouterr().out == "lost worker 1\n"
