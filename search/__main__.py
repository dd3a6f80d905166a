"""`python -m search` is the `nanosweep` command."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from search.cli.main import main


def enter() -> NoReturn:
    """The command as a process of its own, to its exit code."""
    code = main()
    if "ray" in sys.modules:
        # all is said and written; Ray's threads now and then abort the process while the interpreter is taken down,
        # and with it the exit code
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    enter()
