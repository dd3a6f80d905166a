"""The experiment trackers that a spec may name (`tracking: mlflow`); each follows a study's journal.

To add one, write a subclass of search.tracking.tracker.Tracker in a file of its own:

    class LinesTracker(Tracker):
        def follow(self, ledger: Ledger) -> None:
            ledger.listeners.append(lambda record: print(record["record"]))

and add its line below. The file is imported when a study that names the tracker runs; checking a spec imports no
tracker.
"""

from __future__ import annotations

from trainer.hints import hint
from trainer.keys import RuleError

TRACKERS = {  # name in a spec: module and class
    "mlflow": "search.tracking.mlflow_tracker:MlflowTracker",
    "none": "search.tracking.tracker:Tracker",
}
DEFAULT = "mlflow"


def check_name(name: str) -> str:
    """Return the name if it is a tracker's.

    Raises RuleError with the nearest name otherwise.
    """
    if name not in TRACKERS:
        raise RuleError("tracking", f"no tracker is called {name}; {hint(name, TRACKERS)}", "unknown")
    return name
