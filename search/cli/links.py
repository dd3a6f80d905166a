"""The address of a study in MLflow's page, where a server is known: for the last line of what a command prints."""

from __future__ import annotations

import os
from pathlib import Path

from data.errors import UserError
from search.service import state
from search.study.journal import NAME
from search.tracking.mlflow_store import connect, reason, served, shown

PATIENCE = 20.0  # seconds, MLflow's import among them; a server that is down says so at once


def line(study: Path | str, folder: Path | None) -> str:
    """`in the browser: ...` with its line end; empty without a server (MLFLOW_TRACKING_URI, else `nanosweep up`'s), or
    where it does not know the study. Never raises: a link is no reason to fail.

    study: its name or its parent run's id; folder: where its journal lies, if that is known: names need not be unique.
    """
    uri = _server(folder)
    if not uri:
        return ""
    try:
        found = _link(str(study), folder, uri)
    except UserError as error:
        return f"no link: {error}\n"
    except Exception as error:  # whatever MLflow raises
        return f"no link: MLflow at {shown(uri)}: {reason(error)}\n"
    return f"in the browser, sorted by objective: {found}\n" if found else ""


def _server(folder: Path | None) -> str:
    """The server that MLFLOW_TRACKING_URI names, else that of the storage's service; "" without one."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if uri:
        return uri if served(uri) else ""
    try:
        found = None if folder is None else state.running(folder.parent)
    except UserError:
        return ""
    if found is None or found.mlflow_credentials is not None:
        return ""  # with a password MLflow answers to those alone who have set it
    return found.mlflow


def _link(study: str, folder: Path | None, uri: str) -> str | None:
    from search.tracking.mlflow_read import parents
    from search.tracking.mlflow_runs import identity_of
    from search.tracking.mlflow_view import link

    known = parents(connect(uri, PATIENCE))
    if folder is not None:
        mine = [parent for parent in known if parent.identity == identity_of(folder / NAME)]
    else:
        mine = [parent for parent in known if study in (parent.study, parent.run_id)]
    return link(shown(uri), mine[0].experiment_id, mine[0].run_id) if mine else None
