"""From a study to a config that can be trained: the whole config, and as comments where it comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.errors import UserError
from search.results.standing import standings, sure
from search.stats.statistics import Standing
from search.study.scores import best, objective, objective_of
from search.study.study import Study, Trial
from search.study.study_record import UNKNOWN
from trainer import units
from trainer.config import TrainConfig, dump
from trainer.files import replace_text as replace_text  # other rooms write through this one, too

NAME = "best.yaml"


@dataclass(frozen=True)
class Origin:
    """Where a config that was exported comes from. data: the hash of what its trial was trained on."""

    study: str
    trial: int
    data: str


def origin(config: Path) -> Origin | None:
    """What the comments of an exported config say of its study; None for one that is nobody's export."""
    said = "".join(line for line in config.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    title = re.search(r"^# nanosweep: (?:best of|from) study (.+), trial (\d+) \(", said, re.M)
    data = re.search(r"^# data: .*, hash (\w+)$", said, re.M)
    return Origin(title[1], int(title[2]), data[1] if data else "") if title else None


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
    config = dump(_config(chosen))
    return "\n".join(f"# {line}".rstrip() for line in provenance(study, chosen, found)) + "\n\n" + config


def title(study: Study, trial: Trial) -> str:
    """Which trial of which study, in a line."""
    leader = "best of" if best(study) is trial else "from"
    size = "" if trial.n_parameters is None else f"; {units.count(trial.n_parameters)} parameters"
    return f"nanosweep: {leader} study {study.header.name}, trial {trial.number} ({_line(trial.name)}){size}"


def provenance(study: Study, trial: Trial, found: list[Standing] | None = None) -> list[str]:
    """Where a config comes from, how sure its place is, and how to use it, one fact a line."""
    data, value, name = study.header.data, objective(study, trial), objective_of(study).name
    if value is not None:
        score = f"{name} {value:.6g} on the full validation split, after {trial.tokens:,} tokens"
    else:
        last = trial.reports[-1]["metrics"].get(name) if trial.reports else None
        seen = "" if last is None else f" ({name} {last:.6g} on the subset)"
        score = f"none: {trial.status} after {trial.tokens:,} tokens{seen}"
    found = standings(study) if found is None else found
    return [
        title(study, trial),
        f"objective: {score}",
        *([f"how sure: {sure(study, trial.number, found)}"] if value is not None else []),
        f"commit: {study.header.code}",
        f"data: {data.corpus}, hash {data.hash or UNKNOWN}",
        "",
        "train it longer:  nanosweep train THIS_FILE --set max_tokens=100M",
        "on several GPUs:  torchrun --nproc_per_node=8 -m trainer THIS_FILE --set max_tokens=100M",
        "on a Ray cluster: nanosweep train THIS_FILE --workers 8 --set max_tokens=100M",
    ]


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
