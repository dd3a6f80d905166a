"""How tests look at an error that a user reads: its kind, keys and line as data, its text where that is at issue."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from data.errors import UserError
from trainer.complaints import dotted
from trainer.yaml_file import RefusedError


def refusal(call: Callable[[], object]) -> UserError:
    """The UserError that a call raises; its message is one line."""
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value


def facts(error: UserError) -> tuple[str, tuple[str, ...], int | None]:
    """An error as data: (kind, keys, line)."""
    return error.kind, error.keys, error.line


def key_refusal(call: Callable[[], object]) -> RefusedError:
    """The same for a key of a config or a spec, with its place in the file."""
    error = refusal(call)
    assert isinstance(error, RefusedError)
    return error


def place(error: RefusedError) -> str:
    """The line and the place that an error is about: `5: space.n_layer`."""
    return f"{error.line}: {dotted(error.place)}"


def exit_code(command: Callable[[], int]) -> int:
    """The exit code of a command, whether it returns it or argparse ends the process with it."""
    try:
        return command()
    except SystemExit as end:
        return int(end.code or 0)
