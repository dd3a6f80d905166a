"""The journal, `<storage>/<study>/trials.jsonl`: the append-only record from which everything can be rebuilt.

One JSON object per line, flushed to disk before anything acts on it. Every record has `record` (its kind), `time`
(seconds since the epoch, by a clock that never jumps within a driver, `now`) and, except in `study` and `prior`,
`trial` (its number from 0). Schema version 2:

study     version, spec, base (whole TrainConfig), data (corpus, tokenizer, hash, floor; each tokenizer's own under
          tokenizers), rungs, commit, dirty, packages, host, workers (slots: trials at once; cpus, gpus: of each),
          directory (the driver's, from which relative paths are meant). Written at each start of a driver; the
          last one holds.
prior     trials: the trials of the earlier study that `warm_start` names, each with study, trial, point,
          status, tokens (its length), scores (objective by tokens at its rungs), objective (at this study's length,
          or null), config (whole; absent in older releases). Written once, before the first point: a proposal never
          depends on another study's files
point     trial, point (what the sampler proposed), config (whole TrainConfig), name (readable), sampler,
          bracket, exempt (from being stopped); group (the value that the spec compares, as text; absent where it
          compares none); cohort (absent where the stopping rule has none); of a finalist's run: of (which trial),
          round (which fresh seed)
status    trial, status (below), and with it: cause (text), rung, seconds (so far), n_parameters, node, micro_batch;
          with `running`: tokens at which it starts (0, or those of the checkpoint that it resumes from);
          with `interrupted`: worker_lost, true where its worker was lost, false where its driver was
report    trial, step, tokens, rung (nominal or null), final, metrics, checkpoint (path or null), seconds (so far),
          micro_batch (sequences in one forward pass, where memory limits them)
decision  trial, rung, action (`continue`, `stop`, `pause`, and later `promote`), value (as compared, lower is
          better), cutoff (the largest value that continues, null where every value does), of (values in the rung)
test      trial, metrics (test_loss, test_perplexity, test_bits_per_byte, test_accuracy, test_objective_loss): a
          finalist's run on the test split, by `nanosweep finalize`; no selection ever uses it

A trial's status: running -> completed | early_stopped | pruned | diverged | failed | out_of_memory; paused (at a
rung, until it is promoted); or interrupted (the driver died or was stopped; the next driver resumes it). A driver that
begins a failed or out_of_memory trial again writes interrupted first.
JSON has no NaN: numbers that are not finite are written as the strings "nan", "inf", "-inf" and read back.
A last line truncated by a crash is dropped when read; nothing acted on it.
Version 1, without prior records, paused trials, brackets and exempt trials, is read too. A record of an unknown kind is
skipped, unless it has a `version` above this one.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data.errors import UserError

VERSION = 2
NAME = "trials.jsonl"
# trained to full length, with an objective
FULL = ("completed", "early_stopped")
ENDED = (*FULL, "pruned", "diverged", "failed", "out_of_memory")
# no driver has to resume the trial: it has ended, or is paused until a promotion, which may never come
INACTIVE = (*ENDED, "paused")
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

Record = dict[str, Any]

# of the clocks that nobody can set, one that also counts the time in which the machine sleeps, as the wall's does
_COUNTER: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_BEGAN = time.time() - time.clock_gettime(_COUNTER)


def now() -> float:
    """The time of a record: seconds since the epoch, counted from when this process began.

    The machine's clock may be set meanwhile (NTP, by hand); it would use up a budget of hours at once, or stretch it.
    """
    return _BEGAN + time.clock_gettime(_COUNTER)


def encode(record: Record) -> str:
    """Encode a record as one line of JSON, without the newline."""
    return json.dumps(_finite(record), allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def decode_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """Metrics with the strings for non-finite values converted back to floats."""
    return {key: _NOT_FINITE[value] if isinstance(value, str) else float(value) for key, value in metrics.items()}


class Journal:
    """The journal opened for appending, by one driver. Opening it drops a last line that a crash truncated."""

    def __init__(self, path: Path) -> None:
        """Raises UserError when the file cannot be opened for writing."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _drop_torn_line(path)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            problem = f"{path}: cannot be opened for writing: {error.strerror}"
            raise UserError(problem, kind="cannot_write") from None

    def write(self, record: str, **fields: Any) -> Record:
        """Append one record; it is on disk (fsync) on return. Raises UserError when it cannot be written."""
        entry = {"record": record, "time": round(now(), 3), **fields}
        line = memoryview((encode(entry) + "\n").encode())
        end = os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            # without this the next record would be appended to half a line
            os.ftruncate(self._file.fileno(), end)
            problem = f"{self.path}: cannot write the journal: {error.strerror}; make room and run again"
            raise UserError(problem, kind="cannot_write") from None
        return entry

    def close(self) -> None:
        self._file.close()


def _drop_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        data = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)


def read_records(path: Path) -> Iterator[Record]:
    """Yield all complete records of a journal, in order. Raises UserError with the line of one that cannot be read."""
    with path.open("rb") as file:
        yield from parse_records(file, str(path))


def parse_records(lines: Iterable[str | bytes], name: str) -> Iterator[Record]:
    """`read_records` from lines that end in newlines. name: of the file, for errors."""
    for number, raw in enumerate(lines, 1):
        try:
            line = raw.decode() if isinstance(raw, bytes) else raw
            if not line.endswith("\n"):
                return
            record = json.loads(line)
            if "\\ud" in line:  # a lone surrogate is not valid text and cannot be printed
                encode(record).encode()
            if not isinstance(record, dict) or not isinstance(record.get("record"), str):
                raise ValueError("not a record")
        except (ValueError, RecursionError) as error:
            problem = f"{name}:{number}: not a journal record ({error}); restore the file from a copy"
            raise UserError(problem, kind="unreadable", line=number) from None
        version = record.get("version")
        if isinstance(version, int) and version > VERSION:
            raise UserError(
                f"{name}:{number}: journal version {version} is of a newer release, this one reads up to {VERSION}; "
                "use that release, or a later one",
                kind="newer",
                line=number,
            )
        yield record
