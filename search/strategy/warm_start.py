"""`warm_start:`, copies an earlier study's trials into a new study, once, as `prior` records of its journal.

From then on the new study depends only on its own journal: the earlier one may continue, move or be deleted. Only the
earlier study's own trials are copied, not those that it had copied itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from data.errors import UserError, nearest
from data.paths import at_home
from search.spec.points import Point, Space, assigned, exists, fields, ordered
from search.spec.start_points import own_value
from search.spec.study_spec import Sampler, StudySpec
from search.strategy.sampler import objectives, told_as
from search.study.header import differences
from search.study.journal import encode
from search.study.lookup import find_folder, names
from search.study.scores import BROKEN, distinct, objective, objective_of
from search.study.study import Study, Trial, fold_any, read_study
from trainer.config import TrainConfig
from trainer.units import count, plural
from trainer.yaml_file import YamlFile

# keys of the base config on hardware, evaluation, seed and length: they do not move the optimum
_ASIDE = ("eval_", "checkpoint_every", "device", "dtype", "compile", "seed", "max_tokens")


def take_over(
    spec: StudySpec,
    data: dict[str, Any],
    length: int,
    file: YamlFile | None = None,
    own_code: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The earlier trials for the `prior` record of `spec.warm_start`; none without one.

    data: of this study, as in its header; length: tokens of its full-length trials; file: the spec's, for line numbers.
    own_code: digests of the user's own code by reference, as in its header.
    A trial counts with its objective where it trained to this study's length, else with its scores at rungs. Points
    outside the present space and trials without any score are left out, except broken trials. Raises UserError when
    there is no such study, when it cannot be compared with this one, or when no trial is left.
    """
    if spec.warm_start is None:
        return []
    file = file or YamlFile(f"study {spec.study}", {}, {})
    where = f"{file.where(('warm_start',))}: {spec.warm_start}"
    earlier = _earlier(spec, where)
    _check_comparable(spec, data, earlier, where)
    _check_own_code(own_code or {}, earlier, where)
    name = earlier.header.name
    trials = distinct(earlier, earlier.searched)
    taken = [_taken(spec, earlier, trial, data, length, where) for trial in trials]
    kept = [{"study": name, **entry} for entry in taken if entry is not None]
    if not kept:
        raise UserError(
            f"{where}: none of its {plural(len(earlier.trials), 'trial')} has both a value and a point in the present "
            "space"
        )
    return kept


def _taken(
    spec: StudySpec, earlier: Study, trial: Trial, data: dict[str, Any], length: int, where: str
) -> dict[str, Any] | None:
    """One earlier trial as an entry of the `prior` record; None where this study cannot use it. Raises UserError."""
    point = _present(spec.space, trial.point)
    scores = objectives(trial, spec.objective)
    if point is None or not (scores or trial.status in BROKEN):
        return None
    tokens = _length(trial, data)
    ours = tokens if "max_tokens" in assigned(spec.space, point) else length
    if tokens > ours:
        raise UserError(
            f"{where}: its trials train on {count(tokens)} tokens, those of this study on {count(ours)}; what more "
            "training reached says nothing here: raise max_tokens, or name another study",
            kind="longer",
            keys="max_tokens",
        )
    full = objective(earlier, trial) if tokens == ours else None
    facts = {"trial": trial.number, "point": point, "status": trial.status, "tokens": tokens}
    facts["config"] = trial.config
    return {**facts, "scores": scores, "objective": full}


def _earlier(spec: StudySpec, where: str) -> Study:
    storage = spec.folder.parent
    place = str(spec.warm_start)
    folder = find_folder(place, storage)
    if place == spec.study or (folder or at_home(place)).resolve() == spec.folder:
        raise UserError(f"{where} is this study itself; it continues from its own trials anyway", kind="itself")
    if folder is None:
        others = [name for name in names(storage) if name != spec.study]
        hint = nearest(place, others) if others else "it holds no other study"
        problem = f"{where}: no such study in {storage}, and no folder of one; {hint}"
        raise UserError(problem, kind="missing", keys=place)
    return read_study(folder)


