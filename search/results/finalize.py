"""`nanosweep finalize`: score the finalists on the test split, once, after every choice has been made.

The test split is read here and nowhere else, and it decides nothing: validation has already chosen the leader. Each
finalist's runs with fresh seeds are scored with the weights that their last report scored. The results are written to
the journal; a second call prints them and scores nothing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError
from search.results.standing import text_of
from search.stats.statistics import Standing, compare_trials, fit
from search.study.folder import held, trial_folder
from search.study.ledger import Ledger
from search.study.scores import copies, finalists, objective_of
from search.study.study import Study, Trial, read_study
from trainer.config import TrainConfig
from trainer.config_paths import anchor
from trainer.units import plural

if TYPE_CHECKING:
    from data.dataset import Dataset

TEST_SCORES = "test_scores.npz"


def finalize(folder: Path, allow_code: bool = False) -> Study:
    """Score the finalists' runs that have no test metrics yet and write these to the journal. Returns the study.

    allow_code: own losses and models may be imported, and an own corpus may run where it is not prepared yet.
    Raises UserError without finalists, while a driver runs the study, where the corpus has changed since, or without
    a test split.
    """
    with held(folder):
        study = read_study(folder)
        left = [trial for trial in finalist_runs(study) if trial.test is None]
        if left:
            _score(folder, study, left, allow_code)
    return read_study(folder)


def finalist_runs(study: Study) -> list[Trial]:
    """The full-length runs with fresh seeds. Raises UserError when there are none or some have not ended."""
    name = study.header.name
    unfinished = [number for number in study.unfinished() if study.trials[number].of is not None]
    if unfinished:
        raise UserError(
            f"study {name}: {plural(len(unfinished), 'run')} of finalists to be continued first, by `nanosweep run`"
        )
    runs = [trial for trial in study.trials.values() if trial.of is not None and trial.final is not None]
    if not runs:
        if study.header.spec.finalists is not None:
            raise UserError(
                f"study {name}: no run of a finalist reached full length; `nanosweep leaderboard {name}` says why"
            )
        raise UserError(
            f"study {name} has no finalists: put `finalists: {{top: 4, seeds: 3}}` into its spec and run it again"
        )
    return runs


def _score(folder: Path, study: Study, trials: list[Trial], allow_code: bool) -> None:
    from data.prepare import load_test
    from trainer.rescore import rescore

    datasets: dict[str, Dataset] = {}
    for trial in trials:  # raise every possible error before scoring anything
        config = TrainConfig.model_validate(trial.config)
        if config.tokenizer not in datasets:
            datasets[config.tokenizer] = dataset_of(study, config, allow_code)
    tests = {name: load_test(data.path) for name, data in datasets.items()}
    ledger = Ledger(folder)
    try:
        for trial in trials:
            tokenizer = trial.config["tokenizer"]
            place = trial_folder(folder, trial.number)
            result = rescore(place, datasets[tokenizer], tests[tokenizer], allow_code)
            result.scores.save(place / TEST_SCORES)
            metrics = {
                "test_loss": result.loss,
                "test_perplexity": result.perplexity,
                "test_bits_per_byte": result.bits_per_byte,
                "test_accuracy": result.accuracy,
                "test_objective_loss": result.objective,
            }
            ledger.write("test", trial=trial.number, metrics=metrics)
    finally:
        ledger.close()


def dataset_of(study: Study, config: TrainConfig, allow_code: bool = False) -> Dataset:
    """The prepared corpus that the study ran on. allow_code: an own one may run where it is not prepared yet.

    Raises UserError where its hash has changed.
    """
    from data.prepare import prepare

    directory = study.header.directory  # a relative path is the driver's, wherever this command runs
    meant = anchor(config, Path(directory)) if directory else config
    data = prepare(meant.corpus, meant.tokenizer, config.split, allow_code=allow_code)
    tokenized = study.header.data.tokenizers.get(config.tokenizer)
    expected = study.header.data.hash if tokenized is None else tokenized.hash
    if data.hash != expected:
        raise UserError(
            f"{data.corpus} has changed since the study ran (hash {expected[:12]}, is now {data.hash[:12]}); "
            "bring the old text back"
        )
    return data


def on_test(study: Study) -> dict[int, Standing]:
    """Each finalist's standing on the test split, by number, in validation's order; empty before `finalize`.

    Values are on the objective's scale of differences (such as nats per token).
    """
    target = objective_of(study)
    values: dict[int, list[float]] = {}
    repeated = copies(study)
    for run in study.trials.values():
        value = (run.test or {}).get(target.test_name)
        if run.of is not None and run.of not in repeated and value is not None:
            values.setdefault(run.of, []).append(target.compared(value))
    means = fit(finalists(study)).means
    order = sorted(values, key=lambda number: (means.get(number, math.inf), number))
    standings = {
        standing.number: standing for standing in compare_trials(values, text=text_of(study, order, name=TEST_SCORES))
    }
    return {number: standings[number] for number in order}


def render(study: Study) -> str:
    """The finalists on the test split as text, in validation's order; with `compare:` in the spec, also each one's
    compared value. Raises UserError as `finalist_runs` does."""
    finalist_runs(study)
    target, standings = objective_of(study), on_test(study)
    width = max(len(study.trials[number].group) for number in standings) if standings else 0
    lines = [f"study {study.header.name}: {target.unit} on the test split, 95 % over seeds and over the text"]
    for number, standing in standings.items():
        trial = study.trials[number]
        spans = [
            f"{name} {'–'.join(map(target.show, sorted((target.value(interval.low), target.value(interval.high)))))}"
            for name, interval in (("seeds", standing.seed), ("text", standing.documents))
            if interval is not None
        ]
        group = f"{trial.group:<{width}}  " if width else ""
        details = ", ".join([f"{standing.runs} seeds", *spans])
        lines.append(f"{group}trial {number:<4} {target.show(target.value(standing.value))}  ({details})  {trial.name}")
    return "\n".join([*lines, "the order is validation's; nothing was chosen by these numbers"]) + "\n"
