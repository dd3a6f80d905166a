"""A study as its journal tells it: trials, what was spent, what continues."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console

from search.results.table import render
from search.run.live import View
from search.spec.study_spec import Budget
from search.study.journal import NAME, Record, read_records
from search.study.study import Study, fold, read_study, spent
from tests import journals
from tests.refusals import facts, refusal


def test_each_kind_of_trial_is_folded(tmp_path: Path) -> None:
    journals.write_study(tmp_path).close()
    study = read_study(tmp_path)
    expected = ["completed", "completed", "pruned", "diverged", "failed", "interrupted", "waiting"]
    assert [trial.status for trial in study.trials.values()] == expected
    assert [trial.final is not None for trial in study.trials.values()] == [True, True] + [False] * 5
    assert study.trials[2].rung == 1000
    assert study.trials[4].cause == "RuntimeError: boom"
    assert study.unfinished() == [5, 6]
    assert study.tokens == 8000 + 8000 + 1000 + 1000 + 0 + 4000


def test_what_is_trained_again_after_a_loss_counts_twice_and_stands_once(tmp_path: Path) -> None:
    ledger = journals.Ledger(tmp_path)
    ledger.write("study", **journals.header())
    journals.point(ledger, 0)
    journals.start(ledger, 0)
    for tokens in (1000, 2000, 3000):
        checkpoint = f"at-{tokens}" if tokens < 3000 else None
        fields = {"step": 1, "rung": None, "final": False, "metrics": journals.metrics(9.0), "checkpoint": checkpoint}
        ledger.write("report", trial=0, tokens=tokens, **fields)
    trial = ledger.study.trials[0]
    assert trial.checkpoint == "at-2000"
    assert [trial.tokens_at(checkpoint) for checkpoint in ("at-1000", "at-2000", "gone", None)] == [1000, 2000, 0, 0]
    ledger.write("report", trial=0, tokens=3500, **{**fields, "checkpoint": "at-2000"})  # written over its own file
    assert trial.tokens_at("at-2000") == 3500
    trial.reports.pop()
    journals.start(ledger, 0, tokens=2000)
    assert [report["tokens"] for report in trial.reports] == [1000, 2000]
    assert (trial.tokens, trial.repeated, ledger.study.tokens) == (2000, 1000, 3000)


def at(study: Study, kind: str, time: float, **fields: object) -> None:
    record: Record = {"record": kind, "time": time, **fields}
    study.apply(record)


def test_time_without_a_driver_is_not_spent() -> None:
    study = Study()
    assert study.seconds(now=50.0) == 0
    at(study, "study", 100.0)
    at(study, "point", 160.0, trial=0, point={}, config={})
    at(study, "study", 1000.0)  # the next driver
    assert study.seconds() == 60
    at(study, "status", 1030.0, trial=0, status="running")
    assert study.seconds() == 90
    assert study.seconds(now=1040.0) == 100


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (Budget(trials=2), "2 of 2 trials"),
        (Budget(trials=3), ""),
        (Budget(tokens=5000), "5k of 5k tokens"),
        (Budget(tokens=5001), ""),
        (Budget(hours=1), "1.5 of 1 hour"),
        (Budget(hours=2), ""),
        (Budget(trials=99, tokens=10**9, hours=1.5), "1.5 of 1.5 hours"),
    ],
)
def test_the_budget_ends_with_whichever_comes_first(budget: Budget, text: str) -> None:
    study = Study()
    at(study, "study", 0.0)
    for number in range(2):
        at(study, "point", 1.0, trial=number, point={}, config={})
    fields = {"step": 1, "tokens": 5000, "rung": None, "final": False, "metrics": {}, "checkpoint": None}
    at(study, "report", 5400.0, trial=0, **fields)
    assert spent(study, budget, now=5400.0) == text


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], ("missing", ("study",), None)),
        (
            [
                {"record": "study", "time": 0, "spec": {}},
                {"record": "status", "time": 0, "trial": 3, "status": "failed"},
            ],
            ("out_of_order", (), 2),
        ),
        (
            [{"record": "study", "time": 0, "spec": {}}, {"record": "status", "time": 0, "status": "failed"}],
            ("missing", ("trial",), 2),
        ),
    ],
)
def test_a_journal_that_makes_no_sense_is_refused(
    records: list[Record], expected: tuple[str, tuple[str, ...], int | None]
) -> None:
    assert facts(refusal(lambda: fold(records, "j"))) == expected


def test_what_a_refusal_of_a_journal_says() -> None:
    assert str(refusal(lambda: fold([], "j"))) == "j: is empty; was the study ever started?"
    begun = {"record": "study", "time": 0, "spec": {}}
    lost = {"record": "status", "time": 0, "trial": 3, "status": "failed"}
    message = "j:2: a status record of trial 3, which has no point; restore the file from a copy"
    assert str(refusal(lambda: fold([begun, lost], "j"))) == message


def test_a_study_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    error = refusal(lambda: read_study(tmp_path))
    assert (error.kind, str(error)) == ("missing", f"{tmp_path / 'trials.jsonl'}: no such study")


def test_a_listener_that_raises_is_said_once_and_harms_nobody_else(tmp_path: Path) -> None:
    said: list[str] = []
    ledger = journals.Ledger(tmp_path, say=said.append)
    before, after = [], []

    def breaks(record: Record) -> None:
        if record["record"] == "status":
            raise ZeroDivisionError("no\x1b[2J\nway")

    ledger.listeners += [before.append, breaks, after.append]
    ledger.write("study", **journals.header())
    journals.complete(ledger, 0, 4.0)
    journals.complete(ledger, 1, 5.0)
    records = list(read_records(tmp_path / NAME))
    assert before == after == records
    assert len(records) == 13
    assert [trial.status for trial in ledger.study.trials.values()] == ["completed"] * 2
    (line,) = said
    assert "breaks failed at a status record of trial 0" in line
    assert "no\\x1b[2J\\nway" in line
    assert breaks not in ledger.listeners


def test_a_listener_fails_in_silence_where_nobody_can_be_told(tmp_path: Path) -> None:
    def say(line: str) -> None:
        raise BrokenPipeError

    ledger = journals.Ledger(tmp_path, say=say)
    ledger.listeners.append(lambda record: 1 / 0)
    ledger.write("study", **journals.header())
    assert len(list(read_records(tmp_path / NAME))) == 1


def test_one_of_a_thing_is_not_called_several(tmp_path: Path) -> None:
    ledger = journals.Ledger(tmp_path)
    header = journals.header()
    ledger.write("study", **{**header, "spec": {**header["spec"], "budget": {"trials": 1, "hours": 1}}})
    journals.complete(ledger, 0, 5.0)
    point = ledger.study.trials[0]
    ledger.write("point", trial=1, point=point.point, config=point.config, of=0, round=1)
    ledger.write("status", trial=1, status="interrupted")
    study = ledger.study
    shown = [
        render(study, None, None, None, False),
        spent(study, study.header.spec.budget),
        "\n".join(View(study, 1, 1000, Console(width=160))._limits().values()),
    ]
    assert "1 run of finalists with fresh seeds (1 interrupted)" in shown[0]
    for text in shown:
        assert not re.search(r"\b1 (trials|runs|hours|workers)\b", text), text
