"""The one exception for a user's mistake: a single line that names the place, what was found and what to do.

Command lines print it without a traceback and exit with code 2; anything else that escapes is a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 2000  # characters: what was given may be a book


class UserError(Exception):
    """A mistake in what the user gave us (a file, a key, a value, a machine that lacks something).

    The message is made one line of printable characters: it repeats what somebody wrote, who may have meant the
    terminal to obey it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_line(message))


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


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean X?`, or the list of what is allowed when nothing is near.

    >>> nearest("learning_rte", ["learning_rate", "dropout"])
    'did you mean learning_rate?'
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"allowed: {', '.join(names)}"
