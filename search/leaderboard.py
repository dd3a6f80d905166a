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
    """One row per trial, best first. Columns: those of `search.results.leaderboard.rows`, then the searched parameters,
    as `params_learning_rate`.

    study: a Study, its folder, its name in the storage (default ./runs), or its name on the tracking server.
    Raises UserError where there is no such study.
    """
    import pandas as pd

    return pd.DataFrame(rows(open_study(study, storage)))


def reports(study: Study | Path | str, storage: Path | None = None) -> pd.DataFrame:
    """One row per report: trial, name, status, step, tokens, rung, final, then the metrics. study: as in `frame`.

    The val_* metrics of a final report are of the full validation split, those of earlier reports of its fixed
    subset. A curve over all reports therefore uses val_loss_subset for the final one.
    """
    import pandas as pd

    opened = open_study(study, storage)
    return pd.DataFrame(
        {
            "trial": trial.number,
            "name": trial.name,
            "status": trial.status,
            **{key: report[key] for key in ("step", "tokens", "rung", "final")},
            **report["metrics"],
        }
        for trial in sorted(opened.trials.values(), key=lambda trial: trial.number)
        for report in trial.reports
    )
