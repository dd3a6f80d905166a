"""`nanosweep samples`: one text from the same prompt by the best trial of each value of a key (`--by loss`).

A trial's run with a fresh seed is preferred to the searched run, which was selected for its low value. Each text is
sampled from the weights that the run's score is of, through the read-out of its own loss, with the same seed.
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
    """The sampling settings of every text."""

    prompt: str = ""
    max_new_tokens: int = 200
    temperature: float = 0.8
    seed: int = 1337


@dataclass(frozen=True)
class Sample:
    """The text of one value. source: the run that generated it, or why text is None."""

    value: str
    source: str
    text: str | None


def write(folder: Path, by: str | None, rule: Rule, allow_code: bool = False) -> list[Sample]:
    """A text from the best trial of each value, in the leaderboard's order; without `by` the leader's alone.

    allow_code: own losses and models may be imported.
    Raises UserError where the study has no such key, the prompt cannot be encoded, or no text can be written at all.
    """
    study = read_study(folder)
    if by is None:
        chosen: dict[str, Trial | None] = {"": export.choose(study)}
        groups = {"": study.searched}
    else:
        groups = by_value.grouped(study, by)
        chosen = {value: leader(study, trials) for value, trials in groups.items()}
    samples = [
        Sample(value, _explain_absence(groups[value]), None)
        if trial is None
        else _sample(study, folder, value, trial, rule, allow_code)
        for value, trial in sorted(chosen.items(), key=lambda item: _place(study, item[1]))
    ]
    if all(sample.text is None for sample in samples):
        raise UserError(
            "; ".join(f"{sample.value}: {sample.source}" if sample.value else sample.source for sample in samples[:1])
        )
    return samples


def _place(study: Study, trial: Trial | None) -> tuple[bool, float]:
    """A sort key: the leaderboard's order, values without a leader last."""
    means = fit(finalists(study)).means
    return (True, 0.0) if trial is None else (False, means.get(trial.number, score(study, trial)))


def _explain_absence(trials: list[Trial]) -> str:
    ends = Counter(trial.status.replace("_", " ") for trial in trials).most_common()
    return f"no trial of full length ({', '.join(f'{count} {status}' for status, count in ends)}), so nobody to write"


def _sample(study: Study, folder: Path, value: str, trial: Trial, rule: Rule, allow_code: bool) -> Sample:
    from trainer.sample import load

    runs = [run for run in (*study.again(trial.number), trial) if run.final is not None]
    kept = next((run for run in runs if _weights(folder, run).exists()), None)
    if kept is None:
        return Sample(value, _explain_lost_weights(folder, trial), None)
    trained = load(_weights(folder, kept), allow_code)
    text = trained.write(
        rule.prompt, 1, max_new_tokens=rule.max_new_tokens, temperature=rule.temperature, seed=rule.seed
    )[0]
    return Sample(value, _describe_run(study, trial, kept), text)


def _weights(folder: Path, run: Trial) -> Path:
    """The weights that a run's score is of: the last ones, or the best ones of an early-stopped run."""
    from trainer import checkpoint

    name = checkpoint.BEST if run.status == "early_stopped" else checkpoint.CHECKPOINT
    return trial_folder(folder, run.number) / name


def _explain_lost_weights(folder: Path, trial: Trial) -> str:
    study, file = shlex.quote(str(folder)), f"trial-{trial.number}.yaml"
    return (
        f"trial {trial.number} ({trial.name}) leads, but its weights are gone: those of the best trials are kept, and "
        f"of the best of each value that the spec compares (compare:). Train it again: nanosweep export {study} "
        f"--trial {trial.number} -o {file} && nanosweep train {file}, then nanosweep sample its run folder"
    )


def _describe_run(study: Study, trial: Trial, run: Trial) -> str:
    value, target = objective(study, run), objective_of(study)
    seed = f"fresh seed {run.config.get('seed')}, run {run.number}" if run.of is not None else "the search's own seed"
    score = "" if value is None else f"; {target.unit} {target.show(value)}"
    readout = TrainConfig.model_validate(run.config).chosen_readout
    return f"trial {trial.number} ({trial.name}; {seed}{score}; read through {readout})"


def render(samples: list[Sample]) -> str:
    """The samples as terminal text."""
    parts = []
    for sample in samples:
        head = ": ".join(word for word in (sample.value, sample.source) if word)
        parts.append(f"== {head}\n" + (f"{sample.text}\n" if sample.text is not None else ""))
    return "\n".join(parts)


def markdown(study: str, rule: Rule, samples: list[Sample]) -> str:
    """The samples as a Markdown page. study: its name."""
    settings = f"temperature {rule.temperature:g}, at most {rule.max_new_tokens} tokens, seed {rule.seed}"
    lines = [f"# {study}: samples", "", f"Prompt {rule.prompt!r}, {settings}.", ""]
    for sample in samples:
        lines += [f"## {sample.value or 'the leader'}", "", sample.source, ""]
        if sample.text is not None:
            longest = max(map(len, re.findall("`+", sample.text)), default=0)
            fence = "`" * max(3, longest + 1)
            lines += [f"{fence}text", sample.text, fence, ""]
    return "\n".join(lines)