def _check_comparable(spec: StudySpec, data: dict[str, Any], earlier: Study, where: str) -> None:
    other = objective_of(earlier).name
    if other != spec.objective:
        problem = f"{where}: its objective is {other}, this study's {spec.objective}; use the same"
        raise UserError(problem, kind="conflict", keys="objective")
    theirs = earlier.header.data
    if theirs.hash != data["hash"]:
        raise UserError(
            f"{where}: its data are others ({theirs.corpus}, hash {theirs.hash[:12]}; here {data['corpus']}, hash "
            f"{data['hash'][:12]}); values on different text cannot be compared",
            kind="other_data",
        )
    searched, ours = set(earlier.header.spec_as_written.get("space") or {}), set(spec.space)
    parts = []
    if ours - searched:
        parts.append(f"it did not search {', '.join(sorted(ours - searched))}")
    if searched - ours:
        parts.append(f"it searched {', '.join(sorted(searched - ours))} too")
    if parts:
        problem = f"{where}: its space is another: {', and '.join(parts)}; both must search the same parameters"
        raise UserError(problem, kind="other_space", keys=tuple(sorted(ours ^ searched)))


def _check_own_code(digests: Mapping[str, str], earlier: Study, where: str) -> None:
    for reference, digest in digests.items():
        theirs = earlier.header.own_code.get(reference, digest)
        if theirs != digest:
            raise UserError(
                f"{where}: its trials ran other code of {reference} (sha256 {theirs[:12]}; here {digest[:12]}); they "
                "cannot be compared"
            )


def _present(space: Space, point: Point) -> Point | None:
    """An earlier study's point with this space's values; None where it lies outside the space."""
    present: Point = {}
    for name in ordered(space):
        if exists(space, name, present) != (name in point):
            return None
        if name not in point:
            continue
        try:
            present[name] = own_value(name, space[name], point[name])
        except ValueError:
            return None
    return {name: present[name] for name in space if name in present}


def _length(trial: Trial, data: dict[str, Any]) -> int:
    """The full length of an earlier trial in tokens, epochs converted. data: of this study, which is the same."""
    per_epoch = (data.get("tokenizers") or {}).get(trial.config["tokenizer"], {}).get("train_tokens", 0)
    return TrainConfig(max_tokens=trial.config["max_tokens"]).length(per_epoch)


def begun_with(trials: list[dict[str, Any]]) -> Study:
    """A study that has no trials but the earlier ones. trials: as `take_over` returns them."""
    prior = {"record": "prior", "time": 0.0, "trials": trials}
    return fold_any([json.loads(encode(prior))], "warm_start")


def summary(outcomes: Iterable[tuple[str, float | None]], sampler: Sampler) -> str:
    """A short text on the copied trials. outcomes: status and objective of each.

    >>> summary([("completed", 4.0), ("pruned", None), ("diverged", None)], "gp")
    '3 trials: 1 complete, 1 cut short, 1 broken; gp does not learn from those cut short'
    """
    kinds = Counter(told_as(status, value) for status, value in outcomes)
    counts = ((kinds["complete"], "complete"), (kinds["pruned"], "cut short"), (kinds["broken"], "broken"))
    text = ", ".join(f"{number} {word}" for number, word in counts if number)
    lost = "; gp does not learn from those cut short" if sampler == "gp" and kinds["pruned"] else ""
    total = kinds.total()
    return f"{total} trial{'s' * (total != 1)}: {text}{lost}"


def other_base(spec: StudySpec, base: TrainConfig) -> str:
    """A short text on differences between the base configs of the earlier study and this one, or the empty string.

    Searched keys and those of hardware, evaluation, seed and length do not count. A larger model, say, has lower values
    everywhere: earlier trials then show where the good region is, but not how good it is.
    """
    earlier = _earlier(spec, f"warm_start: {spec.warm_start}")
    searched = {field for name, parameter in spec.space.items() for field in fields(name, parameter)}
    changes = differences(earlier.header.base, base)
    texts = [text for key, text in changes if key not in searched and not key.startswith(_ASIDE)]
    return ", ".join(texts)
