"""Cautions: warnings after a search, such as a best value at the edge of its range, each with its remedy. Pure.

They need the trials' results; warnings that the spec alone allows are in `search.strategy.advice`. No caution changes
a rank. Of equal configurations one counts.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from pydantic import ValidationError

from data.errors import UserError
from search.results.agreement import agreement
from search.results.attempt import NotComputed, attempt, lines
from search.results.leaderboard import order
from search.spec.parameter import Parameter
from search.spec.points import Space, number_kind, target, typed
from search.spec.study_spec import StudySpec
from search.strategy.groups import values
from search.study.scores import best, distinct, leader, objective, ranked
from search.study.study import Study, Trial
from trainer.config import TrainConfig, replace
from trainer.schedule import n_steps
from trainer.units import count

_EDGE = 0.05  # share of a range at each end that counts as its edge
_UNEQUAL = 2  # factor between numbers of trials, or between widths of ranges, that is unequal
_FEW = 4  # trials below which the range of their learning rates means nothing
# effect size and power: a parameter is called idle only if one that explains a quarter of the variance would be
# detected in at least 4 of 5 cases
_CLEAR, _POWER = 0.25, 0.8
_UNSEEN = 0.2  # p-value above which no effect was seen
_COMPARED = ("completed", "early_stopped", "pruned", "paused")


def cautions(study: Study, spec: StudySpec) -> list[str]:
    """One line per caution, without a full stop, the gravest first; empty while no trial has reached full length."""
    full = [trial for trial in distinct(study, study.searched) if objective(study, trial) is not None]
    if not full:
        return []
    idle = attempt(lambda: dict(_idle(study, spec)))
    named = {} if isinstance(idle, NotComputed) else idle
    space = {name: parameter for name, parameter in spec.space.items() if name not in named}
    alone = spec.compare is None
    return [
        *lines("edges of ranges", _edges if alone else _edges_of_each, study, space, full),
        *(
            lines("losses", _unequal_losses, study, full)
            if alone
            else lines("compared values", _unequal_groups, study, spec, full)
        ),
        *lines("rungs", _rungs, study),
        *lines("schedules", _schedules, distinct(study, study.searched)),
        *([f"parameters without effect: {idle}"] if isinstance(idle, NotComputed) else idle.values()),
    ]


def _best(study: Study, trials: Iterable[Trial]) -> Trial:
    """The trial with the best objective in the search (not over fresh seeds)."""
    return ranked(study, trials)[0]


# the best value at the edge of the searched range


def _edges(study: Study, space: Space, full: list[Trial]) -> Iterator[str]:
    leader = best(study) or _best(study, full)  # as in the leaderboard: fresh seeds decide first
    for name, parameter in space.items():
        if name in leader.point and (problem := _edge(name, parameter, leader, full)):
            yield f"{name}: the best trial has {_number(leader.point[name])}, {problem}"
    rates = {name: parameter for name, parameter in space.items() if target(name, parameter) == "learning_rate"}
    for loss in sorted({str(trial.config.get("loss")) for trial in full} - {str(leader.config.get("loss"))}):
        of_loss = [trial for trial in full if trial.config.get("loss") == loss]
        first = _best(study, of_loss)
        for name in rates.keys() & first.point.keys():
            if problem := _edge(name, rates[name], first, of_loss):
                yield f"{name}: the best trial of {loss} has {_number(first.point[name])}, {problem}"


def _edges_of_each(study: Study, space: Space, full: list[Trial]) -> Iterator[str]:
    """With `compare:` in the spec: the same for the best trial of each compared value."""
    for group in dict.fromkeys(trial.group for trial in full):
        of_group = [trial for trial in full if trial.group == group]
        first = leader(study, of_group) or _best(study, of_group)
        for name, parameter in space.items():
            if name in first.point and (problem := _edge(name, parameter, first, of_group)):
                yield f"{name}: the best trial of {group} has {_number(first.point[name])}, {problem}"


def _edge(name: str, parameter: Parameter, best: Trial, full: list[Trial]) -> str | None:
    """The warning, with a wider range to use, for a best value in the outer 5 % of its range, or at either end of a
    choice of three or more numbers; else None."""
    field = target(name, parameter)
    if parameter.linked or number_kind(field) is None:
        return None
    value, others = best.point[name], {trial.point[name] for trial in full if name in trial.point}
    choice = [option for option in parameter.choice or [] if isinstance(option, int | float)]
    if parameter.choice is not None and (len(choice) < 3 or len(choice) < len(parameter.choice)):
        return None
    low, high = (min(choice), max(choice)) if choice else parameter.log or parameter.uniform or []
    geometric = parameter.log is not None or (low > 0 and high / low >= 8 and bool(choice))
    scale: Callable[[float], float] = math.log if geometric else float
    back: Callable[[float], float] = _exp if geometric else float
    width = scale(high) - scale(low)
    if not 0 < width < math.inf:
        return None  # there is nothing between the ends, or more than numbers can hold
    place = (scale(value) - scale(low)) / width
    upper = place > 0.5
    inside = [other for other in others if (other < value if upper else other > value)]
    if min(place, 1 - place) > _EDGE or not inside:
        return None  # not at an edge, or no trial was further inside to compare with
    end, reach = (high, 1) if upper else (low, -1)
    further = width
    steps = sorted(map(scale, choice))
    if choice:
        further = 2 * (steps[-1] - steps[-2] if upper else steps[1] - steps[0])
    wanted = [back(scale(end) + reach * further / 2**halved) for halved in range(1, 7)]
    bounds = [bound for bound in (0.0, 1.0) if min(wanted[0], end) < bound < max(wanted[0], end)]
    whole = bool(choice) and number_kind(field) == "int"  # 2, 4, 8: the next is 16
    rounded = [round(value) if whole else _round(value, end, scale) for value in wanted if math.isfinite(value)]
    tries = [value for value in (*rounded[:1], *bounds, *rounded) if value is not None]
    wider = next((value for value in tries if (value - end) * reach > 0 and _takes(best, field, value)), None)
    if wider is None:
        return None  # the config allows no value beyond the edge
    if choice:
        return f"the {'largest' if upper else 'smallest'} of its choice: better ones may lie beyond; add {wider:g}"
    ends = f"{low:g}, {wider:g}" if upper else f"{wider:g}, {high:g}"
    kind = "log" if parameter.log is not None else "uniform"
    return (
        f"at the {'upper' if upper else 'lower'} edge of {kind}: [{low:g}, {high:g}]: better ones may "
        f"lie beyond; widen it to {kind}: [{ends}]"
    )


def _exp(value: float) -> float:
    """e to that power; infinite where it exceeds the largest number."""
    return math.exp(value) if value < 709 else math.inf


def _round(value: float, end: float, scale: Callable[[float], float]) -> float | None:
    """The roundest number about as far beyond the end of a range as the value is; None without one."""
    for digits in (1, 2, 3):
        rounded = float(f"{value:.{digits}g}")
        if rounded * value > 0 and scale(value) != scale(end):
            share = (scale(rounded) - scale(end)) / (scale(value) - scale(end))
            if 0.6 <= share <= 1.25:
                return rounded
    return None


def _takes(trial: Trial, field: str, value: float) -> bool:
    """Whether the trial's config may have the value in a field."""
    number = int(value) if number_kind(field) == "int" and value == int(value) else value
    try:
        typed(field, number)
        config = TrainConfig.model_validate(trial.config)
    except ValidationError:  # also a config of another release: what fits to it is not known
        return False
    try:
        replace(config, **{field: number})
    except UserError:
        return False
    return True


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2g}"


