"""`nanosweep samples`: the same prompt through the best trial of each value of a key, one text each (`--by loss`).

A trial's runs with fresh seeds come first: nobody picked those for being low. Each text is drawn from the weights that
the run's score is about, through the read-out of its own loss, with the same seed.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from search.results import by_value, export
from search.stats.statistics import fit
from search.study.folder import trial_folder
from search.study.scores import finalists, leader, objective, objective_of, score
from search.study.study import Study, Trial, read_study
from trainer.config import TrainConfig


@dataclass(frozen=True)
class Rule:
    """How every text is drawn."""

    prompt: str = ""
    max_new_tokens: int = 200
    temperature: float = 0.8
    seed: int = 1337


@dataclass(frozen=True)
class Sample:
    """One value's text. about: which run wrote it; text: None where there is none, and `about` says why."""

    value: str
    about: str
    text: str | None


def write(folder: Path, by: str | None, rule: Rule, allow_code: bool = False) -> list[Sample]:
    """A text from the best of each value, the leader's first; without `by` the leader's alone.

    allow_code: own losses and models may be imported.
    Raises UserError where the study has no such key, the prompt cannot be encoded, or no text can be written at all.
    """
    study = read_study(folder)
    if by is None:
        chosen: dict[str, Trial | None] = {"": export.choose(study)}
        kinds = {"": study.searched}
    else:
        kinds = by_value.grouped(study, by)
        chosen = {value: leader(study, trials) for value, trials in kinds.items()}
    found = [
        Sample(value, _nobody(kinds[value]), None)
        if trial is None
        else _sample(study, folder, value, trial, rule, allow_code)
        for value, trial in sorted(chosen.items(), key=lambda item: _place(study, item[1]))
    ]
    if all(one.text is None for one in found):
        raise UserError("; ".join(f"{one.value}: {one.about}" if one.value else one.about for one in found[:1]))
    return found


def _place(study: Study, trial: Trial | None) -> tuple[bool, float]:
    """In the leaderboard's order, those without a leader last."""
    means = fit(finalists(study)).means
    return (True, 0.0) if trial is None else (False, means.get(trial.number, score(study, trial)))


def _nobody(trials: list[Trial]) -> str:
    ends = Counter(trial.status.replace("_", " ") for trial in trials).most_common()
    return f"no trial of full length ({', '.join(f'{count} {status}' for status, count in ends)}), so nobody to write"


def _sample(study: Study, folder: Path, value: str, trial: Trial, rule: Rule, allow_code: bool) -> Sample:
    from trainer.sample import load

    runs = [run for run in (*study.again(trial.number), trial) if run.final is not None]
    known = next((run for run in runs if _weights(folder, run).exists()), None)
    if known is None:
        return Sample(value, _gone(folder, trial), None)
    trained = load(_weights(folder, known), allow_code)
    text = trained.write(
        rule.prompt, 1, max_new_tokens=rule.max_new_tokens, temperature=rule.temperature, seed=rule.seed
    )[0]
    return Sample(value, _about(study, trial, known), text)


def _weights(folder: Path, run: Trial) -> Path:
    """The file that a run's score is about: its last weights, but for one that ended itself."""
    from trainer import checkpoint

    name = checkpoint.BEST if run.status == "early_stopped" else checkpoint.CHECKPOINT
    return trial_folder(folder, run.number) / name


def _gone(folder: Path, trial: Trial) -> str:
    study, file = shlex.quote(str(folder)), f"trial-{trial.number}.yaml"
    return (
        f"trial {trial.number} ({trial.name}) leads, but its weights are gone: those of the best trials are kept, and "
        f"of the best of each value that the spec compares (compare:). Train it again: nanosweep export {study} "
        f"--trial {trial.number} -o {file} && nanosweep train {file}, then nanosweep sample its run folder"
    )


def _about(study: Study, trial: Trial, run: Trial) -> str:
    value, target = objective(study, run), objective_of(study)
    seed = f"fresh seed {run.config.get('seed')}, run {run.number}" if run.of is not None else "the search's own seed"
    score = "" if value is None else f"; {target.unit} {target.show(value)}"
    readout = TrainConfig.model_validate(run.config).chosen_readout
    return f"trial {trial.number} ({trial.name}; {seed}{score}; read through {readout})"


def render(found: list[Sample]) -> str:
    """For a terminal."""
    parts = []
    for one in found:
        head = ": ".join(word for word in (one.value, one.about) if word)
        parts.append(f"== {head}\n" + (f"{one.text}\n" if one.text is not None else ""))
    return "\n".join(parts)


def markdown(study: str, rule: Rule, found: list[Sample]) -> str:
    """A page. study: its name."""
    about = f"temperature {rule.temperature:g}, at most {rule.max_new_tokens} tokens, seed {rule.seed}"
    lines = [f"# {study}: samples", "", f"Prompt {rule.prompt!r}, {about}.", ""]
    for one in found:
        lines += [f"## {one.value or 'the leader'}", "", one.about, ""]
        if one.text is not None:
            longest = max(map(len, re.findall("`+", one.text)), default=0)
            fence = "`" * max(3, longest + 1)
            lines += [f"{fence}text", one.text, fence, ""]
    return "\n".join(lines)
