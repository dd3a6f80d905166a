"""A study's records as MLflow's params, tags and metrics: plain data, without MLflow."""

from __future__ import annotations

import getpass
import hashlib
import json
import math
import re
from collections import Counter
from typing import Any

from search.results import table
from search.spec.space import described
from search.stats.statistics import Standing, fit
from search.study.journal import FULL, Record
from search.study.scores import BROKEN, best, finalists, objective, objective_of, score
from search.study.study import Study, Trial
from search.study.study_record import Header

Metric = tuple[str, float, int, int]  # key, value, milliseconds since the epoch, step (tokens)
BATCH = 900  # metrics in one request: MLflow takes 1,000 entries, a config's params among them
# of the machine, not of the model: under this prefix MLflow's page shows them apart, and after the others
_SYSTEM = dict.fromkeys(("seconds", "eval_seconds", "tokens_per_second", "peak_memory_mb"), "system/")
_TAG = 5000  # its limit on a tag's text is 8,000 or less, depending on the store
_KEY = 250  # its limit on the length of a key
# MLflow's page shows KILLED and FAILED with the same red cross, and a pruned trial has done its work
RUN_STATUS = {
    "running": "RUNNING",
    **dict.fromkeys((*FULL, "pruned", "paused"), "FINISHED"),
    "interrupted": "KILLED",
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
    room = BATCH
    for report in reports:
        size = len(report["metrics"]) + 1
        if size > room:
            parts.append([])
            room = BATCH
        parts[-1].append(report)
        room -= size
    return parts


def metrics(report: Record) -> list[Metric]:
    # the journal's time, not now: what is sent twice after a lost answer is then the same record
    at, step = round(report["time"] * 1000), report["tokens"]
    values = {**report["metrics"], "tokens": float(step)}
    return [(_SYSTEM.get(key, "") + key, value, at, step) for key, value in values.items()]


def title(trial: Trial) -> str:
    """The name of a trial's run: its number, as the leaderboard has it, and its point."""
    return f"#{trial.number} {trial.name}"


def status(trial: Trial) -> tuple[str, str, str]:
    """Tags status, rung, cause."""
    return (trial.status, "" if trial.rung is None else str(trial.rung), trial.cause[:_TAG])


def ending(study: Study, trial: Trial, at: int) -> list[Metric]:
    """What is known when a status changes. at: milliseconds since the epoch."""
    # a finalist's lucky seed must not lead a sort by `objective`
    name = "objective" if trial.of is None else "finalist_objective"
    values = {"n_parameters": trial.n_parameters, name: objective(study, trial)}
    return [(key, float(value), at, trial.tokens) for key, value in values.items() if value is not None]


def progress(study: Study, ranked: list[Standing]) -> list[Metric]:
    """Metrics of the parent run, against the tokens of all trials: the best objective so far, as it fell; how many
    trials have which status; the leader's value on the leaderboard, which is its mean over seeds where it has any.

    ranked: the leaderboard.
    """
    ended = sorted((trial for trial in study.trials.values() if trial.reports), key=lambda trial: _last(trial))
    lines: list[Metric] = []
    tokens, at, best_rank = 0, 0, math.inf
    for trial in ended:
        tokens, at = tokens + trial.tokens, _last(trial)
        value = None if trial.of is not None else objective(study, trial)
        if value is not None and (rank := objective_of(study).rank(value)) < best_rank:
            best_rank = rank
            lines.append(("best_so_far", value, at, tokens))
    counts = Counter(trial.status for trial in study.searched)
    values: dict[str, float] = {
        "trials": len(study.searched),
        "trials_full_length": sum(counts[status] for status in FULL),
        "trials_pruned": counts["pruned"],
        "trials_failed": sum(counts[status] for status in BROKEN),
    }
    if ranked:
        values["leader"] = _value(study, ranked[0].value)
    return lines + [(name, float(value), at, tokens) for name, value in values.items() if ended]


def places(study: Study, ranked: list[Standing]) -> dict[int, list[Metric]]:
    """Metrics of trials' runs, by trial: the place on the leaderboard, and the mean over fresh seeds if it has any.

    Sorting by `objective` shows the search's own runs, whose best need not lead.
    """
    ended = [trial for trial in study.trials.values() if trial.reports]
    tokens, at = sum(trial.tokens for trial in ended), max(map(_last, ended), default=0)
    means = fit(finalists(study)).means
    metrics: dict[int, list[Metric]] = {}
    for place, standing in enumerate(ranked, 1):
        metrics[standing.number] = [("place", float(place), at, tokens)]
        if standing.number in means:
            value = objective_of(study).value(means[standing.number])
            metrics[standing.number].append(("mean_over_seeds", value, at, tokens))
    return metrics


def _last(trial: Trial) -> int:
    """When its last report came, in milliseconds since the epoch."""
    return round(trial.reports[-1]["time"] * 1000)


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
        **{key: _plain(spec.get(key)) for key in ("compare", "sampler", "scheduler", "objective", "seed", "base")},
        **{key("space", name): described(parameter) for name, parameter in header.spec.space.items()},
        **{key("set", name): _plain(value) for name, value in (spec.get("set") or {}).items()},
        "rungs": ", ".join(map(str, header.rungs)) or None,
        **{f"data.{key}": getattr(data, key) or None for key in ("corpus", "tokenizer", "hash")},
    }


def _plain(value: Any) -> Any:
    """A part of a spec as one line of YAML, without its outermost braces and without what has no value.

    >>> _plain({"asha": {"first_rung": 1000, "factor": 2, "mode": None}}), _plain("tpe"), _plain([1, 2])
    ('asha: {first_rung: 1000, factor: 2}', 'tpe', '1, 2')
    """
    if not isinstance(value, (dict, list)):
        return value
    import yaml

    line = yaml.safe_dump(_without_none(value), default_flow_style=True, sort_keys=False, width=math.inf)
    return line.strip()[1:-1]


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def study_tags(study: Study) -> dict[str, Any]:
    """What may differ from driver to driver, and how far the study is."""
    header, leader = study.header, best(study)
    text = None if leader is None else f"{_standing(study, leader):.6g} ({title(leader)})"
    return {
        **{key: _plain(header.spec_as_written.get(key)) for key in ("budget", "resources", "storage")},
        "commit": header.commit or None,
        "dirty": header.dirty,
        "mlflow.source.git.commit": header.commit or None,
        **{f"packages.{name}": version for name, version in header.packages.items()},
        "host": _plain(dict(header.host)) or None,
        "best": text,
    }


def _standing(study: Study, leader: Trial) -> float:
    """The leader's value on the leaderboard: its mean over fresh seeds where it has any."""
    means = fit(finalists(study)).means
    return _value(study, means.get(leader.number, score(study, leader)))


def _value(study: Study, compared: float) -> float:
    """The objective of a value on the comparison scale; inf for one that no float holds."""
    try:
        return objective_of(study).value(compared)
    except OverflowError:
        return math.inf


def split(study: Study, ranked: list[Standing]) -> dict[str, Any]:
    """The leaderboard in the layout that MLflow's page shows as a table."""
    rows = json.loads(table.as_json(study, ranked=ranked))["trials"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return {"columns": columns, "data": [[row.get(key) for key in columns] for row in rows]}
