"""What is said about a search before it runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from search.strategy.advice import advice
from tests import specs

SPACE = "space: {learning_rate: {log: [1e-4, 1e-2]}}\n"


def said(folder: Path, text: str, base: str = specs.BASE) -> list[str]:
    spec, config, _ = specs.read(folder, text, base)
    return advice(spec, config, 2_000_000)


@pytest.mark.parametrize(
    ("settings", "base", "words"),
    [
        ("{first_rung: 100k}", "schedule: cosine\n", "schedule: cosine decays over the whole trial"),
        ("{first_rung: 1M, brackets: 3}", "", r"brackets: 3, but there are 1 rungs \(1M\)"),
        ("{first_rung: 100k, exempt: 0}", "", "exempt: 0"),
    ],
)
def test_what_misleads_is_said(tmp_path: Path, settings: str, base: str, words: str) -> None:
    (line,) = said(tmp_path, f"{SPACE}scheduler: {{asha: {settings}}}\n", specs.BASE + base)
    assert re.search(words, line)


def test_a_search_with_rungs_has_a_schedule_that_makes_them_comparable_unless_one_is_named(tmp_path: Path) -> None:
    asha = f"{SPACE}scheduler: {{asha: {{first_rung: 100k}}}}\n"
    assert specs.read(tmp_path, asha)[1].schedule == "wsd"
    assert said(tmp_path, asha) == []
    assert specs.read(tmp_path, SPACE)[1].schedule == "cosine"
    assert specs.read(tmp_path, asha, specs.BASE + "schedule: linear\n")[1].schedule == "linear"
    assert specs.read(tmp_path, asha, overrides=["schedule=constant"])[1].schedule == "constant"
    searched = asha.replace("1e-2]}", "1e-2]}, schedule: {choice: [cosine, wsd]}")
    assert said(tmp_path, searched) == []