# losses


def _unequal_losses(study: Study, full: list[Trial]) -> Iterator[str]:
    """Losses with unequal numbers of trials or learning-rate ranges: better tuning alone can make one look better."""
    tried = Counter(str(trial.config["loss"]) for trial in distinct(study, study.searched) if "loss" in trial.config)
    if len(tried) < 2:
        return
    at_end = {loss: sum(trial.config.get("loss") == loss for trial in full) for loss in tried}
    if max(at_end.values()) > _UNEQUAL * min(at_end.values()):
        each = ", ".join(f"{loss} {at_end[loss]}" for loss in sorted(at_end, key=lambda loss: -at_end[loss]))
        yield (
            f"loss: trials at full length are unequal ({each}): the best of more is better by luck and tuning alone; "
            "give each about as many before comparing them (compare: loss in the spec, or a study for each)"
        )
    yield from _unequal_rates(study, tried)


def _unequal_groups(study: Study, spec: StudySpec, full: list[Trial]) -> Iterator[str]:
    """Compared values with unequal numbers of trials (a budget that ran out or `start` points can cause that), or with
    no full-length trial."""
    compared, tried = spec.compare, Counter(dict.fromkeys(values(spec), 0))
    tried.update(trial.group for trial in distinct(study, study.searched))
    if max(tried.values()) > _UNEQUAL * min(tried.values()):
        each = ", ".join(f"{group} {n}" for group, n in tried.most_common())
        yield f"{compared}: values had unequal numbers of trials ({each}); raise the budget before comparing them"
    if unfinished := [group for group in tried if all(trial.group != group for trial in full)]:
        yield (
            f"{compared}: no trial of {', '.join(unfinished)} came to its end, so nothing is known of it at its best; "
            "see why (nanosweep leaderboard), or give it more trials"
        )
    if compared == "loss":
        yield from _unequal_rates(study, tried)


