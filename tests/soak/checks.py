"""What must be true of a study at its end, whatever was done to it. Each check returns what is wrong, as lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.spec.study_spec import StudySpec
from search.strategy.sampler import Sampler
from search.study.journal import ENDED, FULL, INACTIVE, Record
from search.study.scores import objective
from search.study.study import Study
from search.tracking.mlflow_facts import RUN_STATUS
from tests.soak.alone import Numbers, numbers
from trainer.config import TrainConfig

Wrong = list[str]


def of(records: list[Record], kind: str) -> list[Record]:
    return [record for record in records if record["record"] == kind]


def points(records: list[Record], spec: StudySpec, base: TrainConfig) -> Wrong:
    """Each trial number once, in order, with the point that seed and number give."""
    made = of(records, "point")
    numbers = [record["trial"] for record in made]
    wrong = [] if numbers == list(range(spec.budget.trials or 0)) else [f"trial numbers: {numbers}"]
    sampler = Sampler(spec, base)
    return wrong + [
        f"trial {record['trial']} has another point: {record['point']}"
        for record in made
        if record["point"] != sampler.ask(record["trial"], Study())
    ]


def endings(records: list[Record], study: Study) -> Wrong:
    """Each trial ends once, or pauses for good; nothing is written of it after its end."""
    wrong, over = [], set()
    for record in records:
        number = record.get("trial")
        if number in over:
            wrong.append(f"trial {number} has ended, then: {record['record']} {record.get('status', '')}")
        elif record.get("status") in ENDED:
            over.add(number)
    return wrong + [f"trial {t.number} is {t.status}" for t in study.trials.values() if t.status not in INACTIVE]


def failures(study: Study) -> Wrong:
    """What failed, failed for its config: its vocabulary is too small."""
    return [
        f"trial {trial.number} (vocab_size {trial.config['vocab_size']}) is {trial.status}: {trial.cause}"
        for trial in study.trials.values()
        if (trial.status == "failed") != (trial.config["vocab_size"] == 3) or trial.status == "out_of_memory"
    ]


def progress(records: list[Record]) -> Wrong:
    """A trial's reports grow; when it runs again it continues from its last checkpoint: every report wrote one."""
    wrong: Wrong = []
    last: dict[int, int] = {}
    for record in records:
        number, tokens = record.get("trial", -1), record.get("tokens", 0)
        if record["record"] == "report":
            if tokens <= last.get(number, 0):
                wrong.append(f"trial {number} reports {tokens} tokens after {last[number]}")
            last[number] = tokens
        elif record.get("status") == "running" and tokens != last.get(number, 0):
            wrong.append(f"trial {number} runs from {tokens} tokens, had reported {last.get(number, 0)}")
            last[number] = tokens
    return wrong


def decisions(records: list[Record]) -> Wrong:
    """One word per trial and rung, and perhaps a promotion after a pause; not a word without a report."""
    wrong: Wrong = []
    made: dict[tuple[Any, Any], str] = {}
    known = set()
    for record in records:
        place = record.get("trial", -1), record.get("rung")
        if record["record"] == "report":
            known.add(place)
        elif record["record"] == "decision":
            if place not in known or made.get(place) != ("pause" if record["action"] == "promote" else None):
                wrong.append(f"trial {place[0]}, rung {place[1]}: {record['action']} after {made.get(place)}")
            made[place] = record["action"]
    return wrong


def values(study: Study, alone: dict[int, Numbers], only_full: bool = False) -> Wrong:
    """Every report of every trial, to the last bit. only_full: of those that ran to their end."""
    wrong = []
    for trial in study.trials.values():
        if not trial.reports or (only_full and trial.status not in FULL):
            continue
        here, there = numbers(trial), alone.get(trial.number, [])
        if repr([(n, sorted(m.items())) for n, m in here]) != repr([(n, sorted(m.items())) for n, m in there]):
            wrong.append(f"trial {trial.number} ({trial.status}): {_difference(here, there)}")
    return wrong


def _difference(here: Numbers, there: Numbers) -> str:
    for (tokens, mine), (other_tokens, its) in zip(here, there, strict=False):
        if tokens != other_tokens:
            return f"reports at {tokens} tokens, alone at {other_tokens}"
        for name in sorted({*mine, *its}):
            if repr(mine.get(name)) != repr(its.get(name)):
                return f"{name} at {tokens} tokens is {mine.get(name)}, alone {its.get(name)}"
    return f"{len(here)} reports, alone {len(there)}"


def files(folder: Path) -> Wrong:
    """Nothing half written is left in the trials' folders."""
    return [str(path.relative_to(folder)) for path in folder.glob("trials/*/.*")]


def mlflow(study: Study, uri: str) -> Wrong:
    """One finished parent; each trial once below it, as the journal has it; nothing that still runs."""
    from search.tracking.mlflow_runs import PARENT, TRIAL
    from search.tracking.mlflow_store import connect

    client = connect(uri)
    runs: list[Any] = []
    for experiment in client.search_experiments():
        runs += client.search_runs([experiment.experiment_id], max_results=10_000)
    wrong = [f"run {run.info.run_name} is RUNNING" for run in runs if run.info.status == "RUNNING"]
    parents = [run for run in runs if PARENT not in run.data.tags]
    if [run.info.status for run in parents] != ["FINISHED"]:
        wrong.append(f"parent runs: {[run.info.status for run in parents]}")
    children = [run for run in runs if parents and run.data.tags.get(PARENT) == parents[0].info.run_id]
    numbers = sorted(int(run.data.tags[TRIAL]) for run in children)
    if numbers != sorted(study.trials) or len(runs) != len(parents) + len(children):
        wrong.append(f"{len(runs)} runs; child runs of trials {numbers}")
    for run in children:
        trial = study.trials[int(run.data.tags[TRIAL])]
        known = (run.info.status, run.data.tags.get("status"), run.data.metrics.get("objective"))
        if known != (RUN_STATUS[trial.status], trial.status, objective(study, trial)):
            wrong.append(f"trial {trial.number} is {trial.status}, {objective(study, trial)}; MLflow says {known}")
        history = client.get_metric_history(run.info.run_id, "val_perplexity") if trial.reports else []
        sent = sorted((metric.step, metric.value) for metric in history)
        if sent != [(report["tokens"], report["metrics"]["val_perplexity"]) for report in trial.reports]:
            wrong.append(f"trial {trial.number}: {len(sent)} points of val_perplexity, {len(trial.reports)} reports")
    return wrong
