"""Links into MLflow's page: opened on one study, sorted by `objective`, with telling columns and charts.

By default that page hides metrics off-screen, forgets the sort, and draws a chart for each metric by the alphabet. What
brings a view back is a shared one: MLflow's own "Share" button keeps a view as a tag of the experiment, and so do we.
"""

from __future__ import annotations

import json
from typing import Any

from search.spec.objective import OBJECTIVES, Objective
from search.spec.points import fields
from search.study.study_record import Header

# MLflow's own name of the section in which it draws what no chart of ours shows
_REST = "Model metrics"


def view(parent_id: str, group: str, header: Header) -> tuple[str, str]:
    """An experiment tag that makes MLflow's page open on this study. group: the tag that its runs have in common.

    The keys are those of its UI's ExperimentPageUIState.
    """
    # a trial's params are the keys of its config, whatever its parameters are called
    searched = [field.partition(".")[0] for name, p in header.spec.space.items() for field in fields(name, p)]
    params = list(dict.fromkeys(searched))
    target = OBJECTIVES[header.spec.objective]
    metrics = ("place", "mean_over_seeds", "objective", target.beside, "tokens")
    columns = [*(f"metrics.`{name}`" for name in metrics), "tags.`status`", "tags.`rung`", "tags.`finalist_of`"]
    state = {
        "orderByKey": "metrics.`objective`",
        "orderByAsc": target.direction == "minimize",
        "searchFilter": f"tags.`{group}` = '{parent_id}'",
        "selectedColumns": columns + [f"params.`{key}`" for key in params],
        "runsHiddenMode": "FIRST_20_RUNS",
        "globalLineChartConfig": {"xAxisKey": "metric", "lineSmoothness": 0, "selectedXAxisMetricKey": "tokens"},
        "compareRunCharts": _charts(target, params),
        "compareRunSections": [_section("study", header.name), _section("rest", _REST)],
        "isAccordionReordered": True,
    }
    return f"mlflow.sharedViewState.{_view_key(parent_id)}", json.dumps(state)


def _section(uuid: str, name: str) -> dict[str, Any]:
    # reordered: MLflow appends charts of further metrics instead of sorting them in
    return {"uuid": uuid, "name": name, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}


def _charts(target: Objective, params: list[str]) -> list[dict[str, Any]]:
    """The objective against tokens, all parameters with the objective, and each trial's objective; then the losses."""
    line = {"lineSmoothness": 0, "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "yAxisKey": "metric"}
    line |= {"scaleType": "linear", "xAxisScaleType": "linear", "yAxisExpressions": [], "ignoreOutliers": True}
    curves = [target.name, *(name for name in ("val_loss", "train_loss") if name != target.name)]
    lines = [_card("LINE", f"{name} against tokens", metricKey=name, **line) for name in curves]
    every = _card("PARALLEL", "parameters", selectedParams=params, selectedMetrics=["objective"], showAllRuns=False)
    bars = _card("BAR", "objective", metricKey="objective")
    return [lines[0], every, bars, *lines[1:]]


def _card(kind: str, title: str, **settings: Any) -> dict[str, Any]:
    shared = {"metricSectionId": "study", "deleted": False, "isGenerated": False, "runsCountToCompare": 100}
    return {"type": kind, "uuid": title.replace(" ", "-"), "displayName": title, **shared, **settings}


def link(server: str, experiment_id: str, parent_id: str) -> str:
    """The address on a server that opens the study sorted by `objective`."""
    key = _view_key(parent_id)
    return (
        f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?viewStateShareKey={key}&workflowType=machine_learning"
    )


def page(server: str, experiment_id: str, parent_id: str) -> str:
    """The address of the parent run: leaderboard, counts of trials, and under Artifacts the report."""
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs/{parent_id}"


def _view_key(parent_id: str) -> str:
    return f"nanosweep-{parent_id[:8]}"
