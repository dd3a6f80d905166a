"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WITH_EXAMPLES = [
    path.relative_to(ROOT)
    for room in ("search", "trainer", "models", "data")
    for path in sorted((ROOT / room).rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


def test_there_are_examples_to_run() -> None:
    assert WITH_EXAMPLES, "no file of the packages holds an example: the search for them is broken"


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=str)
def test_the_examples_of_a_file_give_what_they_say(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = doctest.testmod(import_module(".".join(path.with_suffix("").parts)))
    assert results.attempted > 0, "the examples are in no docstring, so nobody runs them"
    assert results.failed == 0, capsys.readouterr().out
