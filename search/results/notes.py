"""The lines under a leaderboard that a careful reader wants: what ties mean, why trials broke, the entropy floor,
rungs that were reached at different tokens, how well rungs foretold the end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from search.results import agreement, standing
from search.results.cautions import cautions
from search.stats.optimism import optimism
from search.stats.statistics import Standing, fit
from search.study.scores import BROKEN, best, finalists, objective, objective_of, score
from search.study.study import Study, Trial
from trainer import units


def below(study: Study, left_out: int, found: list[Standing]) -> list[str]:
    more = [f"... and {left_out} more (--limit 0 shows all)"] if left_out else []
    return [
        *more,
        _counts(study),
        *standing.lines(found),
        *optimism_lines(study),
        *cause_lines(study),
        *floor_lines(study),
        *title_lines(study),
        *spread_lines(study),
        *agreement.lines(study),
        *caution_lines(study),
    ]


def optimism_lines(study: Study) -> list[str]:
    """By how much the best value of the search flatters itself; nothing where no fresh seeds tell how far luck goes."""
    noise = fit(finalists(study)).total
    values = [value for trial in study.searched if math.isfinite(value := score(study, trial))]
    if not noise.df or len(values) < 2:
        return []
    flattered = optimism(values, math.sqrt(noise.variance))
    size = objective_of(study).show_size(flattered)
    return [f"the best value of the search, picked from {len(values)}, flatters itself by about {size} (expected)"]


def caution_lines(study: Study) -> list[str]:
    """Warnings that a careful person would give, once no trial is left to run."""
    if study.unfinished() or study.header.spec_reading.refused:  # of a release that took other values
        return []
    return [f"caution: {line}" for line in cautions(study, study.header.spec)]


def _counts(study: Study) -> str:
    found = Counter(trial.status.replace("_", " ") for trial in study.searched)
    parts = [f"{number} {status}" for status, number in found.most_common()]
    again = len(study.trials) - len(study.searched)
    more = f"; {again} runs of finalists with fresh seeds" if again else ""
    return f"{len(study.searched)} trials: {', '.join(parts)}{more}" if parts else "no trials yet"


def cause_lines(study: Study, most: int = 3) -> list[str]:
    """Why trials broke: the first few, a line each."""
    broken = [trial for trial in study.trials.values() if trial.status in BROKEN and trial.cause]
    lines = [f"trial {t.number} {t.status.replace('_', ' ')}: {_short(t.cause)}" for t in broken[:most]]
    return lines + ([f"... and {len(broken) - most} more broke (--format json has every cause)"] * (len(broken) > most))


def _short(cause: str) -> str:
    line = " ".join(cause.split())
    return line if len(line) <= 110 else line[:107] + "..."


def floor_lines(study: Study) -> list[str]:
    """Where the corpus's entropy is known: the floor, the leader's gap to it, and an alarm for whoever is under it.

    Bits per byte are the same for every tokenizer, perplexity is not.
    """
    floors = floors_of(study)
    if not floors:
        return []
    each = [f"{units.score(floor['val_perplexity'])} ({name})" for name, floor in floors.items()]
    first = next(iter(floors.values()))
    perplexity = ", ".join(each) if len(each) > 1 else units.score(first["val_perplexity"])
    line = f"entropy floor: perplexity {perplexity}, {units.score(first['val_bits_per_byte'])} bits/byte"
    gaps = {trial.number: found for trial in study.searched if (found := _gap(study, trial, floors))}
    leader = best(study)
    if leader is not None and leader.number in gaps:
        gap, ratio = gaps[leader.number]
        line += f"; the leader is {abs(gap):.3g} {'above' if gap >= 0 else 'BELOW'} it ({ratio:.4g} × the floor)"
    under = ", ".join(str(number) for number, (low, _) in sorted(gaps.items()) if low < 0)
    alarm = f"WARNING: trial {under} is under the floor: nothing honest can be; look for a leak"
    return [line, alarm] if under else [line]


def floors_of(study: Study) -> dict[str, Mapping[str, float]]:
    """The least that an honest model can score, by tokenizer and metric; empty where nobody knows it."""
    data = study.header.data
    each = {name: one.floor for name, one in data.tokenizers.items()} or {data.tokenizer: data.floor}
    return {name: floor for name, floor in each.items() if floor}


def _gap(study: Study, trial: Trial, floors: Mapping[str, Mapping[str, float]]) -> tuple[float, float] | None:
    """How far a trial's objective is above its floor, and how many times the floor it is."""
    value, floor = objective(study, trial), floors.get(str(trial.config.get("tokenizer")))
    if value is None or floor is None:
        return None
    target, low = objective_of(study), floor.get(objective_of(study).name)
    return None if low is None else (target.rank(value) - target.rank(low), value / low)


def title_lines(study: Study) -> list[str]:
    """With `split: mainrun`: the leader in the task's terms, and what may be compared."""
    leader = best(study)
    final = leader.final["metrics"] if leader is not None and leader.final is not None else {}
    if "val_nats_per_char" not in final:
        return []
    share = final["mainrun_coverage"]
    theirs = f"says {final['mainrun_nats_per_char']:.4f}" if "mainrun_nats_per_char" in final else "says nothing"
    return [
        f"Mainrun: the leader has {final['val_nats_per_char']:.4f} nats/char over the whole validation text (in the "
        f"search's own run); the task's evaluate() {theirs}, as it scores {share:.1%} of it: that depends on "
        "batch_size x block_size, so compare by nats/char"
    ]


def spread_lines(study: Study) -> list[str]:
    """Where trials reached one rung at different true tokens (batch sizes differ), how far apart."""
    found: dict[int, list[int]] = {}
    for trial in study.trials.values():
        for report in trial.reports:
            if report["rung"] is not None:
                found.setdefault(report["rung"], []).append(report["tokens"])
    spread = [
        f"{units.count(rung)} at {min(tokens):,}–{max(tokens):,}"
        for rung, tokens in sorted(found.items())
        if min(tokens) < max(tokens)
    ]
    return [f"rungs were reached at different tokens, as batch sizes differ: {'; '.join(spread)}"] if spread else []
