"""A journal that was spoilt, or written by hand, is refused with its line and what is wrong; no reader sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from search.cli.main import main
from search.study.journal import NAME
from search.study.study import read_study
from tests import journals


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
    ("kind", "changes", "words"),
    [
        ("report", {"tokens": ...}, "a report record without tokens"),
        ("report", {"tokens": "many"}, r"report record: tokens: .*integer, got 'many'"),
        ("report", {"time": {}}, r"report record: time: .*number, got \{\}"),
        ("report", {"trial": [0]}, r"report record: trial: .*integer"),
        ("report", {"trial": True}, r"report record: trial: .*integer"),
        ("report", {"metrics": {"val_loss": {}}}, r"report record: metrics.val_loss: "),
        (
            "report",
            {"metrics": {"val_perplexity": -1.0}},
            r"report record: metrics: val_perplexity is -1; it is positive",
        ),
        ("report", {"tokens": 10**30}, r"report record: tokens: "),
        ("status", {"status": "sleeping"}, r"status record: status: .*'running'"),
        ("status", {"seconds": [1]}, r"status record: seconds: "),
        ("point", {"point": None}, r"point record: point: .*dictionary"),
        ("point", {"config": {"learning_rate": "x"}}, r"point record: config.learning_rate: "),
        ("decision", {"action": "wait"}, r"decision record: action: "),
        ("study", {"spec": {"objective": "luck"}}, r"study record: spec.objective: "),
        ("study", {"rungs": [[]]}, r"study record: rungs\[0\]: "),
    ],
)
def test_a_record_of_another_shape_is_named(
    tmp_path: Path, lines: list[str], kind: str, changes: dict[str, Any], words: str
) -> None:
    line = spoilt(tmp_path / "quick", lines, kind, **changes)
    with pytest.raises(UserError, match=rf"{NAME}:{line}: a.* {words.removeprefix('a ')}.*; restore the file"):
        read_study(tmp_path / "quick")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"[" * 100_000, "maximum recursion"),
        (b'{"record": "status", "cause": "\xff"}', "invalid start byte"),
        (b'{"record": "status", "cause": "\\ud800"}', "surrogates not allowed"),  # could not be printed
        (b"9" * 5000, "limit"),
    ],
    ids=["nested", "bytes", "surrogate", "digits"],
)
def test_a_line_that_python_cannot_take_is_named(tmp_path: Path, lines: list[str], line: bytes, words: str) -> None:
    lines[3:3] = ["the spoilt one"]
    path = tmp_path / "quick" / NAME
    path.write_bytes("\n".join(lines).encode().replace(b"the spoilt one", line) + b"\n")
    with pytest.raises(UserError, match=rf"{NAME}:4: not a journal record .*{words}"):
        read_study(tmp_path / "quick")


def test_the_command_says_so_in_one_line(tmp_path: Path, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    spoilt(tmp_path / "quick", lines, "status", seconds="long")
    assert main(["leaderboard", str(tmp_path / "quick")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "status record: seconds" in said


def test_what_a_later_release_adds_is_let_through(tmp_path: Path, lines: list[str]) -> None:
    spoilt(tmp_path / "quick", lines, "report", mood="good")
    lines.append('{"record": "note", "time": 1, "trial": 0, "text": "new"}')
    (tmp_path / "quick" / NAME).write_text("\n".join(lines) + "\n")
    assert len(read_study(tmp_path / "quick").trials) == 7
