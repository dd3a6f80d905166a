"""`UserError`, the exception for a user's mistake. Its message is one line: the place, the value, what to do.

Command lines print the message without a traceback and exit with code 2. Any other exception that reaches a command
line is a bug of this program.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 2000  # characters of a message; the value that it quotes may be as long as a book


class UserError(Exception):
    """A mistake in the user's input or machine: a file, a key, a value, a missing program.

    The message is reduced to one line of printable characters, as the input that it quotes may hold control sequences
    that a terminal would execute.

    kind, keys and line say as data what the message says, where the code that raises it knows. kind: of the mistake,
    one word; keys: the key, field or name to change first, then those that it conflicts with; line: of the file, from
    1.
    """

    def __init__(
        self, message: str, *, kind: str = "", keys: str | tuple[str, ...] = (), line: int | None = None
    ) -> None:
        super().__init__(_line(message))
        self.kind = kind
        self.keys = (keys,) if isinstance(keys, str) else keys
        self.line = line


def _line(text: str) -> str:
    """
    >>> print(_line("a\\x1b[2Jb"))
    a\\x1b[2Jb
    """
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


class Lost(Exception):  # noqa: N818 (it is what the user reads)
    """A run that could not continue, by no mistake of the user: what happened and what to do, in a line."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """`did you mean X?` with the most similar allowed word, or the list of all where none is similar.

    >>> nearest("learning_rte", ["learning_rate", "dropout"])
    'did you mean learning_rate?'
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"allowed: {', '.join(names)}"
