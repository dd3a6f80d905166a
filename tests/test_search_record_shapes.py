"""A journal that was spoilt, or written by hand, is refused with its line and what is wrong; no reader sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search.cli.main import main
from search.study.journal import NAME
from search.study.study import Study, read_begun, read_study
from tests import journals
from tests.refusals import facts, refusal


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    journals.write_study(tmp_path / "quick").close()
    return (tmp_path / "quick" / NAME).read_text().splitlines()


def spoilt(folder: Path, lines: list[str], kind: str, **changes: Any) -> int:
    """The journal with the first record of a kind changed; ... leaves the key out. Returns its line."""
    at = next(n for n, line in enumerate(lines) if json.loads(line)["record"] == kind)
    record = {**json.loads(lines[at]), **changes}
    lines[at] = json.dumps({key: value for key, value in record.items() if value is not ...})
    (folder / NAME).write_text("\n".join(lines) + "\n")
    return at + 1


@pytest.mark.parametrize(
    ("kind", "changes", "error_kind", "key"),
    [
        ("report", {"tokens": ...}, "missing", "tokens"),
        ("report", {"tokens": "many"}, "int_type", "tokens"),
        ("report", {"time": {}}, "float_type", "time"),
        ("report", {"trial": [0]}, "int_type", "trial"),
        ("report", {"trial": True}, "int_type", "trial"),
        ("report", {"metrics": {"val_loss": {}}}, "float_type", "metrics.val_loss"),
        (
            "report",
            {"metrics": {"val_perplexity": -1.0}},
            "value_error",
            "metrics",
        ),
        ("report", {"tokens": 10**30}, "less_than_equal", "tokens"),
        ("status", {"status": "sleeping"}, "literal_error", "status"),
        ("status", {"seconds": [1]}, "float_type", "seconds"),
        ("point", {"point": None}, "dict_type", "point"),
        ("point", {"config": {"learning_rate": "x"}}, "float_type", "config.learning_rate"),
        ("decision", {"action": "wait"}, "literal_error", "action"),
        ("study", {"spec": {"objective": "luck"}}, "value_error", "spec.objective"),
        ("study", {"rungs": [[]]}, "int_type", "rungs[0]"),
    ],
)
def test_a_record_of_another_shape_is_named(
    tmp_path: Path, lines: list[str], kind: str, changes: dict[str, Any], error_kind: str, key: str
) -> None:
    line = spoilt(tmp_path / "quick", lines, kind, **changes)
    error = refusal(lambda: read_study(tmp_path / "quick"))
    assert facts(error) == (error_kind, (key,), line)
    assert str(error).startswith(f"{tmp_path / 'quick' / NAME}:{line}: a {kind} record")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tokens": ...}, "a report record without tokens"),
        ({"tokens": "many"}, "a report record: tokens: expected a whole number, got 'many'"),
        (
            {"metrics": {"val_perplexity": -1.0}},
            "a report record: metrics: val_perplexity is -1; it is positive, got {'val_perplexity': -1.0}",
        ),
    ],
)
def test_what_a_refusal_of_a_record_says(
    tmp_path: Path, lines: list[str], changes: dict[str, Any], problem: str
) -> None:
    line = spoilt(tmp_path / "quick", lines, "report", **changes)
    error = refusal(lambda: read_study(tmp_path / "quick"))
    assert str(error) == f"{tmp_path / 'quick' / NAME}:{line}: {problem}; restore the file from a copy"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[" * 100_000, "maximum recursion"),
        (b'{"record": "status", "cause": "\xff"}', "invalid start byte"),
        (b'{"record": "status", "cause": "\\ud800"}', "surrogates not allowed"),  # could not be printed
        (b"9" * 5000, "limit"),
    ],
    ids=["nested", "bytes", "surrogate", "digits"],
)
def test_a_line_that_python_cannot_take_is_named(tmp_path: Path, lines: list[str], line: bytes, reason: str) -> None:
    lines[3:3] = ["the spoilt one"]
    path = tmp_path / "quick" / NAME
    path.write_bytes("\n".join(lines).encode().replace(b"the spoilt one", line) + b"\n")
    error = refusal(lambda: read_study(tmp_path / "quick"))
    assert facts(error) == ("unreadable", (), 4)
    assert reason in str(error)  # Python's


def test_the_command_says_so_in_one_line(tmp_path: Path, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    spoilt(tmp_path / "quick", lines, "status", seconds="long")
    assert main(["leaderboard", str(tmp_path / "quick")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "status record: seconds" in said


def test_what_a_later_release_adds_is_let_through(tmp_path: Path, lines: list[str]) -> None:
    spoilt(tmp_path / "quick", lines, "report", mood="good")
    lines += [
        '{"record": "note", "time": 1, "trial": 0, "text": "new"}',
        '{"record": "weather", "time": 1, "rain": true}',
    ]
    (tmp_path / "quick" / NAME).write_text("\n".join(lines) + "\n")
    assert len(read_study(tmp_path / "quick").trials) == 7


def test_a_slip_in_the_kind_of_a_record_is_named(tmp_path: Path, lines: list[str]) -> None:
    at = next(i for i, line in enumerate(lines) if '"report"' in line)
    lines[at] = lines[at].replace('"report"', '"reprot"')
    (tmp_path / "quick" / NAME).write_text("\n".join(lines) + "\n")
    error = refusal(lambda: read_study(tmp_path / "quick"))
    assert facts(error) == ("unknown", ("record",), at + 1)
    assert "there is no reprot record; did you mean report?" in str(error)


def test_a_journal_without_its_first_line_is_answered_by_that(tmp_path: Path, lines: list[str]) -> None:
    for rest in (lines[1:], [*lines[1:], lines[0]]):  # a later driver's study record makes it no better
        (tmp_path / "quick" / NAME).write_text("\n".join(rest) + "\n")
        error = refusal(lambda: read_study(tmp_path / "quick"))
        assert facts(error) == ("missing", ("study",), 1)
        assert "the study record, a journal's first line, is missing" in str(error)


@pytest.mark.parametrize("gone", [False, True])
def test_a_journal_that_is_lost_beside_its_trials_is_no_new_study(tmp_path: Path, lines: list[str], gone: bool) -> None:
    (tmp_path / "quick" / NAME).write_text("")
    assert read_begun(tmp_path / "quick") == Study()  # begun by nobody: a driver that died at once leaves this
    (tmp_path / "quick" / "trials" / "0").mkdir(parents=True)
    if gone:
        (tmp_path / "quick" / NAME).unlink()
    for read in (read_study, read_begun):
        error = refusal(lambda read=read: read(tmp_path / "quick"))
        assert error.kind == "lost"
        assert "has the files of 1 trial:" in str(error)