def _unequal_rates(study: Study, tried: Iterable[str]) -> Iterator[str]:
    spans = {}
    for loss in tried:
        rates = [float(t.config["learning_rate"]) for t in study.searched if t.config.get("loss") == loss]
        if len(rates) >= _FEW:
            spans[loss] = math.log10(max(rates) / min(rates))
    if len(spans) > 1:
        wide, narrow = max(spans, key=lambda loss: spans[loss]), min(spans, key=lambda loss: spans[loss])
        if spans[wide] > _UNEQUAL * spans[narrow] and spans[wide] > 0.3:  # 0.3: under a factor of 2 is hardly a search
            yield (
                f"loss: learning rates of {wide} were searched over a factor {10 ** spans[wide]:.3g}, those of "
                f"{narrow} over {10 ** spans[narrow]:.3g}; search both alike before comparing them"
            )


# rungs and learning-rate schedules


def _rungs(study: Study) -> Iterator[str]:
    for row in agreement(study):
        if row.tau is not None and row.low is not None and row.low <= 0:
            yield (
                f"the rung at {count(row.rung)} tokens has not been seen to predict the final order (Kendall's tau "
                f"{row.tau:.2f}, {row.low:.2f} to {row.high:.2f}, {row.n} trials): what it stopped may have been "
                "good; raise first_rung, or more `exempt` trials to know"
            )


def _schedules(trials: list[Trial]) -> Iterator[str]:
    """Warm-up or decay shares of a trial that round to zero steps, and a warm-up of more than half the steps."""
    affected: dict[str, list[Trial]] = {}
    for trial in trials:
        for message in _schedule(trial):
            affected.setdefault(message, []).append(trial)
    for message, cases in affected.items():
        numbers = ", ".join(str(trial.number) for trial in cases[:3]) + (", ..." if len(cases) > 3 else "")
        yield message.format(f"{len(cases)} of {len(trials)} trials ({numbers})")


def _schedule(trial: Trial) -> Iterator[str]:
    config = trial.config
    if not isinstance(config.get("max_tokens"), int):
        return
    steps = n_steps(
        config["max_tokens"], config["batch_size"] * config["gradient_accumulation_steps"] * config["block_size"]
    )
    warmup = config["warmup_frac"]
    if warmup > 0 and round(warmup * steps) == 0:
        yield "warmup_frac: the warm-up of {} comes to no whole step: there is none; raise it or max_tokens"
    if warmup > 0.5:
        yield "warmup_frac: {} spend more than half of their steps warming up; lower it"
    if config["schedule"] == "wsd" and config["decay_frac"] > 0 and round(config["decay_frac"] * steps) == 0:
        yield "decay_frac: the decay of {} comes to no whole step: there is none; raise it or max_tokens"


# parameters without effect


def _idle(study: Study, spec: StudySpec) -> Iterator[tuple[str, str]]:
    """(parameter, caution) of each parameter without a visible effect, by the Kruskal-Wallis rank test.

    The sample is all compared trials.

    Stopped trials rank behind those that continued, as in the leaderboard: among the survivors alone even a decisive
    parameter shows no effect. A range is cut into thirds, so that an optimum in its middle is detected as well as a
    trend.
    """
    from scipy.stats import chi2, kruskal, ncx2

    compared = [
        trial
        for trial in distinct(study, order(study))
        if trial.status == "diverged" or (trial.status in _COMPARED and trial.reports)
    ]
    rank = {trial.number: place for place, trial in enumerate(compared)}
    for name, parameter in spec.space.items():
        if name == spec.compare:
            continue  # the study exists to compare its values
        samples = [sample for sample in _samples(name, parameter, compared, rank) if len(sample) >= 3]
        n, df = sum(map(len, samples)), len(samples) - 1
        if df < 1:
            continue
        power = ncx2.sf(chi2.isf(0.05, df), df, 3 / math.pi * n * _CLEAR / (1 - _CLEAR))  # power of the test
        p = kruskal(*samples).pvalue
        if power >= _POWER and p > _UNSEEN:
            yield (
                name,
                f"{name}: no difference seen among {n} trials (rank test of {len(samples)} groups, p = {p:.2g}; an "
                f"effect of {_CLEAR:.0%} of the spread would be seen in {math.floor(100 * power)} of 100 searches): "
                "fix it and search the others",
            )


def _samples(name: str, parameter: Parameter, trials: list[Trial], rank: dict[int, int]) -> list[list[int]]:
    """Ranks of the trials that have the parameter, a list per choice or per third of the tried values of a range."""
    having = [trial for trial in trials if name in trial.point]
    if parameter.choice is not None:
        values: dict[str, list[int]] = {}
        for trial in having:
            values.setdefault(repr(trial.point[name]), []).append(rank[trial.number])
        return list(values.values())
    having.sort(key=lambda trial: (trial.point[name], trial.number))
    cuts = [round(third * len(having) / 3) for third in range(4)]
    return [[rank[trial.number] for trial in having[a:b]] for a, b in itertools.pairwise(cuts)]
