"""A study's records as MLflow's params, tags and metrics: plain data, without MLflow."""

from __future__ import annotations

import getpass
import hashlib
import json
import re
from typing import Any

from search.results import table
from search.stats.statistics import Standing
from search.study.journal import FULL, Record
from search.study.scores import best, objective
from search.study.study import Study, Trial
from search.study.study_record import Header

Metric = tuple[str, float, int, int]  # key, value, milliseconds since the epoch, step (tokens)
_BATCH = 900  # metrics in one request: MLflow takes 1,000 entries, a config's params among them
_TAG = 5000  # its limit on a tag's text is 8,000 or less, depending on the store
_KEY = 250  # its limit on the length of a key
RUN_STATUS = {
    "running": "RUNNING",
    **dict.fromkeys(FULL, "FINISHED"),
    **dict.fromkeys(("pruned", "paused", "interrupted"), "KILLED"),
    **dict.fromkeys(("diverged", "failed", "out_of_memory"), "FAILED"),
}


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return "unknown"


def batches(reports: list[Record]) -> list[list[Record]]:
    """Reports in parts that one request can carry; at least one part, perhaps empty."""
    parts: list[list[Record]] = [[]]
    room = _BATCH
    for report in reports:
        size = len(report["metrics"]) + 1
        if size > room:
            parts.append([])
            room = _BATCH
        parts[-1].append(report)
        room -= size
    return parts


def metrics(report: Record) -> list[Metric]:
    # the journal's time, not now: what is sent twice after a lost answer is then the same record
    at, step = round(report["time"] * 1000), report["tokens"]
    return [(key, value, at, step) for key, value in {**report["metrics"], "tokens": float(step)}.items()]


def status(trial: Trial) -> tuple[str, str, str]:
    """Tags status, rung, cause."""
    return (trial.status, "" if trial.rung is None else str(trial.rung), trial.cause[:_TAG])


def ending(study: Study, trial: Trial, at: int) -> list[Metric]:
    """What is known when a status changes. at: milliseconds since the epoch."""
    # a finalist's lucky seed must not lead a sort by `objective`
    name = "objective" if trial.of is None else "finalist_objective"
    values = {"n_parameters": trial.n_parameters, name: objective(study, trial)}
    return [(key, float(value), at, trial.tokens) for key, value in values.items() if value is not None]


def texts(values: dict[str, Any], most: int = _TAG) -> dict[str, str]:
    """Params or tags; what is None is left out."""
    plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return {key: text[:most] for key, text in plain.items() if values[key] is not None}


def key(prefix: str, name: str) -> str:
    """The key of a param for a name of the user's: what MLflow refuses in a key is written as `:hex:`.

    Different names have different keys; the end of one over MLflow's length is a digest.

    >>> key("space", "lr_größe"), key("space", "lr (log)?")
    ('space.lr_größe', 'space.lr :28:log:29::3f:')
    """
    whole = f"{prefix}." + re.sub(r"[^\w.\- ]", lambda sign: f":{ord(sign[0]):x}:", name)
    if len(whole) <= _KEY:
        return whole
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{whole[: _KEY - len(digest) - 2]}::{digest}"


def study_params(header: Header) -> dict[str, Any]:
    """What a study never changes: its spec but for budget and place, and its data."""
    spec, data = header.spec_as_written, header.data
    return {
        **{key: spec.get(key) for key in ("compare", "sampler", "scheduler", "objective", "seed", "base")},
        **{key("space", name): parameter for name, parameter in spec.get("space", {}).items()},
        **{key("set", name): value for name, value in (spec.get("set") or {}).items()},
        "rungs": list(header.rungs),
        **{f"data.{key}": getattr(data, key) or None for key in ("corpus", "tokenizer", "hash")},
    }


def study_tags(study: Study) -> dict[str, Any]:
    """What may differ from driver to driver, and how far the study is."""
    header, leader = study.header, best(study)
    score = None if leader is None else f"{objective(study, leader):.6g} (trial {leader.number}, {leader.name})"
    return {
        **{key: header.spec_as_written.get(key) for key in ("budget", "resources", "storage")},
        "commit": header.commit or None,
        "dirty": header.dirty,
        "mlflow.source.git.commit": header.commit or None,
        **{f"packages.{name}": version for name, version in header.packages.items()},
        "host": dict(header.host) or None,
        "best": score,
    }


def split(study: Study, ranked: list[Standing]) -> dict[str, Any]:
    """The leaderboard in the layout that MLflow's page shows as a table."""
    rows = json.loads(table.as_json(study, ranked=ranked))["trials"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return {"columns": columns, "data": [[row.get(key) for key in columns] for row in rows]}
