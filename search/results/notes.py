"""The notes under a leaderboard: ties, optimism of the best value, why trials broke, the entropy floor, differing
tokens at a rung, how well rungs predicted the final order, cautions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from search.results import agreement, standing
from search.results.attempt import lines
from search.results.cautions import cautions
from search.stats.optimism import optimism
from search.stats.statistics import Standing, fit
from search.strategy.distinct import Distinct
from search.study.scores import BROKEN, best, copies, distinct, finalists, objective, objective_of, score
from search.study.study import Study, Trial
from trainer import units
from trainer.units import plural

MOST = 5  # copies that are named
FEWEST_DF = 4  # degrees of freedom of the noise of seeds; with fewer it is off by a factor of 2 too often


def note_lines(study: Study, left_out: int, ranked: list[Standing]) -> list[str]:
    """All notes, a line each. left_out: rows that the table does not show. ranked: the standings of the trials."""
    cut = [f"... and {left_out} more (--limit 0 shows all)"] if left_out else []
    return [
        *cut,
        _counts(study),
        *lines("copies", copy_lines, study),
        *lines("the space", exhausted_lines, study),
        *lines("first place", standing.lines, ranked),
        *lines("the optimism of the best value", optimism_lines, study),
        *lines("causes", cause_lines, study),
        *lines("entropy floor", floor_lines, study),
        *lines("Mainrun", mainrun_lines, study),
        *lines("tokens at rungs", spread_lines, study),
        *lines(agreement.SUBJECT, agreement.lines, study),
        *lines("cautions", caution_lines, study),
    ]


def optimism_lines(study: Study) -> list[str]:
    """By how much the best value of the search is optimistic, as the best of many noisy ones.

    Empty without fresh seeds: the noise of a seed is then not measured.
    """
    noise = fit(finalists(study)).total
    values = [value for trial in distinct(study, study.searched) if math.isfinite(value := score(study, trial))]
    if not noise.df or len(values) < 2:
        return []
    picked = f"the best value of the search, picked from {len(values)}, is optimistic"
    if noise.df < FEWEST_DF:
        return [f"{picked}: too few fresh seeds to say by how much"]
    flattered = optimism(values, math.sqrt(noise.variance))
    size = objective_of(study).show_size(flattered)
    return [f"{picked} by about {size} (expected)"]


def caution_lines(study: Study) -> list[str]:
    """The cautions of `search.results.cautions`, once no trial is left to run."""
    if study.unfinished() or study.header.spec_reading.refused:  # refused: a spec of another release
        return []
    return [f"caution: {line}" for line in cautions(study, study.header.spec)]


def _counts(study: Study) -> str:
    statuses = Counter(trial.status.replace("_", " ") for trial in study.searched)
    parts = [f"{number} {status}" for status, number in statuses.most_common()]
    again = [trial.status.replace("_", " ") for trial in study.trials.values() if trial.of is not None]
    others = Counter(status for status in again if status != "completed").most_common()
    but = f" ({', '.join(f'{number} {status}' for status, number in others)})" if others else ""
    more = f"; {plural(len(again), 'run')} of finalists with fresh seeds{but}" if again else ""
    return f"{plural(len(study.searched), 'trial')}: {', '.join(parts)}{more}" if parts else "no trials yet"


def copy_lines(study: Study) -> list[str]:
    """Which trials repeat another one's configuration; empty where none does, as in the studies of this release."""
    pairs = [f"{copy} (of {counted})" for copy, counted in sorted(copies(study).items())]
    more = ", ..." if len(pairs) > MOST else ""
    return (
        [f"copies of another trial's configuration, not counted: trial {', '.join(pairs[:MOST])}{more}"]
        if pairs
        else []
    )


def exhausted_lines(study: Study) -> list[str]:
    """That every configuration of the space has run, so that no budget would begin another trial."""
    header = study.header
    readable = header.spec_reading.exact and header.base_reading.exact
    if not readable or study.unfinished() or not (study.searched or study.earlier_trials):
        return []
    distinct = Distinct(header.spec, header.base)
    if not distinct.exhausted(study):
        return []
    n_before = len(distinct.taken_before(study) - distinct.taken(study))
    before = ""
    if n_before:
        before = f", {n_before} of them in {study.earlier_trials[0].study} (name them under start to run them here)"
    return [f"every configuration of the space has run{before}: no new trial can begin, whatever the budget"]


