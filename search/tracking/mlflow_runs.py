"""What a study looks like in MLflow: one experiment and parent run for the study, one child run for each trial.

`Runs` brings MLflow up to what a Study says, sending only what MLflow lacks: live after each record, after an
outage, or for a whole journal at the start, it is the same step, and doing it twice changes nothing.
Metrics have tokens as their step. A run's status is FINISHED for a trial that did its work (tag `status`: completed,
early_stopped, pruned, paused), KILLED for one that was interrupted, FAILED otherwise (diverged, failed, out_of_memory).
The metric `objective` exists on
the search's full-length trials alone: a sort by it never mixes budgets, and never shows a finalist's lucky seed
first (`finalist_objective`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.stats.statistics import Standing
from search.study.journal import NAME, Record
from search.study.study import Study, Trial
from search.tracking import mlflow_facts as facts
from search.tracking import mlflow_view
from search.tracking.mlflow_place import correct, place_of
from search.tracking.mlflow_store import passing, reason, served

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

PARENT = "mlflow.parentRunId"
STUDY, ID, TRIAL = "nanosweep.study", "nanosweep.id", "nanosweep.trial"
GROUP = (
    "nanosweep.group"  # a tag: the parent's id, on the parent and its children, by which the page shows them together
)
KEY = "nanosweep.full_run_key"  # a tag of full runs, by which one is found whose creation had no answer
FULL_RUN = "full_run"  # a tag: `true` on runs of an exported config, beside the trials


@dataclass
class _Sent:
    """What MLflow has of one trial."""

    run_id: str
    run_status: str = "RUNNING"
    params: bool = False
    tokens: int = -1  # of the last report
    status: tuple[str, str, str] = ("", "", "")  # status, rung, cause


class Runs:
    """The runs of one study in one store. Not thread-safe. Its methods raise what MLflow raises."""

    def __init__(self, client: MlflowClient, uri: str, folder: Path, study: Study) -> None:
        self.client, self.uri, self.folder, self.study = client, uri, folder, study
        self.experiment_id = ""
        self.parent_id = ""
        self.refused: dict[str, str] = {}  # params that the store does not take, with its reason
        self._sent: dict[int, _Sent] = {}
        self._progress: set[facts.Metric] = set()  # metrics of the parent run that were sent
        self._places: dict[int, list[tuple[str, float]]] = {}  # and those of trials' places on the leaderboard
        self._unsure: set[int] = set()  # creating the run failed, perhaps after the store had made it

    def open(self) -> None:
        """Find or make the experiment and the parent run; learn what MLflow has of each trial; close orphans.

        `parent_id` is set once all of this has been done; until then, call it again.
        """
        name = self.study.header.name
        if not served(self.uri):
            correct(self.uri, self.folder.parent, name)
        self.experiment_id = self._experiment(name).experiment_id
        parent = self._parent(name)
        params = facts.texts(facts.study_params(self.study.header))
        # an earlier try may have ended here; and MLflow refuses to change a param that it has
        if missing := {key: text for key, text in params.items() if key not in parent.data.params}:
            self.refused |= send(self.client, parent.info.run_id, params=missing)
        if parent.data.tags.get(GROUP) != parent.info.run_id:
            self.client.set_tag(parent.info.run_id, GROUP, parent.info.run_id)
        view = mlflow_view.view(parent.info.run_id, GROUP, self.study.header)
        self.client.set_experiment_tag(self.experiment_id, *view)
        self._sent = {}
        for run in self._children(parent.info.run_id):
            self._learn(run)
        self.parent_id = parent.info.run_id

    def _parent(self, name: str) -> Run:
        identity = identity_of(self.folder / NAME)
        runs = self.client.search_runs([self.experiment_id], f"tags.`{ID}` = '{identity}'", max_results=1)
        if runs:
            return runs[0]
        tags = {STUDY: name, ID: identity, "mlflow.user": facts.user(), "mlflow.source.name": "nanosweep run"}
        return self.client.create_run(self.experiment_id, tags=tags, run_name=name)

    def _experiment(self, name: str) -> Experiment:
        from mlflow.exceptions import MlflowException

        experiment = self.client.get_experiment_by_name(name)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        if experiment is None:
            # without a server, MLflow would put artifacts into the working directory
            place = None if served(self.uri) else place_of(self.folder.parent, name)
            kind = {"mlflow.experimentKind": "custom_model_development"}
            try:
                experiment_id = self.client.create_experiment(name, artifact_location=place, tags=kind)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another study's driver was faster
                    raise
            else:
                return self.client.get_experiment(experiment_id)
            experiment = self.client.get_experiment_by_name(name)
        assert experiment is not None
        return experiment

    def _children(self, parent_id: str, also: str = "") -> list[Run]:
        runs, token = [], None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                f"tags.`{PARENT}` = '{parent_id}'{also}",
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            runs += page
            token = page.token
            if not token:
                return runs

    def _learn(self, run: Run) -> None:
        tags, number = run.data.tags, int(run.data.tags.get(TRIAL, -1))
        if GROUP not in tags:  # of an older release
            self.client.set_tag(run.info.run_id, GROUP, tags[PARENT])
        if FULL_RUN in tags:  # `nanosweep train` looks after it
            return
        if number in self._sent or number not in self.study.trials:
            if run.info.status == "RUNNING":  # made twice, or of a journal that was cut: nobody will close it
                self.client.set_terminated(run.info.run_id, "KILLED")
            return
        tokens = int(run.data.metrics.get("tokens", -1))
        status = (tags.get("status", ""), tags.get("rung", ""), tags.get("cause", ""))
        self._sent[number] = _Sent(run.info.run_id, run.info.status, bool(run.data.params), tokens, status)
        trial = self.study.trials[number]
        if run.info.run_name == trial.name:  # as an older release named it
            self.client.update_run(run.info.run_id, name=facts.title(trial))

    def sync(self, number: int, now: float | None = None) -> None:
        """Bring one trial's run up to the study. now: seconds since the epoch, when its status changed."""
        trial = self.study.trials[number]
        if trial.status == "waiting":
            return
        at = round((now or _changed_at(trial) or time.time()) * 1000)
        sent = self._sent.get(number) or self._create(trial, at)
        status = facts.status(trial)
        *whole, last = facts.batches([report for report in trial.reports if report["tokens"] > sent.tokens])
        for batch in whole:
            self._log(sent, trial, batch)
        if last or status != sent.status or not sent.params:
            self._log(sent, trial, last, facts.ending(self.study, trial, at) if status != sent.status else None)
        if (wanted := facts.RUN_STATUS[trial.status]) != sent.run_status:
            if wanted == "RUNNING":
                self.client.update_run(sent.run_id, wanted)
            else:
                self.client.set_terminated(sent.run_id, wanted, at)
            sent.run_status = wanted

    def _log(self, sent: _Sent, trial: Trial, reports: list[Record], ending: list[facts.Metric] | None = None) -> None:
        """One request: these reports, the params unless they are there; with `ending` the status too."""
        metrics = [metric for report in reports for metric in facts.metrics(report)] + (ending or [])
        status = facts.status(trial) if ending is not None else sent.status
        changed = zip(("status", "rung", "cause"), sent.status, status, strict=True)
        tags = {name: new for name, old, new in changed if new != old}
        self.refused |= send(self.client, sent.run_id, metrics, {} if sent.params else trial.config, tags)
        sent.params, sent.status = True, status
        sent.tokens = reports[-1]["tokens"] if reports else sent.tokens

    def _create(self, trial: Trial, at: int) -> _Sent:
        if trial.number in self._unsure:
            for run in self._children(self.parent_id, f" and tags.`{TRIAL}` = '{trial.number}'"):
                self._learn(run)
        if trial.number not in self._sent:
            tags = {**self.below_parent(), TRIAL: str(trial.number), "loss": str(trial.config.get("loss"))}
            tags |= {"mlflow.user": facts.user(), "mlflow.source.name": "nanosweep run"}
            if trial.of is not None:
                tags |= {"finalist_of": str(trial.of), "round": str(trial.round)}
            self._unsure.add(trial.number)
            began = round(trial.reports[0]["time"] * 1000) if trial.reports else at
            run = self.client.create_run(self.experiment_id, start_time=began, tags=tags, run_name=facts.title(trial))
            self._sent[trial.number] = _Sent(run.info.run_id)
        self._unsure.discard(trial.number)
        return self._sent[trial.number]

    def sync_parent(self, status: str | None = None) -> None:
        """The parent run's tags (what may change from driver to driver), and its status when it is given."""
        send(self.client, self.parent_id, tags=facts.study_tags(self.study))
        if status == "RUNNING":
            self.client.update_run(self.parent_id, status)
        elif status is not None:
            self.client.set_terminated(self.parent_id, status)

    def below_parent(self) -> dict[str, str]:
        """The tags that make a run a child of the study's."""
        return {PARENT: self.parent_id, GROUP: self.parent_id}

    def sync_progress(self, ranked: list[Standing]) -> None:
        """The parent run's metrics, and the places of trials. ranked: the leaderboard."""
        unsent = [metric for metric in facts.progress(self.study, ranked) if metric not in self._progress]
        for first in range(0, len(unsent), facts.BATCH):
            part = unsent[first : first + facts.BATCH]
            send(self.client, self.parent_id, part)
            self._progress.update(part)
        for number, metrics in facts.places(self.study, ranked).items():
            values = [(name, value) for name, value, *_ in metrics]
            if number in self._sent and self._places.get(number) != values:
                send(self.client, self._sent[number].run_id, metrics)
                self._places[number] = values


