"""From a study to a config that can be trained: the whole config, and as a block where it comes from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.errors import UserError
from search.results.standing import standings, sure
from search.stats.statistics import Standing
from search.study.scores import best, objective, objective_of
from search.study.study import Study, Trial
from trainer import provenance, units
from trainer.config import TrainConfig, dump
from trainer.criterion import names_own_code
from trainer.files import replace_text as replace_text  # other rooms write through this one, too
from trainer.provenance import Provenance

NAME = "best.yaml"


def best_config(study: Study, trial: int | None = None) -> TrainConfig:
    """The config of a trial; by default of the one that leads. Raises UserError as `choose` does."""
    return _config(choose(study, trial))


def choose(study: Study, trial: int | None = None) -> Trial:
    """The trial of that number, or the leader.

    Raises UserError when there is no such trial, or no trial has ended at full length.
    """
    name = study.header.name
    if trial is not None:
        if trial not in study.trials:
            numbers = sorted(study.trials)
            known = f"its trials are {numbers[0]} to {numbers[-1]}" if numbers else "it has no trials yet"
            raise UserError(f"study {name} has no trial {trial}; {known}")
        return study.trials[trial]
    leader = best(study)
    if leader is None:
        going = f"{len(study.trials)} trials, none of which has ended at full length"
        raise UserError(
            f"study {name} has no best trial yet ({going if study.trials else 'no trials'}); "
            "let it go on (nanosweep run), or choose one with --trial"
        )
    return leader


def text(study: Study, trial: int | None = None, found: list[Standing] | None = None) -> str:
    """YAML that `trainer.config.load` reads back to the trial's config, headed by its provenance.

    found: the trials' standings, where somebody has them.
    """
    chosen = choose(study, trial)
    config, block = dump(_config(chosen)), provenance.dump(provenance_of(study, chosen, found))
    permission = " --allow-code" if names_own_code(_config(chosen)) else ""
    comments = "".join(f"# {line}\n" for line in (title(study, chosen), *(f"{use}{permission}" for use in _USE)))
    return f"{comments}\n{block}\n{config}"


_USE = (
    "train it longer:  nanosweep train THIS_FILE --set max_tokens=100M",
    "on several GPUs:  torchrun --nproc_per_node=8 -m trainer THIS_FILE --set max_tokens=100M",
    "on a Ray cluster: nanosweep train THIS_FILE --workers 8 --set max_tokens=100M",
)


def title(study: Study, trial: Trial) -> str:
    """Which trial of which study, in a line."""
    leader = "best of" if best(study) is trial else "from"
    size = "" if trial.n_parameters is None else f"; {units.count(trial.n_parameters)} parameters"
    return f"nanosweep: {leader} study {study.header.name}, trial {trial.number} ({_line(trial.name)}){size}"


def provenance_of(study: Study, trial: Trial, found: list[Standing] | None = None) -> Provenance:
    """Where a trial's config comes from, and how sure its place is.

    found: the trials' standings, where somebody has them.
    """
    header, value = study.header, objective(study, trial)
    how_sure = ""
    if value is not None:
        how_sure = sure(study, trial.number, standings(study) if found is None else found)
    seconds = trial.reports[-1]["time"] if trial.reports else None
    return Provenance(
        study=header.name,
        trial=trial.number,
        name=_line(trial.name),
        parameters=trial.n_parameters,
        point=trial.point,
        leads=best(study) is trial,
        objective=objective_of(study).name,
        value=value,
        how_sure=how_sure,
        status=trial.status,
        tokens=trial.tokens,
        trained="" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)),
        corpus=header.data.corpus,
        data_hash=header.data.hash,
        commit=header.commit,
        dirty=header.dirty,
        own_code={name: digest for name, digest in header.own_code.items() if name in trial.config.values()},
    )


def write(study: Study, path: Path, trial: int | None = None, found: list[Standing] | None = None) -> None:
    """Write `text` to a file at once and whole. Raises UserError when the place cannot be written."""
    replace_text(path, text(study, trial, found))


def write_best(study: Study, folder: Path, found: list[Standing] | None = None) -> Path | None:
    """`best.yaml` in a study's folder; None, and nothing written, as long as no trial leads."""
    if best(study) is None:
        return None
    write(study, folder / NAME, found=found)
    return folder / NAME


def _config(trial: Trial) -> TrainConfig:
    try:
        return TrainConfig.model_validate(trial.config)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "config"
        raise UserError(
            f"trial {trial.number}: its config is not one of this release: {place}: {problem['msg']}; use that release"
        ) from None


def _line(value: Any) -> str:
    return " ".join(str(value).split())
