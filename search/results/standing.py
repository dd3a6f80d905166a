"""A study's trials compared: who leads, by how much, and who cannot be told apart. Its files are read, nothing else.

The noise of the text needs each trial's per-document results (`scores.npz` in its folder); trials whose file is not
at hand are compared by their seeds alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.errors import UserError
from search.results import leaderboard
from search.results.leaderboard import Row
from search.stats.statistics import Standing, compare_trials
from search.study.folder import trial_folder
from search.study.scores import finalists, objective_of, score
from search.study.study import Study, Trial
from trainer import units
from trainer.resampling import RESAMPLES, Interval, Text, resample
from trainer.scores import SCORES, Scores, load

ByDocument = Callable[[Scores], tuple[np.ndarray, np.ndarray]]
MOST = 64  # trials compared, the best ones: the others' place matters to nobody


def standings(study: Study, numbers: list[int] | None = None, resamples: int = RESAMPLES) -> list[Standing]:
    """Full-length trials by group, the leader first. numbers: compare these alone (the best of each loss, say)."""
    full = {trial.number: value for trial in study.searched if math.isfinite(value := score(study, trial))}
    again = finalists(study)
    chosen = numbers if numbers is not None else sorted(full, key=lambda n: (n not in again, full[n], n))[:MOST]
    single = {number: full[number] for number in chosen if number in full and number not in again}
    compared = [number for number in chosen if number in again or number in single]
    return compare_trials(again, single, text_of(study, compared, resamples), compared)


def text_of(study: Study, numbers: list[int], resamples: int = RESAMPLES, name: str = SCORES) -> Text | None:
    """The trials on resampled documents, those whose documents are at hand; None where that is nobody.

    A finalist's documents are the means over its runs with fresh seeds.
    """
    known: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    by_document = objective_of(study).by_document
    if by_document is None:
        return None
    one_document = False
    for number in numbers:
        runs = [run for run in study.again(number) if run.final is not None] or [study.trials[number]]
        found = [scores for run in runs if (scores := _scores(study, run, name)) is not None]
        if len(found) == len(runs):
            known[number] = _mean(found, by_document)
            one_document = found[0].one_document
    sizes = {len(nll) for nll, _ in known.values()}
    return resample(known, one_document, resamples=resamples) if len(sizes) == 1 else None


def _scores(study: Study, trial: Trial, name: str) -> Scores | None:
    path = trial_folder(study.folder or Path(), trial.number) / name
    if study.folder is None or not path.exists():
        return None
    try:
        return load(path)
    except UserError:
        return None  # a file that cannot be read narrows what can be said, and no more


def _mean(found: list[Scores], by_document: ByDocument) -> tuple[np.ndarray, np.ndarray]:
    sums = [by_document(scores) for scores in found]
    return np.mean([numerator for numerator, _ in sums], axis=0), sums[0][1]


def rows(study: Study, found: list[Standing] | None = None) -> list[Row]:
    """The leaderboard's rows (`leaderboard.rows`), the groups first, each with what is known of its standing.

    found: from `standings`, where somebody has them already. For trials compared: seeds (fresh ones behind the value;
    0: the search's own run alone), value (their mean, or the search's), seed_low, seed_high, text_low, text_high (95 %
    intervals of it), difference, difference_low, difference_high (from the leader, as `Objective.difference` has
    them), group (None where no seed noise is known: text alone says nothing about luck).
    """
    found = standings(study) if found is None else found
    about = {standing.number: _about(study, standing, found) for standing in found}
    plain = {row["trial"]: row for row in leaderboard.rows(study)}
    order = [*(standing.number for standing in found), *(number for number in plain if number not in about)]
    return [{**plain[number], **about.get(number, dict.fromkeys(_KEYS))} for number in order]


_KEYS = (
    *("group", "seeds", "value", "seed_low", "seed_high", "text_low", "text_high"),
    *("difference", "difference_low", "difference_high"),
)


def _about(study: Study, standing: Standing, found: list[Standing]) -> Row:
    target = objective_of(study)
    blind = all(other.text_only or other.interval is None for other in found)
    seed_low, seed_high = _ends(standing.seed, target.value)
    text_low, text_high = _ends(standing.documents, target.value)
    low, high = _ends(standing.interval, target.difference)
    return {
        "group": None if blind else standing.group,
        "seeds": standing.runs,
        "value": target.value(standing.value),
        "seed_low": seed_low,
        "seed_high": seed_high,
        "text_low": text_low,
        "text_high": text_high,
        "difference": None if standing is found[0] else target.difference(standing.difference),
        "difference_low": low,
        "difference_high": high,
    }


def _ends(interval: Interval | None, shown: Callable[[float], float]) -> tuple[float | None, float | None]:
    """An interval of compared values as people read it, the smaller end first."""
    if interval is None:
        return None, None
    one, other = shown(interval.low), shown(interval.high)
    return min(one, other), max(one, other)


def lines(found: list[Standing]) -> list[str]:
    """What the numbers of a comparison mean, for people."""
    if len(found) < 2:
        return []
    if all(standing.text_only or standing.interval is None for standing in found):
        return [
            "one seed each: differences hold the choice of text alone, and their order may be luck "
            "(finalists: {top: 4, seeds: 3} in the spec, and the same command, tell)"
        ]
    tied = [standing for standing in found if standing.group == 1]
    told = f"{len(tied)} trials share first place: they cannot be told apart"
    if len(tied) == 1:
        told = "the leader's lead over every other is real"
    return [f"{told} (95 %, for all {len(found)} compared together; noise of seeds and of text)"]


def sure(study: Study, number: int, found: list[Standing]) -> str:
    """How sure a trial's place is, in a sentence."""
    about = {standing.number: standing for standing in found}
    if number not in about or not about[number].runs:
        return "one seed: another may place it elsewhere (finalists in the spec tell)"
    row, standing = _about(study, about[number], found), about[number]
    spans = [
        f"{units.score(row[f'{of}_low'])} to {units.score(row[f'{of}_high'])} {over}"
        for of, over in (("seed", "over seeds"), ("text", "over the text"))
        if row[f"{of}_low"] is not None
    ]
    mean = f"{objective_of(study).name} {units.score(row['value'])}, the mean of {standing.runs} fresh seeds"
    tied = [other.number for other in found if other.group == standing.group and other.number != number]
    if row["group"] is None:
        place = "nobody to compare it with"
    elif tied:
        place = f"cannot be told apart from trial{'s' * (len(tied) > 1)} {', '.join(map(str, tied))}"
    else:
        place = "told apart from every other" if standing.group == 1 else "nobody shares its place"
    return f"{mean} ({', '.join(spans)}; 95 %); {place}" if spans else f"{mean}; {place}"
