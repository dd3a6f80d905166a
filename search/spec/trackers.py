"""The trackers that a spec may name (`tracking: mlflow`): what shows a study's records beside its journal.

To add one: a file with a subclass of search.tracking.tracker.Tracker, and a line here. It is imported when a study
that names it runs, so that checking a spec loads none of them.
"""

from __future__ import annotations

from data.errors import nearest

TRACKERS = {  # name in a spec: module and class
    "mlflow": "search.tracking.mlflow_tracker:MlflowTracker",
    "none": "search.tracking.tracker:Tracker",
}
DEFAULT = "mlflow"


def check_name(name: str) -> str:
    """The name of a tracker. Raises ValueError with the nearest for another."""
    if name not in TRACKERS:
        raise ValueError(f"no tracker is called {name}; {nearest(name, TRACKERS)}")
    return name
