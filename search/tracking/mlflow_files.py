"""The files on a study's parent run in MLflow: from them the study can be read through the tracking server alone."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from search.report import gallery
from search.report.page import NAME as REPORT
from search.results import export, table
from search.results.standing import standings
from search.study.journal import NAME
from search.study.scores import best
from search.tracking import bundle
from search.tracking import mlflow_facts as facts
from search.tracking.mlflow_runs import Runs, send


def send_files(runs: Runs, ending: bool = False) -> None:
    """The metrics of the parent run, and copies on it: journal, spec, report, leaderboard (also as its description),
    results by document, best config; with `ending` the pictures, which are drawn at the end. Raises what MLflow raises.

    All files are sent each time, so that it may be called again after an error.
    """
    client, run_id, study, folder = runs.client, runs.parent_id, runs.study, runs.folder
    for name in (NAME, "spec.yaml", REPORT):
        if (folder / name).exists():
            client.log_artifact(run_id, str(folder / name))
    ranked = standings(study)
    runs.sync_progress(ranked)
    with tempfile.TemporaryDirectory() as scratch:
        if (path := bundle.pack(study, [standing.number for standing in ranked], Path(scratch))) is not None:
            client.log_artifact(run_id, str(path))
    client.log_text(run_id, table.markdown(study, ranked=ranked), "leaderboard.md")
    client.log_text(run_id, json.dumps(facts.split(study, ranked)), "leaderboard.json")
    if best(study) is not None:
        client.log_text(run_id, export.text(study, ranked=ranked), export.NAME)
    if ending and (folder / gallery.FOLDER).is_dir():
        client.log_artifacts(run_id, str(folder / gallery.FOLDER), gallery.FOLDER)
    note = table.markdown(study, limit=15, ranked=ranked)
    if (folder / REPORT).exists():
        note += f"\nCurves, parameters, rungs, workers and cost: `{REPORT}` under Artifacts.\n"
    tags = {
        "mlflow.note.content": note,
        "mlflow.loggedArtifacts": '[{"path": "leaderboard.json", "type": "table"}]',
    }
    send(client, run_id, tags=tags)
