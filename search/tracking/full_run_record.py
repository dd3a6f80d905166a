"""What a study's folder keeps of its full runs, so that a store of MLflow that was lost gets them again.

`<study>/full_runs/KEY.json` is written once MLflow has the whole run. Its reports are read from the run folder, as far
as that is still there.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError
from search.tracking import mlflow_facts as facts
from search.tracking.mlflow_runs import FULL_RUN, KEY, Runs, full_runs, send
from trainer.files import replace_text
from trainer.run_folder import CONFIG, METRICS, report_lines

FOLDER = "full_runs"


@dataclass(frozen=True)
class FullRun:
    """A full run that has ended. key: its tag KEY; began, ended: milliseconds since the epoch; status: as of a trial;
    child: whether it is below the study's parent run, as one on the study's own data is."""

    key: str
    name: str
    run_folder: str
    began: int
    ended: int
    status: str
    child: bool
    params: dict[str, str]
    tags: dict[str, str]


def remember(study: Path, run: FullRun) -> None:
    """Write the record into a study's folder; where that cannot be written there is none."""
    with suppress(UserError):
        replace_text(study / FOLDER / f"{run.key}.json", json.dumps(asdict(run), indent=2) + "\n")


def records(study: Path) -> list[FullRun]:
    """The full runs that a study's folder remembers, the oldest first; a damaged file is passed over."""
    kept = []
    for path in study.glob(f"{FOLDER}/*.json"):
        with suppress(OSError, ValueError, TypeError):
            kept.append(FullRun(**json.loads(path.read_text(encoding="utf-8"))))
    return sorted(kept, key=lambda run: run.began)


def restore(runs: Runs) -> None:
    """Bring MLflow the full runs of a study that it lacks. Doing it twice changes nothing.

    Raises what MLflow raises.
    """
    kept = records(runs.folder)
    there = {run.data.tags.get(KEY): run for run in full_runs(runs.client, runs.experiment_id)} if kept else {}
    for record in kept:
        run = there.get(record.key)
        if run is None:
            tags = {**record.tags, **(runs.below_parent() if record.child else {}), KEY: record.key, FULL_RUN: "true"}
            run = runs.client.create_run(runs.experiment_id, record.began, tags=tags, run_name=record.name)
        elif run.info.status != "RUNNING":  # whole, or deleted by somebody who did not want it
            continue
        _fill(runs, run.info.run_id, record)


def _fill(runs: Runs, run_id: str, record: FullRun) -> None:
    folder = Path(record.run_folder)
    reports = [json.loads(line) for line in report_lines(folder)]
    for batch in facts.batches([_dated(report, record.began) for report in reports]):
        send(runs.client, run_id, [metric for report in batch for metric in facts.metrics(report)])
    send(runs.client, run_id, params=record.params, tags=record.tags)
    for name in (CONFIG, METRICS):
        if (folder / name).exists():
            runs.client.log_artifact(run_id, str(folder / name))
    runs.client.set_terminated(run_id, facts.RUN_STATUS[record.status], record.ended)


def _dated(report: dict[str, Any], began: int) -> dict[str, Any]:
    """A run folder does not say when a report was made, but how long the run had lasted."""
    return {**report, "time": began / 1000 + report["metrics"].get("seconds", 0.0)}
