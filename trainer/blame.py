"""What fails in the user's own code, as one line: which part, where in their file, and why."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

from data.errors import UserError

_ROOT, _OURS = Path(__file__).resolve().parent.parent, ("models", "trainer", "data", "search")


@contextlib.contextmanager
def blamed(part: str) -> Iterator[None]:
    """Whatever the block raises, as `PART failed at FILE:LINE: TYPE: REASON`, the line being the user's own.

    A UserError passes as it is. An exhausted memory passes too: it is no mistake of the code.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        from trainer.memory import ran_out

        if ran_out(error):
            raise
        theirs = [frame for frame in traceback.extract_tb(error.__traceback__) if not _ours(frame.filename)]
        line = f" at {theirs[-1].filename}:{theirs[-1].lineno}" if theirs else ""
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"{part} failed{line}: {type(error).__name__}: {reason}") from error


def _ours(file: str) -> bool:
    """Whether a file is one of this program or of torch."""
    import torch

    folders = [*(_ROOT / name for name in _OURS), Path(torch.__file__).parent]
    return any(Path(file).is_relative_to(folder) for folder in folders)
