"""MLflow holds each trial once, with an honest status, whatever happened to the driver or the server."""

from __future__ import annotations

import json
import math
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from search.report import gallery, page
from search.results.standing import standings
from search.study.ledger import Ledger
from search.study.scores import best
from search.study.study import read_study
from search.tracking import mlflow_facts as facts
from search.tracking import mlflow_store
from search.tracking.mlflow_read import fetch_study, parents
from search.tracking.mlflow_tracker import MlflowTracker
from search.tracking.open_study import open_study
from tests import journals
from tests.stores import fresh_store
from tests.waiting import CEILING, until
from trainer.config import load


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fresh_store(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage whose one study was sent: for tests that only look."""
    folder = tmp_path_factory.mktemp("sent")
    fresh_store(folder)
    ledger = journals.write_study(folder / "quick")
    (folder / "quick" / "spec.yaml").write_text("study: quick\n")
    gallery.write_beside(folder / "quick")  # as a driver does before its end
    page.write_beside(folder / "quick")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert send(ledger) == ""
    return folder


def send(ledger: Ledger, do: Callable[[Ledger], None] = lambda ledger: None) -> str:
    """One driver's life: what the journal holds is sent, then what `do` writes. Returns what is missing at the end."""
    said: list[str] = []
    tracker = MlflowTracker(ledger.journal.path.parent, say=said.append)
    tracker.connect()
    tracker.follow(ledger)
    do(ledger)
    missing = tracker.close(60)
    ledger.listeners.clear()
    assert said == []
    return missing


def children(storage: Path, name: str = "quick") -> dict[int, Any]:
    """Trial number -> run; a trial that is there twice fails."""
    client = mlflow_store.connect(mlflow_store.choose_uri(storage))
    found_parents = [parent for parent in parents(client) if parent.study == name]
    if not found_parents:
        return {}
    (parent,) = found_parents
    runs = client.search_runs([parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    found = {int(run.data.tags["nanosweep.trial"]): run for run in runs}
    assert len(found) == len(runs)
    return found


def states(storage: Path) -> dict[int, tuple[str, str]]:
    return {
        number: (run.info.status, run.data.tags.get("status", "")) for number, run in sorted(children(storage).items())
    }


STATES = {
    0: ("FINISHED", "completed"),
    1: ("FINISHED", "completed"),
    2: ("FINISHED", "pruned"),
    3: ("FAILED", "diverged"),
    4: ("FAILED", "failed"),
    5: ("KILLED", "interrupted"),
}


def test_each_trial_appears_once_with_an_honest_status(sent: Path) -> None:
    assert states(sent) == STATES  # the seventh waits: it has no run yet
    runs = children(sent)
    assert runs[2].data.tags["rung"] == "1000"
    assert runs[3].data.tags["cause"] == "the loss is nan at step 10"
    assert runs[1].info.run_name == "#1 lr=0.002 squentropy"
    assert runs[1].data.tags["loss"] == "squentropy"
    assert runs[1].data.params["squentropy_lambda"] == "0.1"
    assert runs[1].data.params["n_layer"] == "4"


def test_objective_exists_only_on_trials_of_full_length(sent: Path) -> None:
    found = {number: run.data.metrics.get("objective") for number, run in children(sent).items()}
    assert found == {0: 5.0, 1: 4.0, 2: None, 3: None, 4: None, 5: None}


def test_metrics_have_tokens_as_their_step(sent: Path) -> None:
    client = mlflow_store.connect(mlflow_store.choose_uri(sent))
    history = client.get_metric_history(children(sent)[1].info.run_id, "val_perplexity")
    assert {metric.step: metric.value for metric in history} == pytest.approx({1000: 7.0, 4000: 3.5, 8000: 4.0})


def test_numbers_that_are_not_finite_are_kept_and_never_an_objective(storage: Path) -> None:
    ledger = journals.write_study(storage / "quick")
    journals.start(ledger, 6)
    journals.report(ledger, 6, 1000, 5.0)
    bad = {"val_perplexity": math.inf, "val_loss": math.nan}
    ledger.write("report", trial=6, step=80, tokens=8000, rung=None, final=True, metrics=bad, checkpoint=None)
    journals.end(ledger, 6, "completed")
    assert send(ledger) == ""
    runs = children(storage)
    assert math.isnan(runs[3].data.metrics["val_loss"])
    assert runs[6].data.metrics["val_perplexity"] > 1e300
    assert "objective" not in runs[6].data.metrics


def test_sending_a_journal_again_changes_nothing(storage: Path) -> None:
    ledger = journals.write_study(storage / "quick")
    send(ledger)
    first = {number: repr(run.to_dictionary()) for number, run in children(storage).items()}
    send(ledger)
    assert {number: repr(run.to_dictionary()) for number, run in children(storage).items()} == first
    with sqlite3.connect(storage / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM metrics WHERE key = 'val_perplexity'").fetchone() == (10,)


def test_live_records_arrive_as_a_journal_sent_later_does(storage: Path) -> None:
    def live(ledger: Ledger) -> None:
        journals.complete(ledger, 7, 3.0)
        journals.start(ledger, 6)
        journals.report(ledger, 6, 1000, 9.0)
        journals.end(ledger, 6, "pruned", rung=1000)

    assert send(journals.write_study(storage / "quick"), live) == ""
    assert states(storage) == {**STATES, 6: ("FINISHED", "pruned"), 7: ("FINISHED", "completed")}
    assert children(storage)[7].data.metrics["objective"] == 3.0


def test_an_interrupted_trial_goes_on_in_its_own_run(storage: Path) -> None:
    ledger = journals.write_study(storage / "quick")
    send(ledger)
    before = children(storage)[5].info.run_id

    def go_on(ledger: Ledger) -> None:
        journals.start(ledger, 5, tokens=1000)
        journals.report(ledger, 5, 4000, 5.5, rung=4000)  # again, as it continued from 1000
        journals.report(ledger, 5, 8000, 4.5)
        journals.end(ledger, 5, "completed")

    assert send(ledger, go_on) == ""
    run = children(storage)[5]
    assert run.info.run_id == before
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "completed")
    assert run.data.metrics["objective"] == 4.5
    client = mlflow_store.connect(mlflow_store.choose_uri(storage))
    assert [m.step for m in client.get_metric_history(before, "tokens")] == [1000, 4000, 8000]


def test_a_run_is_running_again_while_its_trial_is(storage: Path) -> None:
    ledger = journals.write_study(storage / "quick")
    send(ledger)
    tracker = MlflowTracker(storage / "quick")
    tracker.follow(ledger)
    journals.start(ledger, 5, tokens=4000)
    until(lambda: states(storage)[5] == ("RUNNING", "running"))
    journals.end(ledger, 5, "interrupted")
    assert tracker.close() == ""
    assert states(storage)[5] == ("KILLED", "interrupted")


def test_a_driver_that_was_killed_leaves_no_run_running(storage: Path) -> None:
    ledger = journals.write_study(storage / "quick")
    dead = MlflowTracker(storage / "quick")
    dead.follow(ledger)
    journals.start(ledger, 6)
    until(lambda: states(storage).get(6) == ("RUNNING", "running"))
    dead._sender.give_up()  # as if killed: nothing is closed
    dead.record(ledger.write("decision", trial=6, rung=1000, action="continue", value=1.0, cutoff=2.0, of=1))
    ledger.listeners.clear()
    assert states(storage)[6] == ("RUNNING", "running")
    assert send(ledger) == ""
    assert states(storage) == {**STATES, 6: ("KILLED", "interrupted")}


def test_a_run_that_nobody_will_close_is_closed(storage: Path) -> None:
    ledger = journals.write_study(storage / "quick")
    send(ledger)
    client = mlflow_store.connect(mlflow_store.choose_uri(storage))
    (parent,) = parents(client)
    tags = {"mlflow.parentRunId": parent.run_id, "nanosweep.trial": "0"}
    twice = client.create_run(parent.experiment_id, tags=tags).info.run_id
    send(ledger)
    assert client.get_run(twice).info.status == "KILLED"
    assert "objective" not in client.get_run(twice).data.metrics


def test_the_parent_run_has_all_that_made_the_study(sent: Path) -> None:
    client = mlflow_store.connect(mlflow_store.choose_uri(sent))
    (parent,) = parents(client)
    run = client.get_run(parent.run_id)
    assert run.info.status == "KILLED"  # a trial is still to continue
    assert run.data.params["data.hash"] == "abc123"
    assert run.data.params["sampler"] == "random"
    assert run.data.params["space.loss"] == "cross_entropy, squentropy"
    assert not [text for text in run.data.params.values() if "null" in text or text.startswith(("{", "["))]
    wanted = {"commit": "0123456789abcdef", "dirty": "true", "packages.torch": "2.13.0"}
    assert wanted.items() <= run.data.tags.items()
    assert "objective" not in run.data.metrics
    files = {file.path for file in client.list_artifacts(parent.run_id)}
    assert files == {
        "spec.yaml",
        "trials.jsonl",
        "leaderboard.md",
        "leaderboard.json",
        "best.yaml",
        "figures",
        "report.html",
    }
    pictures = {file.path for file in client.list_artifacts(parent.run_id, "figures")}
    assert pictures == {"figures/trials.png", "figures/by-loss.png", "figures/leader.png"}
    assert "| 1 | 1 | 4.000 |" in run.data.tags["mlflow.note.content"]
    assert "`report.html` under Artifacts" in run.data.tags["mlflow.note.content"]


def test_a_budget_that_was_raised_is_no_conflict(storage: Path) -> None:
    ledger = journals.write_study(storage / "quick")
    send(ledger)
    spec = {**ledger.study.header.spec_as_written, "budget": {"trials": 99}}

    def more(ledger: Ledger) -> None:
        ledger.write("study", **journals.header("quick", spec=spec, commit="fedcba"))
        for number in (5, 6):
            journals.start(ledger, number)
            journals.end(ledger, number, "failed", cause="x")

    assert send(ledger, more) == ""
    client = mlflow_store.connect(mlflow_store.choose_uri(storage))
    (parent,) = parents(client)
    run = client.get_run(parent.run_id)
    assert (run.data.tags["budget"], run.data.tags["commit"]) == ("trials: 99", "fedcba")
    assert run.info.status == "FINISHED"


def test_two_studies_of_one_name_do_not_share_runs(storage: Path, tmp_path: Path) -> None:
    ours = journals.write_study(storage / "quick")
    theirs = journals.write_study(tmp_path / "elsewhere" / "quick")
    send(ours)
    tracker = MlflowTracker(tmp_path / "elsewhere" / "quick", mlflow_store.choose_uri(storage))
    tracker.follow(theirs)
    assert tracker.close() == ""
    client = mlflow_store.connect(mlflow_store.choose_uri(storage))
    assert len(parents(client)) == 2
    uri = mlflow_store.choose_uri(storage)
    with pytest.raises(UserError, match="2 studies of that name"):
        fetch_study("quick", uri)
    assert len(fetch_study(parents(client)[0].run_id, uri).trials) == 7


def test_a_study_is_read_back_from_the_store_alone(sent: Path) -> None:
    study = fetch_study("quick", mlflow_store.choose_uri(sent))
    assert repr(study.trials) == repr(read_study(sent / "quick").trials)  # nan is not equal to itself
    assert best(study).number == 1
    with pytest.raises(UserError, match="did you mean quick"):
        fetch_study("quik", mlflow_store.choose_uri(sent))


def test_pictures_are_drawn_from_the_store_alone(sent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store.choose_uri(sent))
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    found = gallery.of_study(open_study("quick", tmp_path / "no-storage"))
    names = ["trials.png", "by-loss.png", "leader.png"]
    assert found.paths == [Path("figures/quick") / name for name in names]
    for name in names:
        assert Path("figures/quick", name).read_bytes() == (sent / "quick" / "figures" / name).read_bytes()


def test_a_long_history_is_sent_whole(storage: Path) -> None:
    ledger = journals.write_study(storage / "quick")
    journals.start(ledger, 6)
    for step in range(1, 150):  # 1,043 metrics: more than one request takes
        journals.report(ledger, 6, step * 10, 5.0 + 1 / step)
    assert send(ledger) == ""
    with sqlite3.connect(storage / "mlflow.db") as database:
        query = "SELECT count(*) FROM metrics WHERE key = 'val_loss' AND run_uuid = ?"
        assert database.execute(query, [children(storage)[6].info.run_id]).fetchone() == (149,)


def test_the_shared_view_sorts_by_objective_and_shows_what_was_searched(sent: Path) -> None:
    client = mlflow_store.connect(mlflow_store.choose_uri(sent))
    (parent,) = parents(client)
    tags = client.get_experiment(parent.experiment_id).tags
    (state,) = [json.loads(value) for key, value in tags.items() if key.startswith("mlflow.sharedViewState.")]
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`objective`", True)
    assert {"metrics.`objective`", "params.`learning_rate`", "tags.`status`"} <= {*state["selectedColumns"]}


def test_the_shared_view_holds_the_parent_and_opens_with_charts_of_the_objective(sent: Path) -> None:
    client = mlflow_store.connect(mlflow_store.choose_uri(sent))
    (parent,) = parents(client)
    tags = client.get_experiment(parent.experiment_id).tags
    (state,) = [json.loads(value) for key, value in tags.items() if key.startswith("mlflow.sharedViewState.")]
    shown = [run.info.run_id for run in client.search_runs([parent.experiment_id], state["searchFilter"])]
    assert sorted(shown) == sorted([parent.run_id, *(run.info.run_id for run in children(sent).values())])
    first, *_ = state["compareRunCharts"]
    assert first["metricKey"] == "val_perplexity"
    assert {card["metricSectionId"] for card in state["compareRunCharts"]} == {state["compareRunSections"][0]["uuid"]}


def test_the_parent_run_says_how_the_study_stands(sent: Path) -> None:
    client = mlflow_store.connect(mlflow_store.choose_uri(sent))
    (parent,) = parents(client)
    run = client.get_run(parent.run_id)
    counts = {"trials": 7, "trials_full_length": 2, "trials_pruned": 1, "trials_failed": 2}
    assert run.data.metrics == {**counts, "best_so_far": 4.0, "leader": pytest.approx(4.0)}
    assert [point.value for point in client.get_metric_history(parent.run_id, "best_so_far")] == [5.0, 4.0]
    assert run.data.tags["best"] == "4 (#1 lr=0.002 squentropy)"


def test_the_parents_leader_is_the_mean_over_its_fresh_seeds(storage: Path) -> None:
    ledger = journals.write_study(storage / "quick")
    chosen = ledger.study.trials[1]
    for number, value in ((7, 4.5), (8, 4.7)):
        fields = {"point": chosen.point, "config": {**chosen.config, "seed": number}, "name": chosen.name}
        ledger.write("point", trial=number, of=1, round=number - 6, **fields)
        journals.start(ledger, number)
        journals.report(ledger, number, journals.LENGTH, value)
        journals.end(ledger, number, "completed")
    assert send(ledger) == ""
    client = mlflow_store.connect(mlflow_store.choose_uri(storage))
    (parent,) = parents(client)
    (leader, *_) = standings(ledger.study)
    run = client.get_run(parent.run_id)
    assert (leader.number, run.data.metrics["best_so_far"]) == (1, 4.0)
    assert run.data.metrics["leader"] == pytest.approx(math.exp(leader.value))
    assert run.data.tags["best"].startswith(f"{math.exp(leader.value):.6g} (#1 ")
    metrics = {number: run.data.metrics for number, run in children(storage).items()}
    placed = {number: mine["place"] for number, mine in metrics.items() if "place" in mine}
    assert placed == {standing.number: place for place, standing in enumerate(standings(ledger.study), 1)}
    assert metrics[1]["mean_over_seeds"] == pytest.approx(math.exp(leader.value))
    assert "mean_over_seeds" not in metrics[0]


def test_what_the_machine_did_is_apart_from_what_the_model_did() -> None:
    measured = {"val_loss": 1.0, "eval_seconds": 2.0, "seconds": 3.0, "tokens_per_second": 4.0, "peak_memory_mb": 5.0}
    keys = [key for key, *_ in facts.metrics({"time": 0.0, "tokens": 64, "metrics": measured})]
    assert [key for key in keys if not key.startswith("system/")] == ["val_loss", "tokens"]


def test_runs_that_an_older_release_named_get_their_numbers(storage: Path) -> None:
    ledger = journals.write_study(storage / "quick")
    assert send(ledger) == ""
    client = mlflow_store.connect(mlflow_store.choose_uri(storage))
    run_id, own = children(storage)[1].info.run_id, children(storage)[0].info.run_id
    client.update_run(run_id, "KILLED", "lr=0.002 squentropy")
    client.delete_tag(run_id, "nanosweep.group")
    client.update_run(own, name="my own name")
    assert send(ledger) == ""
    run = client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("#1 lr=0.002 squentropy", "FINISHED")
    assert run.data.tags["nanosweep.group"] == run.data.tags["mlflow.parentRunId"]
    assert client.get_run(own).info.run_name == "my own name"


@pytest.mark.parametrize(
    ("uri", "kind", "word"),
    [
        ("localhost:5000", "no_scheme", "http://localhost:5000"),
        ("127.0.0.1:5000/path", "no_scheme", "http://127.0.0.1:5000/path"),
        ("gpu-box.lan:80", "no_scheme", "http://gpu-box.lan:80"),
        ("./mlruns", "file_store", "./mlruns"),
        ("file:///tmp/mlruns", "file_store", "file:///tmp/mlruns"),
        ("sqlite:mlflow.db", "no_file", "sqlite:///PATH/mlflow.db"),
        ("sqlite://", "no_file", "sqlite:///PATH/mlflow.db"),
    ],
)
def test_an_address_that_is_none_is_refused_with_the_one_that_was_meant(
    storage: Path, monkeypatch: pytest.MonkeyPatch, uri: str, kind: str, word: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for ask in (lambda: mlflow_store.choose_uri(storage), lambda: open_study("quick", storage)):
        with pytest.raises(UserError) as caught:
            ask()
        assert caught.value.kind == kind
        assert word in str(caught.value)


def test_recording_never_waits_for_the_store(storage: Path) -> None:
    ledger = journals.write_study(storage / "quick")
    tracker = MlflowTracker(storage / "quick", say=lambda line: None)
    tracker.follow(ledger)
    lock = sqlite3.connect(storage / "mlflow.db", timeout=CEILING, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")  # a store that hangs
    begun = time.perf_counter()
    journals.complete(ledger, 7, 3.0)
    assert time.perf_counter() - begun < 4  # SQLite gives a lock five seconds, and a journal takes a moment
    lock.execute("ROLLBACK")
    lock.close()
    assert tracker.close() == ""
    assert states(storage)[7] == ("FINISHED", "completed")


def test_what_could_not_be_sent_is_said_at_the_end(storage: Path) -> None:
    ledger = journals.write_study(storage / "quick")
    said: list[str] = []
    tracker = MlflowTracker(storage / "quick", "http://127.0.0.1:9", say=said.append)  # nobody listens there
    tracker.follow(ledger)
    missing = tracker.close(1)
    assert "lacks the latest of" in missing
    assert "the same `nanosweep run` sends it" in missing
    assert len(said) == 1  # once, however often it was tried


def test_a_server_that_is_away_at_the_start_is_one_line(storage: Path) -> None:
    with socket.socket() as silent:  # takes connections, answers nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UserError, match=r"MLflow at http://127.0.0.1:\d+ cannot be used") as error:
            mlflow_store.connect(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=1.5)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="connection refused"):
        MlflowTracker(storage / "quick", "http://127.0.0.1:9").connect()


def test_a_folder_of_files_is_refused(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in ("./mlruns", "file:///tmp/mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(UserError, match="folder of files"):
            MlflowTracker(storage / "quick")


def test_a_database_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        MlflowTracker(tmp_path / "file" / "storage" / "quick").connect()


def test_a_password_is_not_shown() -> None:
    with pytest.raises(UserError) as error:
        mlflow_store.connect("http://me:secret@127.0.0.1:9")
    assert "secret" not in str(error.value)
    assert "me:***@" in str(error.value)


def test_best_yaml_in_mlflow_is_the_best_config(sent: Path, tmp_path: Path) -> None:
    client = mlflow_store.connect(mlflow_store.choose_uri(sent))
    (parent,) = parents(client)
    (tmp_path / "down").mkdir()
    file = client.download_artifacts(parent.run_id, "best.yaml", str(tmp_path / "down"))
    assert load(Path(file)).loss == "squentropy"
