"""`nanosweep plan`: what a spec would run, and whether it can. Prepares the data, as a search would; trains nothing."""

from __future__ import annotations

from typing import Any

from data.errors import UserError
from data.own_code import is_reference
from search.run import resources
from search.run.own_code import OwnCode
from search.run.prepare import Prepared, prepare
from search.spec import points, space
from search.spec.check import check
from search.spec.own_code import references
from search.spec.parameter import Parameter
from search.spec.start_points import known_points
from search.spec.study_spec import Budget, StudySpec
from search.strategy import groups, warm_start
from search.strategy.advice import advice
from search.strategy.distinct import Distinct
from search.study import header
from search.study.failures import failed_alike
from search.study.lookup import find_folder
from search.study.machine import this_machine
from search.study.study import Study, read_begun, read_study, spent
from search.tracking.tracker import open_tracker
from trainer import units
from trainer.config import TrainConfig
from trainer.units import plural
from trainer.yaml_file import YamlFile

_SHAPES = 200  # points whose parameters are counted; a larger space is sampled


def describe(spec: StudySpec, base: TrainConfig, file: YamlFile, allow_code: bool = False) -> str:
    """Lines of text. Raises UserError for whatever `run` would refuse before it starts Ray.

    allow_code: own code that the spec names may be imported, and is tried; without, a line says what was not looked at.
    """
    check(spec, base, file)
    share = resources.share(spec.resources, [this_machine()], file, base.device)
    folder = find_folder(spec.folder)
    study = read_study(folder) if folder else read_begun(spec.folder)
    header.check_same(spec, base, study.header)
    plan = prepare(spec, base, file, study, allow_code=allow_code, trains=False)
    classes = {name: dataset.n_classes for name, dataset in plan.datasets.items()}
    sizes = _parameters(spec, base, classes, plan.own_code)
    rungs = ", ".join(units.count(rung) for rung in spec.rungs(plan.length)) or "none: every trial runs to its end"
    each = f"{share.cpus:g} CPU" + (f", {share.gpus:g} GPU" if share.gpus else "")
    lines = {
        "study": f"{spec.study} in {spec.folder} ({_state(study, spec.budget)})",
        "data": "; ".join(_data(name, tokenized) for name, tokenized in plan.data["tokenizers"].items()),
        "space": f"{plural(len(spec.space), 'parameter')}, by {spec.sampler}{_points(plan, study)}{_turns(spec)}",
        **{_name(name, parameter): space.described(parameter) for name, parameter in spec.space.items()},
        **_start(spec),
        **_own_code(spec, base, allow_code),
        **_warm_start(plan, study),
        "trial": f"{_span([plan.shortest, plan.length])} tokens{_epochs(plan)}, {_span(sizes)} parameters",
        "rungs": rungs + _treatment(spec),
        "budget": _budget(spec.budget, plan.length, Distinct(spec, plan.base).count(spec.budget.trials or 0)),
        **_finalists(spec, plan.length),
        "tracking": open_tracker(spec.tracking, spec.folder).describe(),
        "machine": f"{plural(share.slots, 'trial')} at once, {each} each (this machine; a cluster may have more)",
    }
    width = max(len(key) for key in lines)
    notes = "".join(f"note: {line}\n" for line in advice(spec, plan.base, plan.facts(share.slots)))
    return "".join(f"{key:<{width}}  {text}\n" for key, text in lines.items()) + notes


def _name(name: str, parameter: Parameter) -> str:
    """A parameter's name, with the config key that it sets where that is another."""
    return f"  {name} ({parameter.field})" if parameter.field not in (None, name) else f"  {name}"


def _state(study: Study, budget: Budget) -> str:
    if not study.started:
        return "new"
    parts = [f"begun: {plural(len(study.searched), 'trial')}"]
    if alike := failed_alike(study):
        parts.append(f"{len(alike)} failed alike and begin again ({study.trials[alike[-1]].cause})")
    elif done := spent(study, budget):
        parts.append(f"its budget is used up: {done}")
    if unfinished := len(study.unfinished()):
        parts.append(f"{unfinished} to resume")
    return ", ".join(parts)


def _data(tokenizer: str, tokenized: dict[str, Any]) -> str:
    train, val = units.count(tokenized["train_tokens"]), units.count(tokenized["val_tokens"])
    return f"{tokenizer}: {train} tokens to train on, {val} to validate, {tokenized['classes']} classes"


def _treatment(spec: StudySpec) -> str:
    """What happens at the rungs."""
    if spec.stopping is None:
        return ""
    parts = spec.stopping.describe(spec.compare)
    parts += [f"{spec.stopping.exempt:.0%} of trials are exempt"] if spec.stopping.exempt else []
    return f"; {', '.join(parts)}"


