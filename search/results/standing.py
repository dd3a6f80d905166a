"""The standing of a study's trials: rank, difference from the leader, and ties (differences that are not significant).

Reads files of the study and writes none. Noise from the choice of text is estimated from per-document results
(`scores.npz` in a trial's folder); a trial without that file is compared by seed noise alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.errors import UserError
from search.results import leaderboard
from search.results.attempt import NotComputed, attempt
from search.results.leaderboard import Row
from search.stats.statistics import Standing, compare_trials
from search.study.folder import trial_folder
from search.study.scores import distinct, finalists, objective_of, score
from search.study.study import Study, Trial
from trainer import units
from trainer.resampling import RESAMPLES, Interval, Text, resample
from trainer.scores import SCORES, Scores, load

ByDocument = Callable[[Scores], tuple[np.ndarray, np.ndarray]]
MOST = 64  # trials compared, the best ones; nobody needs the exact place of the others


class Standings(list[Standing]):
    """Standings, the leader first. problems: lines on what of the comparison could not be computed."""

    problems: tuple[str, ...] = ()


def standings(study: Study, numbers: list[int] | None = None, resamples: int = RESAMPLES) -> Standings:
    """Standings of the full-length trials, the leader first; of equal configurations one counts. None, and a problem,
    where they cannot be compared.

    numbers: compare these trials alone (such as the best of each loss); default the best MOST. resamples: bootstrap
    resamples of the documents.
    """
    searched = study.searched if numbers is not None else distinct(study, study.searched)
    full = {trial.number: value for trial in searched if math.isfinite(value := score(study, trial))}
    again = finalists(study)
    chosen = numbers if numbers is not None else sorted(full, key=lambda n: (n not in again, full[n], n))[:MOST]
    single = {number: full[number] for number in chosen if number in full and number not in again}
    compared = [number for number in chosen if number in again or number in single]
    text = attempt(text_of, study, compared, resamples)
    ranked = attempt(compare_trials, again, single, None if isinstance(text, NotComputed) else text, compared)
    result = Standings([] if isinstance(ranked, NotComputed) else ranked)
    problems = {"intervals over the text": text, "the comparison of trials": ranked}
    result.problems = tuple(f"{what}: {why}" for what, why in problems.items() if isinstance(why, NotComputed))
    return result


def text_of(study: Study, numbers: list[int], resamples: int = RESAMPLES, name: str = SCORES) -> Text | None:
    """The bootstrap over documents of those trials whose per-document results exist.

    None where no trial has them, they are of different numbers of documents, or the objective has no per-document
    form. A finalist's results are means over its runs with fresh seeds. name: of the file in a trial's folder.
    """
    sums: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    by_document = objective_of(study).by_document
    if by_document is None:
        return None
    one_document = False
    for number in numbers:
        runs = [run for run in study.again(number) if run.final is not None] or [study.trials[number]]
        loaded = [scores for run in runs if (scores := _scores(study, run, name)) is not None]
        if len(loaded) == len(runs):
            sums[number] = _mean(loaded, by_document)
            one_document = loaded[0].one_document
    sizes = {len(nll) for nll, _ in sums.values()}
    return resample(sums, one_document, resamples=resamples) if len(sizes) == 1 else None


def _scores(study: Study, trial: Trial, name: str) -> Scores | None:
    path = trial_folder(study.folder or Path(), trial.number) / name
    if study.folder is None or not path.exists():
        return None
    try:
        return load(path)
    except UserError:
        return None  # an unreadable file costs the interval over the text, not the command


def _mean(runs: list[Scores], by_document: ByDocument) -> tuple[np.ndarray, np.ndarray]:
    pairs = [by_document(scores) for scores in runs]
    return np.mean([numerator for numerator, _ in pairs], axis=0), pairs[0][1]


def rows(study: Study, ranked: list[Standing] | None = None) -> list[Row]:
    """The rows of `leaderboard.rows`, the compared trials first, each with the columns of its standing.

    ranked: the result of `standings`, computed here if None. Columns, None for trials that were not compared: seeds
    (number of fresh seeds; 0: only the search's own run), value (mean over the fresh seeds, or the search's value),
    seed_low, seed_high, text_low, text_high (95 % intervals of value over seeds and over the text), difference,
    difference_low, difference_high (from the leader, on the scale of `Objective.difference`), group (trials of one
    group are tied; None where no seed noise was measured, as noise of the text alone does not show a lucky seed).
    """
    ranked = standings(study) if ranked is None else ranked
    details = {standing.number: _standing_row(study, standing, ranked) for standing in ranked}
    plain = {row["trial"]: row for row in leaderboard.rows(study)}
    order = [*(standing.number for standing in ranked), *(number for number in plain if number not in details)]
    return [{**plain[number], **details.get(number, dict.fromkeys(_KEYS))} for number in order]


_KEYS = (
    *("group", "seeds", "value", "seed_low", "seed_high", "text_low", "text_high"),
    *("difference", "difference_low", "difference_high"),
)


def _standing_row(study: Study, standing: Standing, ranked: list[Standing]) -> Row:
    target = objective_of(study)
    blind = all(other.text_only or other.interval is None for other in ranked)
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
        "difference": None if standing is ranked[0] else target.difference(standing.difference),
        "difference_low": low,
        "difference_high": high,
    }


def _ends(interval: Interval | None, shown: Callable[[float], float]) -> tuple[float | None, float | None]:
    """The ends of an interval converted by `shown`, the smaller first; (None, None) without an interval."""
    if interval is None:
        return None, None
    first, second = shown(interval.low), shown(interval.high)
    return min(first, second), max(first, second)


def lines(ranked: list[Standing]) -> list[str]:
    """What the comparison shows: a significant lead, a tie or too few seeds; nothing for under two trials. And what of
    it could not be computed."""
    problems = list(ranked.problems) if isinstance(ranked, Standings) else []
    return problems + _verdict(ranked)


def _verdict(ranked: list[Standing]) -> list[str]:
    if len(ranked) < 2:
        return []
    if all(standing.text_only or standing.interval is None for standing in ranked):
        return [
            "one seed each: differences hold the choice of text alone, and their order may be luck "
            "(finalists: {top: 4, seeds: 3} in the spec, and the same command, tell)"
        ]
    tied = [standing for standing in ranked if standing.group == 1]
    verdict = f"{len(tied)} trials share first place: they cannot be told apart"
    if len(tied) == 1:
        verdict = "the leader's lead over every other is real"
    return [f"{verdict} (95 %, for all {len(ranked)} compared together; noise of seeds and of text)"]


def describe_place(study: Study, number: int, ranked: list[Standing]) -> str:
    """How certain a trial's place is, in a sentence: its mean with intervals, and which trials it is tied with."""
    by_number = {standing.number: standing for standing in ranked}
    if number not in by_number or not by_number[number].runs:
        return "one seed: another may place it elsewhere (finalists in the spec tell)"
    row, standing = _standing_row(study, by_number[number], ranked), by_number[number]
    spans = [
        f"{units.score(row[f'{of}_low'])} to {units.score(row[f'{of}_high'])} {over}"
        for of, over in (("seed", "over seeds"), ("text", "over the text"))
        if row[f"{of}_low"] is not None
    ]
    mean = f"{objective_of(study).name} {units.score(row['value'])}, the mean of {standing.runs} fresh seeds"
    tied = [other.number for other in ranked if other.group == standing.group and other.number != number]
    if row["group"] is None:
        place = "nobody to compare it with"
    elif tied:
        place = f"cannot be told apart from trial{'s' * (len(tied) > 1)} {', '.join(map(str, tied))}"
    else:
        place = "told apart from every other" if standing.group == 1 else "nobody shares its place"
    return f"{mean} ({', '.join(spans)}; 95 %); {place}" if spans else f"{mean}; {place}"
