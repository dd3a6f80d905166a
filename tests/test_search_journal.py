"""The journal on disk: what was written is read back, and a crash or a full disk leaves whole records."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.study.journal import VERSION, Journal, decode_metrics, encode, read_records
from search.study.ledger import Ledger
from tests import journals
from tests.limits import largest_file
from tests.refusals import facts, refusal

NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=64)


@given(metrics=st.dictionaries(st.text(min_size=1, max_size=8), NUMBERS, max_size=6))
def test_metrics_come_back_to_the_last_bit(metrics: dict[str, float]) -> None:
    line = encode({"record": "report", "metrics": metrics})
    json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    back = decode_metrics(json.loads(line)["metrics"])
    assert {key: repr(value) for key, value in back.items()} == {key: repr(v) for key, v in metrics.items()}


@given(text=st.text(max_size=40))
def test_a_record_is_one_line_whatever_it_says(text: str) -> None:
    line = encode({"record": "status", "cause": text.encode("utf-8", "replace").decode()})
    assert "\n" not in line


def test_records_are_on_disk_when_write_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a" / "trials.jsonl")
    for number in range(3):
        written = journal.write("status", trial=number, status="running", tokens=0, cause="größer → ∞")
        *_, last = read_records(journal.path)  # by another handle, while the first is open
        assert last == written
    journal.close()
    again = Journal(journal.path)
    again.write("status", trial=9)
    assert [record["trial"] for record in read_records(journal.path)] == [0, 1, 2, 9]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_cut_short_by_a_crash_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "trials.jsonl"
    journal = Journal(path)
    journal.write("status", trial=0)
    journal.write("status", trial=1)
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert [record["trial"] for record in read_records(path)] == [0]
    again = Journal(path)
    again.write("status", trial=2)
    assert [record["trial"] for record in read_records(path)] == [0, 2]


@pytest.mark.parametrize("line", ["{}", "3", "not json", '{"record": 3}'])
def test_a_spoilt_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text(f'{{"record":"status"}}\n{line}\n')
    error = refusal(lambda: list(read_records(path)))
    assert facts(error) == ("unreadable", (), 2)
    assert str(error).startswith(f"{path}:2: not a journal record (")


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text('{"record":"study","version":99}\n')
    error = refusal(lambda: list(read_records(path)))
    assert facts(error) == ("newer", (), 1)
    assert str(error) == (
        f"{path}:1: journal version 99 is of a newer release, this one reads up to {VERSION}; use that release, or a "
        "later one"
    )


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "trials.jsonl"
    error = refusal(lambda: Journal(path))
    assert error.kind == "cannot_write"
    assert str(error).startswith(f"{path}: cannot be opened for writing: ")


def test_a_full_disk_leaves_whole_records_and_says_what_to_do(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trials.jsonl")
    with largest_file(2000):
        for trial in range(10):
            journal.write("status", trial=trial, cause="x" * 100)
        error = refusal(lambda: journal.write("status", trial=10, cause="x" * 2000))
        assert error.kind == "cannot_write"
        assert str(error) == f"{journal.path}: cannot write the journal: File too large; make room and run again"
        assert [record["trial"] for record in read_records(journal.path)] == list(range(10))
        # a short record still has room: the driver writes that its trials were interrupted
        journal.write("status", trial=99)
    assert [record["trial"] for record in read_records(journal.path)] == [*range(10), 99]


def test_what_the_ledger_knows_is_what_the_journal_says(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path)
    heard: list[str] = []
    ledger.listeners.append(lambda record: heard.append(record["record"]))
    ledger.write("status", trial=6, status="running", tokens=0)
    assert heard == ["status"]
    again = Ledger(tmp_path)
    assert again.study == ledger.study
    assert math.isnan(again.study.trials[3].reports[0]["metrics"]["val_perplexity"])
