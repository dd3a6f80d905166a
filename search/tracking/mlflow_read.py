"""Read studies back through a tracking server alone: from the copy of the journal on each study's parent run."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import tempfile
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError, nearest
from data.prepare import default_cache
from search.study.journal import NAME, parse_records
from search.study.study import Study, fold
from search.tracking import bundle
from search.tracking.mlflow_runs import ID, STUDY
from search.tracking.mlflow_store import connect, reason, served, shown
from search.tracking.mlflow_view import link

if TYPE_CHECKING:
    from search.tracking.mlflow_store import MlflowClient


@dataclass(frozen=True)
class Parent:
    """A study as a tracking server knows it. started: milliseconds since the epoch."""

    study: str
    run_id: str
    experiment_id: str
    started: int
    storage: str
    identity: str = ""  # of its journal: names need not be unique


def parents(client: MlflowClient) -> list[Parent]:
    """The studies of a store, the newest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`{STUDY}` LIKE '%'", max_results=1000) if experiments else []
    studies = [
        Parent(
            run.data.tags[STUDY],
            run.info.run_id,
            run.info.experiment_id,
            run.info.start_time,
            run.data.tags.get("storage", "?"),
            run.data.tags.get(ID, ""),
        )
        for run in runs
    ]
    return sorted(studies, key=lambda parent: -parent.started)


def fetch_study(study: str, uri: str) -> Study:
    """A study by its name, or by the id of its parent run where several have the name.

    Raises UserError when the server is away, knows no such study or several, or has no copy of the journal yet.
    """
    client = connect(uri)
    studies = parents(client)
    matches = [parent for parent in studies if study in (parent.study, parent.run_id)]
    if not matches:
        hint = nearest(study, {parent.study for parent in studies}) if studies else "it has no studies"
        raise UserError(f"{study}: no such study at {shown(uri)}; {hint}")
    if len(matches) > 1:
        ids = ", ".join(f"{parent.run_id} (storage {parent.storage})" for parent in matches)
        raise UserError(f"{study}: {len(matches)} studies of that name at {shown(uri)}; give the run id of one: {ids}")
    name = f"{study} at {shown(uri)}"
    try:
        text = _artifact(client, uri, matches[0].run_id, NAME).decode("utf-8")
    except Exception as error:
        raise UserError(
            f"{name}: its copy of the journal cannot be read ({reason(error)}); it comes a minute after the start"
        ) from None
    whole = fold(parse_records(io.StringIO(text, newline="\n"), name), name)
    whole.folder = default_cache() / "mlflow" / matches[0].run_id
    with contextlib.suppress(Exception):  # without it the leaderboard says less: no intervals over the text
        bundle.unpack(_artifact(client, uri, matches[0].run_id, bundle.NAME), whole.folder)
    return whole


def address_of(study: str, uri: str, seconds: float) -> str | None:
    """The page of a study's newest parent run; None where the server does not know it, or does not answer in time."""
    with contextlib.suppress(UserError):
        mine = [parent for parent in parents(connect(uri, seconds)) if parent.study == study]
        return link(shown(uri), mine[0].experiment_id, mine[0].run_id) if mine else None
    return None


def _artifact(client: MlflowClient, uri: str, run_id: str, name: str) -> bytes:
    place = client.get_run(run_id).info.artifact_uri or ""
    if served(uri) and urllib.parse.urlsplit(place).scheme in ("", "file"):
        # a folder of the server's machine (a study run without a server, shown by `nanosweep ui`): only it can read it
        return _from_server(uri, run_id, name)
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, name, folder)).read_bytes()


def _from_server(uri: str, run_id: str, name: str) -> bytes:
    """The file as MLflow's own page downloads it."""
    parts = urllib.parse.urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    query = urllib.parse.urlencode({"path": name, "run_uuid": run_id})
    request = urllib.request.Request(f"{parts.scheme}://{host}{parts.path.rstrip('/')}/get-artifact?{query}")
    user = parts.username or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = parts.password or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    elif user:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())
