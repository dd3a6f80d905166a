"""`nanosweep export`: a trial's complete config as YAML, with its provenance in a block of its own."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.errors import UserError
from search.results import table
from search.results.attempt import NotComputed, attempt
from search.results.standing import describe_place, standings
from search.stats.statistics import Standing
from search.study.scores import best, objective, objective_of
from search.study.study import Study, Trial, read_study
from trainer import provenance, units
from trainer.config import TrainConfig, dump, plain, replace
from trainer.config_paths import anchor
from trainer.criterion import names_own_code
from trainer.files import replace_text
from trainer.provenance import Provenance
from trainer.units import plural

NAME = "best.yaml"


def best_config(study: Study, trial: int | None = None) -> TrainConfig:
    """The config of a trial, default the leader. Raises UserError as `choose`, and for another release's config."""
    return _config(study, choose(study, trial))


def choose(study: Study, trial: int | None = None) -> Trial:
    """The trial of that number, or the leader.

    Raises UserError when there is no such trial, or no leader because no trial has reached full length.
    """
    name = study.header.name
    if trial is not None:
        if trial not in study.trials:
            numbers = sorted(study.trials)
            choices = f"its trials are {numbers[0]} to {numbers[-1]}" if numbers else "it has no trials yet"
            raise UserError(f"study {name} has no trial {trial}; {choices}", kind="unknown", keys=str(trial))
        return study.trials[trial]
    leader = best(study)
    if leader is None:
        progress = f"{plural(len(study.trials), 'trial')}, none of which has ended at full length"
        raise UserError(
            f"study {name} has no best trial yet ({progress if study.trials else 'no trials'}); "
            "let it continue (nanosweep run), or choose one with --trial",
            kind="no_best",
        )
    return leader


def text(study: Study, trial: int | None = None, ranked: list[Standing] | None = None) -> str:
    """YAML that `trainer.config.load` reads back to the trial's config, headed by its provenance.

    ranked: the standings of the trials, computed here if None. Raises UserError as `best_config` does.
    """
    chosen = choose(study, trial)
    config = _as_asked(study, chosen)
    origin = provenance_of(study, chosen, ranked).model_copy(update={"config": plain(config)})
    permission = " --allow-code" if names_own_code(config) else ""
    comments = "".join(f"# {line}\n" for line in (title(study, chosen), *(f"{use}{permission}" for use in _USE)))
    return f"{comments}\n{provenance.dump(origin)}\n{dump(config)}"


_USE = (
    "train it longer:  nanosweep train THIS_FILE --set max_tokens=100M",
    "on several GPUs:  torchrun --nproc_per_node=8 -m trainer THIS_FILE --set max_tokens=100M",
    "on a Ray cluster: nanosweep train THIS_FILE --workers 8 --set max_tokens=100M",
)


def title(study: Study, trial: Trial) -> str:
    """One line: the trial, its study, its point and its number of parameters."""
    leader = "best of" if best(study) is trial else "from"
    size = "" if trial.n_parameters is None else f"; {units.count(trial.n_parameters)} parameters"
    return f"nanosweep: {leader} study {study.header.name}, trial {trial.number} ({_single_line(trial.name)}){size}"


def provenance_of(study: Study, trial: Trial, ranked: list[Standing] | None = None) -> Provenance:
    """The provenance of a trial's config, with how certain its place in the study is.

    ranked: the standings of the trials, computed here if None.
    """
    header, value = study.header, objective(study, trial)
    how_sure = ""
    if value is not None:
        ranked = standings(study) if ranked is None else ranked
        how_sure = str(attempt(describe_place, study, trial.number, ranked))
    seconds = trial.reports[-1]["time"] if trial.reports else None
    tokenized = header.data.tokenizers.get(str(trial.config.get("tokenizer")))
    data_hash = "" if tokenized is None else tokenized.hash
    return Provenance(
        study=header.name,
        trial=trial.number,
        name=_single_line(trial.name),
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
        own_data_hash="" if data_hash == header.data.hash else data_hash,
        commit=header.commit,
        dirty=header.dirty,
        dtype=str(header.precision.get("dtype", "")),
        own_code={name: digest for name, digest in header.own_code.items() if name in trial.config.values()},
    )


def write(study: Study, path: Path, trial: int | None = None, ranked: list[Standing] | None = None) -> None:
    """Write `text` to a file atomically. Raises UserError as `text` does, or when the file cannot be written."""
    replace_text(path, text(study, trial, ranked))


def write_best(study: Study, folder: Path, ranked: list[Standing] | None = None) -> Path | None:
    """Write `best.yaml` into a study's folder and return its path; None, and no file, while there is no leader."""
    if best(study) is None:
        return None
    write(study, folder / NAME, ranked=ranked)
    return folder / NAME


def write_results(folder: Path) -> None:
    """best.yaml and leaderboard.md of a study that has just run, before all that is drawn of it. A table that cannot be
    written is said. Raises UserError as `write` does."""
    study = read_study(folder)
    ranked = standings(study)
    write_best(study, folder, ranked)
    written = attempt(lambda: replace_text(folder / "leaderboard.md", table.markdown(study, ranked=ranked)))
    if isinstance(written, NotComputed):
        print(f"nanosweep: {folder / 'leaderboard.md'} was not written: {written.reason}", file=sys.stderr)


def _as_asked(study: Study, trial: Trial) -> TrainConfig:
    """The trial's config, with `dtype: auto` where the study settled it for its CPUs: a full run decides for its own
    machine, and on a GPU float32 would be several times slower."""
    config, settled = _config(study, trial), study.header.precision.get("dtype")
    return replace(config, dtype="auto") if settled is not None and config.dtype == settled else config


def _config(study: Study, trial: Trial) -> TrainConfig:
    """The trial's config, its relative paths made absolute: the file may be used from anywhere."""
    try:
        config = TrainConfig.model_validate(trial.config)
        return anchor(config, Path(study.header.directory)) if study.header.directory else config
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "config"
        raise UserError(
            f"trial {trial.number}: its config is not one of this release: {place}: {problem['msg']}; use that release",
            kind="other_release",
            keys=place,
        ) from None


def _single_line(value: Any) -> str:
    return " ".join(str(value).split())
