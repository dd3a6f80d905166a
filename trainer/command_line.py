"""Command lines: a wrong one is answered in one line, with the nearest command or option; kinds of arguments."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from data.errors import nearest

_DIGITS = 18  # of a whole number: such a one fits 64 bits
_PARSER = "_parser"  # of the command that was chosen, in its namespace


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that answers a wrong command line in one line on stderr and exit code 2, without the usage."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.set_defaults(**{_PARSER: self})

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        parsed, rest = self.parse_known_args(args, namespace)
        chosen: Parser = getattr(parsed, _PARSER)
        delattr(parsed, _PARSER)
        if rest:
            chosen.error(chosen._unknown(rest[0]))
        return parsed

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"{word}: one argument too many; put quotes around a value with spaces"
        option = word.partition("=")[0]
        names = [name for name in self._option_string_actions if name.startswith("--")]
        return f"{option}: no such option; {nearest(option, names)}"

    def error(self, message: str) -> NoReturn:
        if match := re.match(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)$", message):
            name, value, choices = match.groups()
            near = nearest(value, re.findall(r"'([^']*)'", choices) or choices.split(", "))
            message = f"{value}: no such command; {near}" if name == "COMMAND" else f"{name} {value}: {near}"
        elif match := re.match(r"argument (\S+): (.*)$", message):
            message = f"{match[1]}: {match[2]}"
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def whole(least: int = 0, most: float = math.inf) -> Callable[[str], int]:
    """A kind of argument: whole numbers from `least` to `most`."""
    return lambda text: _number(int, text, f"a whole number {_from(least, most)}", lambda n: least <= n <= most)


def temperature(text: str) -> float:
    """A kind of argument: a temperature of sampling."""
    return _number(float, text, "a number from 0", lambda n: 0 <= n < math.inf)


def share(text: str) -> float:
    """A kind of argument: a share of probability."""
    return _number(float, text, "a share, above 0 and at most 1", lambda n: 0 < n <= 1)


def _from(least: float, most: float) -> str:
    return f"from {least}" if most == math.inf else f"from {least} to {most}"


def _number(kind: Callable[[str], Any], text: str, expected: str, allows: Callable[[Any], bool]) -> Any:
    got = repr(text if len(text) <= 40 else f"{text[:37]}...")
    if kind is int and len(text) > _DIGITS:
        raise argparse.ArgumentTypeError(f"expected a whole number of at most {_DIGITS} digits, got {got}")
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not allows(number):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {got}")
    return number
