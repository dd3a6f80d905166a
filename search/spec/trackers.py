"""The experiment trackers that a spec may name (`tracking: mlflow`); each follows a study's journal.

To add one, write a subclass of search.tracking.tracker.Tracker in a file of its own and add a line here. The file is
imported when a study that names the tracker runs; checking a spec imports no tracker.
"""

from __future__ import annotations

from data.errors import nearest

TRACKERS = {  # name in a spec: module and class
    "mlflow": "search.tracking.mlflow_tracker:MlflowTracker",
    "none": "search.tracking.tracker:Tracker",
}
DEFAULT = "mlflow"


def check_name(name: str) -> str:
    """Return the name if it is a tracker's. Raises ValueError with the nearest name otherwise."""
    if name not in TRACKERS:
        raise ValueError(f"no tracker is called {name}; {nearest(name, TRACKERS)}")
    return name
