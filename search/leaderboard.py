"""The leaderboard for notebooks: a study's trials and reports as data frames.

from search import leaderboard
leaderboard.frame("quickstart")     # a row per trial, best first
leaderboard.reports("quickstart")   # a row per report: curves against tokens
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from search.results.leaderboard import rows
from search.study.study import Study
from search.tracking.open_study import open_study

if TYPE_CHECKING:
    import pandas as pd


def frame(study: Study | Path | str, storage: Path | None = None) -> pd.DataFrame:
    """A row per trial, best first; columns as in `rows`, then one for each searched parameter.

    study: a Study, its folder, its name in the storage (default ./runs), or its name on the tracking server.
    """
    import pandas as pd

    return pd.DataFrame(rows(open_study(study, storage)))


def reports(study: Study | Path | str, storage: Path | None = None) -> pd.DataFrame:
    """A row per report: trial, name, status, step, tokens, rung, final, then each metric. `study` as in `frame`.

    On a final report val_* are of the full split, before it of the fixed subset (compare val_loss_subset).
    """
    import pandas as pd

    found = open_study(study, storage)
    return pd.DataFrame(
        {
            "trial": trial.number,
            "name": trial.name,
            "status": trial.status,
            **{key: report[key] for key in ("step", "tokens", "rung", "final")},
            **report["metrics"],
        }
        for trial in sorted(found.trials.values(), key=lambda trial: trial.number)
        for report in trial.reports
    )
