"""What is doubtful in a search that is valid: said by `plan` and at the start of `run`, by this one function. Pure.

A value that is wrong is an error (search.spec.check); one that is doubtful is a note here: what it does, and what to do
about it. A note costs trust where it is false: tests/test_search_advice.py holds that no ready spec gets one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from search.spec.points import candidates, fields, some_points
from search.spec.space import configure
from search.spec.study_spec import StudySpec
from search.strategy.distinct import Distinct
from search.strategy.groups import values
from trainer.config import TrainConfig
from trainer.units import count, plural
from trainer.yaml_file import RefusedError

_DECAYS = ("cosine", "linear")  # schedules that decay over the whole trial
_POINTS = 300  # of the space, of which a note may be true
# peak rates above which a step overwrites the weights instead of changing them: AdamW moves each weight by about the
# rate, Muon a whole matrix by about its own size
_HIGHEST_RATES = {"learning_rate": {"adamw": 0.3, "muon": 0.3, "sgd": 10.0}, "muon_learning_rate": {"muon": 1.0}}
_LEAST_MOVE = 1e-3  # rate x steps: AdamW moves no weight further, and fresh weights are of size 0.02
_MOST_EPOCHS = 10  # without dropout or early_stop
_FEWEST_STEPS = 10
_LEAST_VAL = 1000  # tokens: the standard error of a loss is then about 1.5 / sqrt(1000) = 5 %


@dataclass(frozen=True)
class Facts:
    """What a note depends on besides the spec.

    length, shortest: tokens of the longest and of the shortest trial. train_tokens, val_tokens: targets of the splits,
    of the tokenizer with the fewest. slots: trials at once; None where that is not known yet.
    """

    length: int
    shortest: int
    train_tokens: int
    val_tokens: int
    slots: int | None = None


def advice(spec: StudySpec, base: TrainConfig, facts: Facts) -> list[str]:
    """The notes, one line each, without a full stop."""
    configs = _configs(spec, base) or [base]
    return [
        *_on_data(spec, base, facts, configs),
        *_on_rates(configs, facts),
        *_on_length(spec, facts, configs),
        *_on_budget(spec, base, facts),
        *_on_rungs(spec, base, facts, configs),
    ]


def _configs(spec: StudySpec, base: TrainConfig) -> list[TrainConfig]:
    """Configs of the space: of choices every value, of ranges the ends."""
    options = {name: candidates(name, parameter) for name, parameter in spec.space.items()}
    configs = []
    for point in some_points(spec.space, options, _POINTS):
        try:
            configs.append(configure(base, spec.space, point))
        except RefusedError:  # a corner that the sampler would not propose either
            continue
    return configs


def _on_data(spec: StudySpec, base: TrainConfig, facts: Facts, configs: list[TrainConfig]) -> Iterator[str]:
    epochs = facts.length / facts.train_tokens
    guarded = any(config.dropout or config.early_stop for config in configs)
    if epochs > _MOST_EPOCHS and not guarded:
        yield (
            f"max_tokens: a trial of {count(facts.length)} tokens passes {epochs:.0f} times over a training text of "
            f"{count(facts.train_tokens)} and learns it by heart; give more text, lower max_tokens, or search dropout "
            "or set early_stop"
        )
    if facts.val_tokens < _LEAST_VAL:
        error = 150 / facts.val_tokens**0.5
        yield (
            f"corpus: a validation split of {count(facts.val_tokens)} tokens says a loss to about ± {error:.0f} %: "
            "differences below that are chance; give more text"
        )
    if spec.finalists is not None and base.split != "documents":
        yield (
            f"split: {base.split} has no test split, so nanosweep finalize will be refused and the finalists' scores "
            "are of the text that chose them; split: documents has one"
        )


def _on_rates(configs: list[TrainConfig], facts: Facts) -> Iterator[str]:
    for key, limits in _HIGHEST_RATES.items():
        high = [each for each in configs if getattr(each, key) > limits.get(each.optimizer, float("inf"))]
        if high:
            worst = max(high, key=lambda config: getattr(config, key) / limits[config.optimizer])
            yield (
                f"{key}: up to {getattr(worst, key):g} with optimizer {worst.optimizer}, which diverges above about "
                f"{limits[worst.optimizer]:g}; lower the range"
            )
    limits = _HIGHEST_RATES["learning_rate"]
    bearable = [each for each in configs if each.learning_rate <= limits.get(each.optimizer, 0)]
    decaying = [each for each in bearable if each.optimizer != "sgd" and each.learning_rate * each.weight_decay >= 1]
    if decaying:
        worst = max(decaying, key=lambda config: config.weight_decay)
        yield (
            f"weight_decay: {worst.weight_decay:g} at a rate of {worst.learning_rate:g} takes all of a weight away in "
            "each step; lower one of them"
        )
    adamw = [each for each in configs if each.optimizer == "adamw" and each.init_from is None]
    moves = [each.learning_rate * (facts.length / each.tokens_per_step) for each in adamw]
    if adamw and len(adamw) == len(configs) and max(moves) < _LEAST_MOVE:
        yield (
            f"learning_rate: at most {max(each.learning_rate for each in adamw):g} in a trial of "
            f"{count(facts.length)} tokens: fresh weights hardly move; raise it or max_tokens"
        )


def _on_length(spec: StudySpec, facts: Facts, configs: list[TrainConfig]) -> Iterator[str]:
    step = max(config.tokens_per_step for config in configs)
    if facts.shortest / step < _FEWEST_STEPS:
        steps = -(-facts.shortest // step)
        yield (
            f"max_tokens: a trial of {count(facts.shortest)} tokens has {steps} step{'s'[: steps > 1]} of "
            f"{count(step)} (batch_size x gradient_accumulation_steps x block_size); raise max_tokens or lower them"
        )
    every = max(config.eval_every or 0 for config in configs)
    if every > facts.shortest:
        yield (
            f"eval_every: {count(every)} exceeds a trial's {count(facts.shortest)} tokens, so it reports "
            f"{'at its end alone' if spec.stopping is None else 'at rungs and at its end alone'}; "
            "lower it, or use eval_every: null (a tenth of the trial)"
        )
    stopping = [(each.early_stop or 0, each.eval_every or facts.length // 10) for each in configs]
    late = {reports * every: reports for reports, every in stopping if reports * every >= facts.length}
    if late:
        yield (
            f"early_stop: {late[max(late)]} reports without a new best take {count(max(late))} tokens, and a trial has "
            f"{count(facts.length)}: it can stop none; lower it or eval_every"
        )


def _on_budget(spec: StudySpec, base: TrainConfig, facts: Facts) -> Iterator[str]:
    compared, trials = values(spec), spec.budget.trials
    affordable = None if spec.budget.tokens is None else spec.budget.tokens // facts.shortest
    if trials is not None and trials < len(compared):
        yield (
            f"budget.trials: {trials}, but {spec.compare} has {len(compared)} values to compare: "
            f"{len(compared) - trials} of them get no trial"
        )
    most_points = () if trials is None else (trials - 1,)
    n_points = None if spec.sampler == "grid" else Distinct(spec, base).count(*most_points)  # a grid is to be used up
    if n_points is not None:
        budget = "budget" if trials is None else f"budget.trials: {trials}"
        yield f"{budget}, but the space has {n_points} distinct configurations: the search ends once each has run"
    if affordable == 0:
        yield (
            f"budget.tokens: {count(spec.budget.tokens or 0)} is less than one trial of {count(facts.shortest)}, "
            "which runs to its end all the same; raise it or lower max_tokens"
        )
    top = 0 if spec.finalists is None else spec.finalists.top * max(1, len(compared))
    most = min(
        [n for n in (trials, n_points, (affordable or None) if spec.stopping is None else None) if n is not None],
        default=None,
    )
    if most is not None and top > most:
        yield (
            f"finalists.top: {top} of at most {plural(most, 'trial')}: all run again and none is chosen; lower "
            "top or raise the budget"
        )
    if facts.slots is not None and trials is not None and spec.sampler in ("tpe", "gp") and 1 < trials <= facts.slots:
        yield (
            f"budget.trials: all {trials} begin at once ({facts.slots} fit), so sampler: {spec.sampler} learns from "
            "none; raise it, or limit resources: {at_once: N}"
        )


def _on_rungs(spec: StudySpec, base: TrainConfig, facts: Facts, configs: list[TrainConfig]) -> Iterator[str]:
    if spec.scheduler is None:
        return
    name, settings = spec.scheduler.name, spec.scheduler.settings
    at_once = None if spec.resources is None else spec.resources.at_once
    if settings.cohort_size is not None and spec.sampler in ("tpe", "gp") and at_once != 1:
        yield (
            f"scheduler.{name}.mode: its decisions depend on no order of arrival, but sampler: {spec.sampler} proposes "
            "from what has ended by then; for equal winners in equal runs use sampler: random or grid, or resources: "
            "{at_once: 1}"
        )
    searched = {field for name, parameter in spec.space.items() for field in fields(name, parameter)}
    if settings.compares and base.schedule in _DECAYS and "schedule" not in searched:
        yield (
            f"schedule: {base.schedule} decays over the whole trial, so values at rungs say little about the end; "
            "wsd compares trials at the same rate (set: {schedule: wsd})"
        )
    warmup = min(config.warmup_frac for config in configs) * facts.shortest
    if settings.compares and warmup > settings.first_rung:
        yield (
            f"scheduler.{name}.first_rung: {count(settings.first_rung)} tokens are within every trial's warm-up "
            f"({count(round(warmup))}, by warmup_frac), where none has reached its rate; raise first_rung"
        )
    step = max(config.tokens_per_step for config in configs)
    if step > settings.first_rung:
        yield (
            f"scheduler.{name}.first_rung: {count(settings.first_rung)} tokens are within a trial's first step of "
            f"{count(step)}; raise first_rung"
        )
    compared, trials = values(spec), spec.budget.trials
    each = None if trials is None else -(-trials // max(1, len(compared)))
    for key, text in settings.advice(spec.rungs(facts.length), each):
        yield f"scheduler.{name}.{key}: {text}"