def cause_lines(study: Study, most: int = 3) -> list[str]:
    """Why the first `most` broken trials broke, a line each."""
    broken = [trial for trial in study.trials.values() if trial.status in BROKEN and trial.cause]
    causes = [f"trial {t.number} {t.status.replace('_', ' ')}: {_short(t.cause)}" for t in broken[:most]]
    more = [f"... and {len(broken) - most} more broke (--format json has every cause)"]
    return causes + (more if len(broken) > most else [])


def _short(cause: str) -> str:
    line = " ".join(cause.split())
    return line if len(line) <= 110 else line[:107] + "..."


def floor_lines(study: Study) -> list[str]:
    """The entropy floor of the corpus, the leader's gap to it, a warning for trials below it; empty without a floor.

    The floor in bits per byte is the same for every tokenizer, the one in perplexity is not.
    """
    floors = floors_of(study)
    if not floors:
        return []
    perplexities = [f"{units.score(floor['val_perplexity'])} ({name})" for name, floor in floors.items()]
    first = next(iter(floors.values()))
    perplexity = ", ".join(perplexities) if len(perplexities) > 1 else units.score(first["val_perplexity"])
    line = f"entropy floor: perplexity {perplexity}, {units.score(first['val_bits_per_byte'])} bits/byte"
    gaps = {trial.number: distance for trial in study.searched if (distance := _gap(study, trial, floors))}
    leader = best(study)
    if leader is not None and leader.number in gaps:
        gap, ratio = gaps[leader.number]
        line += f"; the leader is {abs(gap):.3g} {'above' if gap >= 0 else 'BELOW'} it ({ratio:.4g} × the floor)"
    under = ", ".join(str(number) for number, (low, _) in sorted(gaps.items()) if low < 0)
    alarm = f"WARNING: trial {under} is under the floor: nothing honest can be; look for a leak"
    return [line, alarm] if under else [line]


def floors_of(study: Study) -> dict[str, Mapping[str, float]]:
    """The entropy of the text, the least loss without a leak, by tokenizer and metric; empty if unknown."""
    data = study.header.data
    each = {name: tokenized.floor for name, tokenized in data.tokenizers.items()} or {data.tokenizer: data.floor}
    return {name: floor for name, floor in each.items() if floor}


def _gap(study: Study, trial: Trial, floors: Mapping[str, Mapping[str, float]]) -> tuple[float, float] | None:
    """A trial's objective against its floor: difference (on `Objective.rank`'s scale) and ratio; None if unknown."""
    value, floor = objective(study, trial), floors.get(str(trial.config.get("tokenizer")))
    if value is None or floor is None:
        return None
    target, least = objective_of(study), floor.get(objective_of(study).name)
    return None if least is None else (target.rank(value) - target.rank(least), value / least)


def mainrun_lines(study: Study) -> list[str]:
    """With `split: mainrun`: the leader in the metrics of the Mainrun task, and which of them is comparable."""
    leader = best(study)
    final = leader.final["metrics"] if leader is not None and leader.final is not None else {}
    if "val_nats_per_char" not in final:
        return []
    share = final["mainrun_coverage"]
    task_score = f"says {final['mainrun_nats_per_char']:.4f}" if "mainrun_nats_per_char" in final else "says nothing"
    return [
        f"Mainrun: the leader has {final['val_nats_per_char']:.4f} nats/char over the whole validation text (in the "
        f"search's own run); the task's evaluate() {task_score}, as it scores {share:.1%} of it: that depends on "
        "batch_size x block_size, so compare by nats/char"
    ]


def spread_lines(study: Study) -> list[str]:
    """The range of true tokens at each rung where it is not one number: trials' batch sizes differ."""
    tokens_at: dict[int, list[int]] = {}
    for trial in study.trials.values():
        for report in trial.reports:
            if report["rung"] is not None:
                tokens_at.setdefault(report["rung"], []).append(report["tokens"])
    spread = [
        f"{units.count(rung)} at {min(tokens):,}–{max(tokens):,}"
        for rung, tokens in sorted(tokens_at.items())
        if min(tokens) < max(tokens)
    ]
    return [f"rungs were reached at different tokens, as batch sizes differ: {'; '.join(spread)}"] if spread else []