def _finalists(spec: StudySpec, length: int) -> dict[str, str]:
    if spec.finalists is None:
        return {}
    top, n_groups = spec.finalists.top, len(groups.values(spec)) or 1
    most = n_groups * top * spec.finalists.seeds
    among = f" of each {spec.compare}" if spec.compare is not None else ""
    upto = "" if spec.compare is not None and top == 1 else "up to "
    again = f"the best {top}{among} again with {upto}{spec.finalists.seeds} fresh seeds"
    return {"finalists": f"{again}: at most {most} runs ({units.count(most * length)} tokens) after the search"}


def _points(plan: Prepared, study: Study) -> str:
    """How many distinct configurations the space has, and how many of them have not run, here or in `warm_start`."""
    distinct = Distinct(plan.spec, plan.base)
    n_points = distinct.count()
    if n_points is None:
        return ""
    if plan.earlier_trials:  # which the journal does not hold yet
        study = warm_start.begun_with(plan.earlier_trials)
    left = distinct.count(known=distinct.taken(study) | distinct.taken_before(study))
    return f", {n_points:,} distinct configurations" + (f", {left:,} of them left" if left != n_points else "")


def _turns(spec: StudySpec) -> str:
    """What comparing the values of a parameter means for the search."""
    if spec.compare is None:
        return ""
    each = f", about {spec.budget.trials / len(groups.values(spec)):.3g} trials each" if spec.budget.trials else ""
    return f"; the {len(groups.values(spec))} values of {spec.compare} take turns, each searched by itself{each}"


def _start(spec: StudySpec) -> dict[str, str]:
    points = "; ".join(space.readable(point) for point in known_points(spec))
    return {"start": f"first {points}"} if points else {}


def _warm_start(plan: Prepared, study: Study) -> dict[str, str]:
    """From the journal once it stands there, else from the earlier study itself."""
    spec = plan.spec
    if spec.warm_start is None:
        return {}
    if study.trials or study.earlier_trials:
        told = [(one.status, one.objective) for one in study.earlier_trials]
        return {"warm start": f"{spec.warm_start}: {warm_start.summary(told, spec.sampler)}"}
    told = [(one["status"], one["objective"]) for one in plan.earlier_trials]
    other = warm_start.other_base(spec, plan.base)
    note = f" (its base config is another: {other})" if other else ""
    return {"warm start": f"{spec.warm_start}: {warm_start.summary(told, spec.sampler)}{note}"}


def _own_code(spec: StudySpec, base: TrainConfig, allow_code: bool) -> dict[str, str]:
    named = ", ".join(f"{key} {reference}" for reference, key in references(spec, base).items())
    missing = "" if allow_code else "; not imported: --allow-code tries it, and run needs it"
    return {"own code": named + missing} if named else {}


def _parameters(spec: StudySpec, base: TrainConfig, classes: dict[str, int], own_code: OwnCode) -> list[int]:
    """Sizes of models that the space holds; of own ones only where they may be imported."""
    from search.run.trainable import count_parameters

    values = {name: points.candidates(name, parameter) for name, parameter in spec.space.items()}
    sizes: dict[str, int] = {}
    for point in points.some_points(spec.space, values, _SHAPES):
        try:
            config = space.configure(base, spec.space, point)
        except UserError:  # a corner that the sampler would not propose either
            continue
        if is_reference(config.model) and not own_code.allowed:
            continue
        n_classes = classes[config.tokenizer]
        shape = repr((config.shape(n_classes), config.model, config.model_params))
        if shape not in sizes:
            sizes[shape] = count_parameters(config, n_classes, own_code)
    return list(sizes.values())


def _epochs(plan: Prepared) -> str:
    """How often the longest trial passes over its training text, where that is more than once."""
    epochs = plan.length / plan.facts(None).train_tokens
    return f" ({'up to ' if plan.shortest < plan.length else ''}{epochs:.3g} epochs)" if epochs > 1 else ""


def _span(sizes: list[int]) -> str:
    if not sizes:
        return "an unknown number of"
    low, high = units.count(min(sizes)), units.count(max(sizes))
    return low if low == high else f"{low} to {high}"


def _budget(budget: Budget, length: int, n_points: int | None) -> str:
    """n_points: the configurations of the space, where they are fewer than the budget's trials."""
    parts = []
    if budget.trials is not None:
        most = min(budget.trials, n_points or budget.trials)
        parts.append(f"{plural(budget.trials, 'trial')} (at most {units.count(most * length)} tokens)")
    if budget.tokens is not None:
        parts.append(f"{units.count(budget.tokens)} tokens")
    if budget.hours is not None:
        parts.append(plural(budget.hours, "hour"))
    return " or ".join(parts) + (", whichever comes first" if len(parts) > 1 else "")
