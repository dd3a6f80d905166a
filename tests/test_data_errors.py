"""What is said of a mistake, and of paths that can be none."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import UserError
from data.paths import at_home, is_file


def test_a_message_is_one_printable_line_whatever_it_repeats() -> None:
    said = str(UserError("a\nb \x1b[2J \ud800 größer → ∞"))
    assert said == r"a\nb \x1b[2J \ud800 größer → ∞"
    assert said.isprintable()


def test_a_message_that_repeats_a_book_keeps_its_beginning_and_end() -> None:
    said = str(UserError("spec.yaml:1: " + "x" * 100_000 + " is unknown"))
    assert len(said) < 2100
    assert said.startswith("spec.yaml:1: xxx")
    assert said.endswith("xxx is unknown")


def test_paths_that_can_be_none_are_a_users_mistake() -> None:
    with pytest.raises(UserError, match="no user nobody-of-this-name here"):
        at_home("~nobody-of-this-name/x")
    with pytest.raises(UserError, match=r"x{60}\.\.\.: 5000 characters are too long"):
        at_home("x" * 5000)
    assert at_home("~/x") == Path.home() / "x"
    assert not is_file(Path("x" * 5000))
    assert is_file(Path(__file__))
