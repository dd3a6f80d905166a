"""Open a study for reading: by its folder, by its name in the storage, or through the tracking server alone."""

from __future__ import annotations

import os
from pathlib import Path

from data.errors import UserError, nearest
from search.study.lookup import STORAGE, find_folder, names
from search.study.study import Study, read_study


def open_study(study: Study | Path | str, storage: Path | None = None) -> Study:
    """The study meant by a folder (or its trials.jsonl), a name in the storage, or a name or parent-run id on the
    server of MLFLOW_TRACKING_URI. A Study is given back as it is.

    storage: default ./runs. Raises UserError with the nearest known name.
    """
    if isinstance(study, Study):
        return study
    if (folder := find_folder(study, storage)) is not None:
        return read_study(folder)
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri and isinstance(study, str):
        from search.tracking.mlflow_read import fetch_study  # loads MLflow only where it is asked

        return fetch_study(study, uri)
    place = storage or STORAGE
    studies = names(place)
    hint = nearest(str(study), studies) if studies else "it holds no study"
    raise UserError(
        f"{study}: no such study in {place.resolve()}; {hint} "
        "(--storage names another place, MLFLOW_TRACKING_URI a tracking server)"
    )
