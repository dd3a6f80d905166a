"""Links into MLflow's page: opened sorted by `objective`, the columns that matter in sight.

By default that page hides metrics off-screen, and a sort in the address alone does not bring them back. What does
is a shared view: MLflow's own "Share" button keeps a view as a tag of the experiment, and so do we.
"""

from __future__ import annotations

import json

from search.spec.objective import OBJECTIVES
from search.spec.points import fields
from search.study.study_record import Header


def view(parent_id: str, header: Header) -> tuple[str, str]:
    """An experiment tag that makes MLflow's page open on this study sorted by `objective`, with telling columns.

    MLflow keeps views that people share as such tags (its UI's ExperimentPageUIState); by default the metric
    column is off-screen and the sort gone when one comes back.
    """
    # a trial's params are the keys of its config, whatever its parameters are called
    searched = [field.partition(".")[0] for name, p in header.spec.space.items() for field in fields(name, p)]
    target = OBJECTIVES[header.spec.objective]
    columns = ["metrics.`objective`", f"metrics.`{target.beside}`", "metrics.`tokens`", "tags.`status`", "tags.`rung`"]
    state = {
        "orderByKey": "metrics.`objective`",
        "orderByAsc": target.direction == "minimize",
        "searchFilter": f"tags.mlflow.parentRunId = '{parent_id}'",
        "selectedColumns": columns + [f"params.`{key}`" for key in dict.fromkeys(searched)],
        "runsHiddenMode": "FIRST_20_RUNS",
        "globalLineChartConfig": {"xAxisKey": "metric", "lineSmoothness": 0, "selectedXAxisMetricKey": "tokens"},
    }
    return f"mlflow.sharedViewState.{_view_key(parent_id)}", json.dumps(state)


def link(server: str, experiment_id: str, parent_id: str) -> str:
    """The address on a server that opens the study sorted by `objective`."""
    key = _view_key(parent_id)
    return (
        f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?viewStateShareKey={key}&workflowType=machine_learning"
    )


def _view_key(parent_id: str) -> str:
    return f"nanosweep-{parent_id[:8]}"