def full_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    """The full runs in an experiment, those that somebody deleted among them. Raises what MLflow raises."""
    from mlflow.entities import ViewType

    return list(client.search_runs([experiment_id], f"tags.{FULL_RUN} = 'true'", ViewType.ALL))


def send(
    client: MlflowClient,
    run_id: str,
    metrics: Iterable[facts.Metric] = (),
    params: dict[str, Any] | None = None,
    tags: dict[str, Any] | None = None,
) -> dict[str, str]:
    """One request. params and tags: plain values; what is None is left out. Sent twice it is there once.

    A param that the store refuses costs only itself: the rest is sent without it. Returns the reasons by key. Raises
    what MLflow raises.
    """
    from mlflow.entities import Metric, Param, RunTag

    as_metrics = [Metric(key, value, at, step) for key, value, at, step in metrics]
    as_params = [Param(key, text) for key, text in facts.texts(params or {}).items()]
    as_tags = [RunTag(key, text) for key, text in facts.texts(tags or {}).items()]
    try:
        client.log_batch(run_id, as_metrics, as_params, as_tags)
        return {}
    except Exception as error:
        if passing(error) or not as_params:
            raise
    client.log_batch(run_id, as_metrics, tags=as_tags)
    refused = {}
    for param in as_params:
        try:
            client.log_batch(run_id, params=[param])
        except Exception as error:
            if passing(error):
                raise
            refused[param.key] = reason(error)
    return refused


def _changed_at(trial: Trial) -> float | None:
    """When a trial's status changed, as far as the journal tells: its metrics are then the same from any driver."""
    if trial.stints and trial.stints[-1].end is not None:
        return trial.stints[-1].end
    return float(trial.reports[-1]["time"]) if trial.reports else None


def identity_of(journal: Path) -> str:
    """Tells studies of one name apart on a shared server, wherever their folder moves: a hash of the first record."""
    with journal.open("rb") as file:
        return hashlib.sha256(file.readline()).hexdigest()[:16]
