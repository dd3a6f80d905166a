"""Prepare a study: its data for each tokenizer, its lengths, an earlier study's trials; whether all of it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data.dataset import Dataset
from data.errors import UserError
from data.paths import working_directory
from search.run.own_code import OwnCode, try_all
from search.spec import own_code, points, space
from search.spec.check import check_length
from search.spec.places import blamed
from search.spec.study_spec import StudySpec
from search.strategy import warm_start
from search.strategy.advice import Facts
from search.strategy.distinct import Distinct
from search.study import header
from search.study.study import Study
from trainer.config import TrainConfig
from trainer.yaml_file import YamlFile

_POINTS = 1000  # of a larger space so many random ones are looked at


@dataclass(frozen=True)
class Prepared:
    """A study that may begin.

    base: with eval_tokens filled in; data: for the header; length: of the longest trial, shortest: of the shortest
    (they differ where max_tokens is searched); earlier_trials: an earlier study's, to be taken over into a
    study that has neither them nor trials of its own;
    own_code: the user's, which trials may import; precision: how `dtype: auto` was settled, see settle_dtype.py.
    """

    spec: StudySpec
    base: TrainConfig
    datasets: dict[str, Dataset]
    data: dict[str, Any]
    length: int
    shortest: int
    earlier_trials: list[dict[str, Any]]
    own_code: OwnCode = field(default_factory=OwnCode)
    precision: Mapping[str, Any] = field(default_factory=dict)

    def facts(self, slots: int | None) -> Facts:
        """For the notes on the study. slots: trials at once, where that is known."""
        train = min(dataset.train.n_targets for dataset in self.datasets.values())
        val = min(dataset.val.n_targets for dataset in self.datasets.values())
        return Facts(self.length, self.shortest, train, val, slots)

    def tokens(self, config: TrainConfig) -> int:
        """What a config trains on: its max_tokens, epochs counted out."""
        return config.length(self.datasets[config.tokenizer].train.n_targets)


def prepare(
    spec: StudySpec,
    base: TrainConfig,
    file: YamlFile,
    study: Study,
    show: bool = False,
    *,
    allow_code: bool = False,
    trains: bool = True,
) -> Prepared:
    """Prepare the corpus for each tokenizer, and see that spec, data and the study so far fit. Raises UserError.

    allow_code: whether the user's own code may be imported, which is then tried. trains: False for who only looks: the
    own code that trials would need may then be missing the permission.
    """
    from data.prepare import prepare as prepare_data
    from data.tokens import Batches

    digests = own_code.digests(spec, base, file)
    header.check_same_own_code(digests, study.header)
    if trains or allow_code:
        try_all(spec, base, file, allow_code)
    datasets = {}
    for name in space.tokenizers(spec, base):
        with blamed(file, spec, corpus=base.corpus, tokenizer=name, split=base.split):
            datasets[name] = prepare_data(base.corpus, name, base.split, progress=show, allow_code=allow_code)
    _check_models(spec, base, datasets, file)
    block_sizes = [base.block_size]
    for name, parameter in spec.space.items():
        values = points.candidates(name, parameter) if "block_size" in points.fields(name, parameter) else []
        block_sizes += [value.get("block_size", base.block_size) if parameter.linked else value for value in values]
    for dataset in datasets.values():
        with blamed(file, spec, block_size=max(block_sizes)):
            Batches(
                dataset.train, max(block_sizes), base.data_order, base.seed
            )  # raises for a corpus that is too short
        if base.data_order == "sequential":
            for block_size, batch_size, passes in _steps(spec, base):
                with blamed(file, spec, batch_size=batch_size, block_size=block_size):
                    Batches(dataset.train, block_size, base.data_order, base.seed, batch_size * passes)
        check_length(spec, base, dataset.train.n_targets, file)
    first = next(iter(datasets.values()))
    lengths = space.lengths(spec, base, first.train.n_targets)
    length, shortest = max(lengths), min(lengths)
    pinned = header.pin_eval_tokens(base, shortest)  # scoring stays cheap in every trial
    data = header.describe(datasets, pinned)
    header.check_same_data(data, study.header)
    begun = study.trials or study.earlier_trials
    earlier_trials = [] if begun else warm_start.take_over(spec, data, length, file, digests)
    if earlier_trials and Distinct(spec, pinned).exhausted(warm_start.begun_with(earlier_trials)):
        problem = (
            f"{spec.warm_start} has run every configuration of the space, so that none is left; name those to run here "
            "too under start, widen the space, or remove warm_start"
        )
        raise file.refusal(("warm_start",), problem, "exhausted", "warm_start", "space")
    own = OwnCode(allow_code, str(working_directory()), digests)
    return Prepared(spec, pinned, datasets, data, length, shortest, earlier_trials, own)


def _check_models(spec: StudySpec, base: TrainConfig, datasets: Mapping[str, Dataset], file: YamlFile) -> None:
    """See that the model of each config fits its tokenizer and the weights that it begins from, which are fetched.

    Of a space with more than 1,000 combinations of choices and ends 1,000 random ones. Raises UserError.
    """
    searched = {field for name, parameter in spec.space.items() for field in points.fields(name, parameter)}
    if base.init_from is None and base.vocab_size is None and searched.isdisjoint(("init_from", "vocab_size")):
        return  # nothing that might not fit
    values = {name: points.candidates(name, parameter) for name, parameter in spec.space.items()}
    seen: set[str] = set()
    for point in points.some_points(spec.space, values, _POINTS):
        try:
            config = space.configure(base, spec.space, point)
        except UserError:  # what no config allows is refused by `check`
            continue
        with blamed(file, spec, init_from=config.init_from, vocab_size=config.vocab_size):
            _check_model(config, datasets[config.tokenizer].n_classes, seen)


def _check_model(config: TrainConfig, n_classes: int, seen: set[str]) -> None:
    """seen: what has been looked at, with that of this config afterwards."""
    shape = config.shape(n_classes)
    key = repr((shape, config.init_from))
    if config.init_from is not None and key not in seen:
        from trainer.init import check  # loads torch

        check(shape, config.init_from, n_classes)
        seen.add(key)


def _steps(spec: StudySpec, base: TrainConfig) -> set[tuple[int, int, int]]:
    """block_size, batch_size and passes of a step, of the trials that there may be."""
    names = ("block_size", "batch_size", "gradient_accumulation_steps")
    values = {name: points.candidates(name, parameter) for name, parameter in spec.space.items()}
    steps = set()
    for point in points.some_points(spec.space, values, _POINTS):
        changes = points.assigned(spec.space, point)
        block_size, batch_size, passes = (changes.get(name, getattr(base, name)) for name in names)
        steps.add((block_size, batch_size, passes))
    return steps
