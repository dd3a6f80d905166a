"""The report's facts and tables: result, cost, trials by rung, spec, provenance. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from search.results.attempt import NotComputed, attempt
from search.results.notes import floor_lines
from search.results.standing import rows
from search.results.survival import survival
from search.results.timeline import Session, cost, sessions
from search.stats.statistics import Standing
from search.study.journal import FULL
from search.study.scores import BROKEN, best, objective_of
from search.study.study import Study, Trial
from search.study.study_record import UNKNOWN, Tokenized
from trainer import units
from trainer.units import plural

Fact = tuple[str, str, str]  # name, value, detail


def facts(study: Study, ranked: list[Standing]) -> list[Fact]:
    """The key figures at the top of the page. ranked: the standings of the trials."""
    parts: dict[str, Callable[[], list[Fact]]] = {
        f"best {objective_of(study).unit}": lambda: _best(study, ranked),
        "entropy floor": lambda: _floor(study),
        "trials": lambda: _trials(study),
        "wall time": lambda: _time(study),
        "hours": lambda: _hours(study),
    }
    entries: list[Fact] = []
    for name, part in parts.items():
        computed = attempt(part)
        entries += [(name, "–", str(computed))] if isinstance(computed, NotComputed) else computed
    return entries


def _best(study: Study, ranked: list[Standing]) -> list[Fact]:
    leader = best(study)
    if leader is None:
        return []
    row = next(row for row in rows(study, ranked) if row["trial"] == leader.number)
    value = row["objective"] if row["value"] is None else row["value"]
    more = f"trial {leader.number}: {leader.name}"
    if row["seeds"]:
        span = "" if row["seed_low"] is None else f"{units.score(row['seed_low'])} to {units.score(row['seed_high'])}, "
        more = (
            f"{span}95 % over {row['seeds']} fresh seeds (the search's own run, which the charts show: "
            f"{units.score(row['objective'])}); {more}"
        )
    return [(f"best {objective_of(study).unit}", units.score(value), more)]


def _floor(study: Study) -> list[Fact]:
    line = next(iter(floor_lines(study)), "")
    text, _, gap = line.removeprefix("entropy floor: ").partition("; ")
    return [("entropy floor", text.split(",")[0].removeprefix("perplexity "), gap or text)] if line else []


def _trials(study: Study) -> list[Fact]:
    again = len(study.trials) - len(study.searched)
    full = sum(trial.final is not None for trial in study.searched)
    runs = f", {plural(again, 'run')} with fresh seeds" if again else ""
    tokens = sum(trial.tokens + trial.repeated for trial in study.trials.values())
    return [
        ("trials", str(len(study.searched)), f"{full} at full length{runs}"),
        ("tokens", units.count(tokens), "trained on by all together"),
    ]


def _time(study: Study) -> list[Fact]:
    drivers = sessions(study)
    entries = [("wall time", units.duration(study.seconds()), _drivers(drivers))]
    if (capacity := _capacity(drivers)) > 0:
        busy = sum(session.busy for session in drivers)
        entries.append(("workers idle", f"{1 - busy / capacity:.0%}", idle_text(drivers)))
    return entries


def _hours(study: Study) -> list[Fact]:
    spent = cost(study, list(study.trials.values()))
    if spent.gpu_hours:
        return [("GPU hours", f"{spent.gpu_hours:.2f}", "reserved by trials while they ran")]
    if spent.cpu_hours is not None:
        return [("core hours", f"{spent.cpu_hours:.2f}", "reserved by trials while they ran; no GPU")]
    return []


def _capacity(sessions: list[Session]) -> float:
    """Worker-seconds that there were."""
    return sum(session.rows * session.wall for session in sessions)


def _drivers(sessions: list[Session]) -> str:
    places = max((session.rows for session in sessions), default=0)
    drivers = "" if len(sessions) == 1 else f", {len(sessions)} drivers"
    return f"{places} trial{'s' * (places != 1)} at once{drivers}"


def idle_text(sessions: list[Session]) -> str:
    """When the workers were idle, in per cent of their time, which is the wall time of each."""
    capacity = _capacity(sessions) or 1.0
    idle = {key: sum(session.idle[key] for session in sessions) / capacity for key in ("before", "between", "after")}
    words = {"before": "before the first trial", "between": "between trials", "after": "after the last"}
    parts = [f"{share:.0%} {words[key]}" for key, share in idle.items() if share >= 0.005]
    return ", ".join(parts) or "none"


def costs(study: Study) -> dict[str, Any]:
    """The cost table: heads and lines, a row per outcome of trials and one for all; empty columns are left out."""
    groups = {
        "to full length": [t for t in study.searched if t.status in FULL],
        "stopped or paused at a rung": [t for t in study.searched if t.status in ("pruned", "paused")],
        "broke": [t for t in study.searched if t.status in BROKEN],
        "not ended": [t for t in study.searched if t.status in ("running", "waiting", "interrupted")],
        "finalists, fresh seeds": [t for t in study.trials.values() if t.of is not None],
        "all": list(study.trials.values()),
    }
    total = cost(study, groups["all"]).worker_seconds or 1.0
    lines = [_cost(study, name, trials, total) for name, trials in groups.items() if trials or name == "all"]
    heads = ["", "trials", "tokens", "trained twice", "worker time", "share", "core hours", "GPU hours"]
    kept = [at for at in range(len(heads)) if at == 0 or any(line[at] for line in lines)]
    return {"heads": [heads[at] for at in kept], "lines": [[line[at] for at in kept] for line in lines]}


def _cost(study: Study, name: str, trials: list[Trial], total: float) -> list[str]:
    spent = cost(study, trials)
    return [
        name,
        str(spent.trials),
        units.count(spent.tokens),
        units.count(spent.repeated) if spent.repeated else "",
        units.duration(spent.worker_seconds),
        f"{spent.worker_seconds / total:.0%}",
        "" if spent.cpu_hours is None else f"{spent.cpu_hours:.3g}",
        "" if not spent.gpu_hours else f"{spent.gpu_hours:.3g}",
    ]


def survivors(study: Study) -> dict[str, Any]:
    """The survival table: heads, lines (a row per rung and one for the end), rungs; without unused columns."""
    rows = survival(study)
    names = {"broke": "broke before it", "early": "ended early by itself", "going": "not ended"}
    ways = [way for way in names if any(row.left[way] for row in rows)]
    refused = [way for way in ("stopped", "paused") if any(row.left[way] for row in rows)]
    heads = ["rung", "entered", *(names[way] for way in ways), "reached it", *refused, "continued", "who left"]
    lines = [
        [
            "the end" if row.rung is None else units.count(row.rung),
            str(row.entered),
            *(str(len(row.left[way])) for way in ways),
            str(row.reached),
            *("" if row.rung is None else str(len(row.left[way])) for way in refused),
            "" if row.rung is None else str(row.continued),
            _who(row.left),
        ]
        for row in rows
    ]
    return {"heads": heads, "lines": lines, "rungs": len(rows) - 1}


def _who(left: dict[str, list[int]]) -> str:
    words = {"broke": "broke", "early": "ended early", "going": "not ended", "stopped": "stopped", "paused": "paused"}
    parts = []
    for way, word in {**words, "done": "full length"}.items():
        numbers = left[way]
        if numbers:
            more = f" and {len(numbers) - 30} more" if len(numbers) > 30 else ""
            parts.append(f"{word}: {', '.join(map(str, numbers[:30]))}{more}")
    return "; ".join(parts)


def spec_text(study: Study) -> str:
    """The spec as run, defaults left out, as YAML."""
    import yaml

    spec = study.header.spec_as_written  # a spec of another release: as in the journal
    if study.header.spec_reading.exact:
        spec = study.header.spec.model_dump(mode="json", exclude_defaults=True)
    return str(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100))


def provenance(study: Study) -> list[tuple[str, str]]:
    """(name, text) of what produced the numbers: code, data, machine, packages, drivers."""
    header, data, host = study.header, study.header.data, study.header.host
    lines = {
        "code": header.code,
        "data": f"{data.corpus}, hash {data.hash or UNKNOWN}",
        **{f"tokens, {name}": _data(tokenized) for name, tokenized in data.tokenizers.items()},
        "machine": ", ".join(str(host[key]) for key in ("name", "system", "cpu") if host.get(key)) or "unknown",
        "precision": _precision(header.precision),
        "cores, memory": f"{host['cpus']} cores, {host.get('memory_gb', '?')} GiB" if "cpus" in host else "",
        "nodes": ", ".join(sorted({s.node for t in study.trials.values() for s in t.stints if s.node})),
        "packages": ", ".join(f"{name} {version}" for name, version in header.packages.items()),
        "drivers": "; ".join(_when(session) for session in sessions(study)),
    }
    return [(name, text) for name, text in lines.items() if text]


def _precision(settled: Mapping[str, Any]) -> str:
    """What `dtype: auto` was settled to; empty where the config or a GPU said it."""
    if not settled:
        return ""
    speedup = settled.get("speedup")
    measured = "" if speedup is None else f": bfloat16 was {speedup:.2f} × as fast as float32"
    return f"dtype: auto is {settled['dtype']} in all trials{measured} ({settled.get('machine', UNKNOWN)})"


def _data(tokenized: Tokenized) -> str:
    train, val = units.count(tokenized.train_tokens), units.count(tokenized.val_tokens)
    classes = "?" if tokenized.classes is None else tokenized.classes
    return f"{train} to train on, {val} to validate, {classes} classes"


def _when(session: Session) -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(session.began))
    return f"{began}, {units.duration(session.wall)}"
