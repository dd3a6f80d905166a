"""`nanosweep finalize`: the finalists on the test split, once, when all has been chosen.

The test split is opened here and nowhere else, and nothing is chosen by what it says: the leader stays who it is. Each
finalist's runs with fresh seeds are scored from the weights that their last report was about. What is found stands in
the journal; asked again, that is printed and nothing is scored.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError
from search.results.standing import text_of
from search.stats.statistics import Standing, compare_trials, fit
from search.study.folder import held, trial_folder
from search.study.scores import finalists, objective_of
from search.study.study import Ledger, Study, Trial, read_study
from trainer.config import TrainConfig

if TYPE_CHECKING:
    from data.dataset import Dataset

TEST_SCORES = "test_scores.npz"


def finalize(folder: Path, allow_code: bool = False) -> Study:
    """Score what has not been scored yet, into the journal. Returns the study.

    allow_code: own losses and models may be imported, and an own corpus that is not cached may run.
    Raises UserError where there are no finalists, a driver still runs the study, the text has changed since, or there
    is no test split.
    """
    with held(folder):
        study = read_study(folder)
        left = [trial for trial in finalist_runs(study) if trial.test is None]
        if left:
            _score(folder, study, left, allow_code)
    return read_study(folder)


def finalist_runs(study: Study) -> list[Trial]:
    """The runs with fresh seeds that reached full length. Raises UserError when there are none."""
    name = study.header.name
    unfinished = [number for number in study.unfinished() if study.trials[number].of is not None]
    if unfinished:
        raise UserError(f"study {name}: {len(unfinished)} runs of finalists have not ended; `nanosweep run` goes on")
    found = [trial for trial in study.trials.values() if trial.of is not None and trial.final is not None]
    if not found:
        raise UserError(
            f"study {name} has no finalists: put `finalists: {{top: 4, seeds: 3}}` into its spec and run it again"
        )
    return found


def _score(folder: Path, study: Study, trials: list[Trial], allow_code: bool) -> None:
    from data.prepare import load_test
    from trainer.rescore import rescore

    datasets: dict[str, Dataset] = {}
    for trial in trials:  # all that can be wrong is found before anything is scored
        config = TrainConfig.model_validate(trial.config)
        if config.tokenizer not in datasets:
            datasets[config.tokenizer] = dataset_of(study, config, allow_code)
    tests = {name: load_test(data.path) for name, data in datasets.items()}
    ledger = Ledger(folder)
    try:
        for trial in trials:
            tokenizer = trial.config["tokenizer"]
            place = trial_folder(folder, trial.number)
            found = rescore(place, datasets[tokenizer], tests[tokenizer], allow_code)
            found.scores.save(place / TEST_SCORES)
            metrics = {
                "test_loss": found.loss,
                "test_perplexity": found.perplexity,
                "test_bits_per_byte": found.bits_per_byte,
                "test_accuracy": found.accuracy,
                "test_objective_loss": found.objective,
            }
            ledger.write("test", trial=trial.number, metrics=metrics)
    finally:
        ledger.close()


def dataset_of(study: Study, config: TrainConfig, allow_code: bool = False) -> Dataset:
    """The prepared corpus that the study ran on. allow_code: an own one that is not cached may run."""
    from data.prepare import prepare

    data = prepare(config.corpus, config.tokenizer, config.split, allow_code=allow_code)
    tokenized = study.header.data.tokenizers.get(config.tokenizer)
    known = study.header.data.hash if tokenized is None else tokenized.hash
    if data.hash != known:
        raise UserError(
            f"{data.corpus} has changed since the study ran (hash {known[:12]}, is now {data.hash[:12]}); "
            "bring the old text back"
        )
    return data


def on_test(study: Study) -> dict[int, Standing]:
    """What the test split says of each finalist, in the order that validation gave them; nothing before `finalize`.

    Values are those of the objective where differences are compared: nats per token, say.
    """
    target = objective_of(study)
    values: dict[int, list[float]] = {}
    for run in study.trials.values():
        value = (run.test or {}).get(target.test_name)
        if run.of is not None and value is not None:
            values.setdefault(run.of, []).append(target.compared(value))
    means = fit(finalists(study)).means
    order = sorted(values, key=lambda number: (means.get(number, math.inf), number))
    found = {one.number: one for one in compare_trials(values, text=text_of(study, order, name=TEST_SCORES))}
    return {number: found[number] for number in order}


def render(study: Study) -> str:
    """The finalists on the test split, in the order that validation gave them; with their value, where a spec
    compares values."""
    finalist_runs(study)
    target, found = objective_of(study), on_test(study)
    width = max(len(study.trials[number].group) for number in found) if found else 0
    lines = [f"study {study.header.name}: {target.unit} on the test split, 95 % over seeds and over the text"]
    for number, one in found.items():
        trial = study.trials[number]
        spans = [
            f"{name} {'–'.join(map(target.show, sorted((target.value(at.low), target.value(at.high)))))}"
            for name, at in (("seeds", one.seed), ("text", one.documents))
            if at is not None
        ]
        group = f"{trial.group:<{width}}  " if width else ""
        about = ", ".join([f"{one.runs} seeds", *spans])
        lines.append(f"{group}trial {number:<4} {target.show(target.value(one.value))}  ({about})  {trial.name}")
    return "\n".join([*lines, "the order is validation's; nothing was chosen by these numbers"]) + "\n"
