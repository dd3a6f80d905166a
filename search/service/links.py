"""The addresses of studies in MLflow's page, where a server is known: lines for what a command prints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError, nearest
from search.service import state
from search.spec.trackers import DEFAULT, TRACKERS
from search.study.journal import NAME
from search.tracking.mlflow_store import connect, reason, served, shown
from search.tracking.tracker import open_tracker

if TYPE_CHECKING:
    from search.tracking.mlflow_read import Parent

PATIENCE = 20.0  # seconds, MLflow's import among them; a server that is down says so at once


def line(study: Path | str, folder: Path | None, tracking: str = DEFAULT) -> str:
    """`in the browser: ...` with its line end; empty without a server (MLFLOW_TRACKING_URI, else `nanosweep up`'s), or
    where it does not know the study. Never raises: a link is no reason to fail.

    study: its name or its parent run's id; folder: where its journal lies, if that is known: names need not be unique.
    tracking: of its spec; with another tracker than MLflow it is that tracker's link.
    """
    if tracking != DEFAULT:
        link = open_tracker(tracking, folder).link if folder is not None and tracking in TRACKERS else None
        return f"in the browser: {link}\n" if link else ""
    uri = _server(folder)
    if not uri:
        return ""
    try:
        address = _link(str(study), folder, uri)
    except UserError as error:
        return f"no link: {error}\n"
    except Exception as error:  # whatever MLflow raises
        return f"no link: MLflow at {shown(uri)}: {reason(error)}\n"
    return f"in the browser, sorted by objective: {address}\n" if address else ""


def _server(folder: Path | None) -> str:
    """The server that MLFLOW_TRACKING_URI names, else that of the storage's service; "" without one."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if uri:
        return uri if served(uri) else ""
    try:
        service = None if folder is None else state.running(folder.parent)
    except UserError:
        return ""
    if service is None or service.mlflow_credentials is not None:
        return ""  # with a password MLflow answers to those alone who have set it
    return service.mlflow


def _link(study: str, folder: Path | None, uri: str) -> str | None:
    from search.tracking.mlflow_runs import identity_of

    parents = _parents(uri, PATIENCE)
    if folder is not None:
        mine = [parent for parent in parents if parent.identity == identity_of(folder / NAME)]
    else:
        mine = [parent for parent in parents if study in (parent.study, parent.run_id)]
    return _address(shown(uri), mine[0]) if mine else None


def lines(server: str, uri: str, study: str | None = None) -> list[str]:
    """Lines with the link to a study, or to the newest, and the names of the others. Raises UserError."""
    parents = _parents(uri)
    chosen = [parent for parent in parents if study in (None, parent.study, parent.run_id)][:1]
    if not chosen and study is not None:
        hint = nearest(study, {parent.study for parent in parents}) if parents else "it has no studies"
        raise UserError(f"{study}: no such study in {shown(uri)}; {hint}")
    from search.tracking.mlflow_view import page

    lines = []
    for parent in chosen:
        address = _address(server, parent)
        lines += [f"{parent.study}, sorted by objective: {address}", f"its curves: {address}&compareRunsMode=CHART"]
        lines.append(f"its leaderboard and report: {page(server, parent.experiment_id, parent.run_id)}")
    others = sorted({parent.study for parent in parents} - {parent.study for parent in chosen})
    if others:
        lines.append(f"others (nanosweep ui STUDY): {', '.join(others)}")
    return lines or [f"{server} (no study in it yet)"]


def _parents(uri: str, seconds: float | None = None) -> list[Parent]:
    from search.tracking.mlflow_read import parents

    return parents(connect(uri, seconds))


def _address(server: str, parent: Parent) -> str:
    from search.tracking.mlflow_view import link

    return link(server, parent.experiment_id, parent.run_id)
