"""`python -m search` is the `nanosweep` command."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from search.cli.main import main


def enter() -> NoReturn:
    """Run the command and end the process with its exit code."""
    code = main()
    if "ray" in sys.modules:
        # Ray's threads sometimes abort the process during interpreter shutdown, and the exit code is lost; all output
        # is written by now, so the process may end without that shutdown
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    enter()
