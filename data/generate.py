"""Write a range of the built-in stories to files; `data.parallel_stories` runs several of these side by side.

Run: python -m data.generate SEED START STOP PREFIX
writes PREFIX.txt (the stories, one after the other), PREFIX.lengths (int64, bytes of each) and PREFIX.nll (float64,
nats). It is a program of its own, not a forked or spawned function: it starts in 0.1 s, whatever modules the caller has
loaded.
"""

from __future__ import annotations

import sys
from array import array
from pathlib import Path

from data.stories import generate_with_nll

BATCH = 200  # stories between two writes; the caller reads its progress from the size of PREFIX.lengths


def main(seed: int, start: int, stop: int, prefix: str) -> int:
    """Exit status 0, or the errno of a failed write (no space left)."""
    try:
        with (
            Path(f"{prefix}.txt").open("wb") as texts,
            Path(f"{prefix}.nll").open("wb") as floors,
            Path(f"{prefix}.lengths").open("wb", buffering=0) as lengths,
        ):
            for first in range(start, stop, BATCH):
                sizes, nats = array("q"), array("d")
                for index in range(first, min(first + BATCH, stop)):
                    text, nll = generate_with_nll(seed, index)
                    sizes.append(texts.write(text.encode("utf-8")))
                    nats.append(nll)
                nats.tofile(floors)
                lengths.write(sizes.tobytes())
    except OSError as error:
        return error.errno or 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
