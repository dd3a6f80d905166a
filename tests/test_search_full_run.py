"""`nanosweep train`: in this process it is `python -m trainer`, with MLflow beside it; mistakes are told before Ray."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from data.prepare import prepare
from search.results import export
from search.run.full_run import main
from search.run.full_run_workers import share
from search.run.resources import Share
from search.study.ledger import Ledger
from search.study.machine import Node
from search.tracking import full_run_log
from search.tracking.mlflow_read import parents
from search.tracking.mlflow_store import DATABASE, connect
from search.tracking.mlflow_tracker import MlflowTracker
from tests import journals, tiny
from tests.flaky import Fault, Flaky, connecting
from tests.refusals import exit_code
from tests.stores import fresh_store
from trainer import config, provenance
from trainer.config import TrainConfig
from trainer.run_folder import METRICS, Reports

LAPTOP, SERVER = Node("laptop", 4, 0), Node("server", 24, 4)


@pytest.mark.parametrize(
    ("workers", "nodes", "device", "expected"),
    [
        (4, [LAPTOP], "auto", Share(1, 0, 4)),
        (2, [LAPTOP], "auto", Share(2, 0, 2)),  # the cores are shared among the workers
        (3, [LAPTOP], "auto", Share(1, 0, 3)),
        (3, [LAPTOP, LAPTOP], "auto", Share(2, 0, 3)),  # a worker does not span machines
        (2, [SERVER], "auto", Share(6, 1, 2)),  # a GPU each, with its share of the cores
        (6, [SERVER], "cpu", Share(4, 0, 6)),
        (8, [SERVER, SERVER], "cuda", Share(6, 1, 8)),
    ],
)
def test_what_each_worker_gets(workers: int, nodes: list[Node], device: str, expected: Share) -> None:
    assert share(workers, nodes, device) == expected


@pytest.mark.parametrize(
    ("workers", "nodes", "device", "words"),
    [
        (
            5,
            [LAPTOP],
            "auto",
            "each needs a core, and there is laptop: 4 CPUs, 0 GPUs; at most --workers 4",
        ),
        (
            5,
            [SERVER],
            "auto",
            "each needs a GPU, and there is server: 24 CPUs, 4 GPUs; at most --workers 4",
        ),
        (1, [LAPTOP], "cuda", "device: cuda, but there is no GPU: laptop"),
    ],
)
def test_workers_that_do_not_fit_are_refused(workers: int, nodes: list[Node], device: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        share(workers, nodes, device)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and a storage whose one study, `quick`, is in MLflow."""
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tiny.stories().path.parent))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(config.dump(tiny.config(max_tokens=20 * 64)))
    return tmp_path


@pytest.fixture
def best(place: Path) -> Path:
    """best.yaml of trial 0 of a study whose trial is as small as those of the other tests."""
    fresh_store(place / "runs")
    ledger = Ledger(place / "runs" / "quick")
    header = journals.header("quick")
    ledger.write("study", **{**header, "data": {**header["data"], "hash": tiny.stories().hash}})
    settings = tiny.config(max_tokens=20 * 64).model_dump()
    ledger.write("point", trial=0, point={}, config=settings, name="lr=1e-3")
    journals.start(ledger, 0)
    journals.report(ledger, 0, journals.LENGTH, 4.0)
    journals.end(ledger, 0, "completed")
    track(ledger, place / "runs" / "quick")
    export.write(ledger.study, place / "best.yaml")
    return place / "best.yaml"


def track(ledger: Ledger, folder: Path) -> None:
    tracker = MlflowTracker(folder)
    tracker.follow(ledger)
    assert tracker.close(200) == ""  # a busy machine takes its time
    ledger.listeners.clear()


def full_runs(place: Path, storage: str = "runs") -> list[Any]:
    client = connect(f"sqlite:///{place / storage / DATABASE}")
    (parent,) = parents(client)
    wanted = f"tags.`mlflow.parentRunId` = '{parent.run_id}' and tags.full_run = 'true'"
    return list(client.search_runs([parent.experiment_id], wanted))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["tiny.yaml", "--workers", "3"],
            "a step of 4 rows (batch_size x gradient_accumulation_steps) cannot",
        ),
        (["tiny.yaml", "--workers", "0"], "--workers: expected a whole number from 1, got '0'"),
        (
            ["tiny.yaml", "--workers", "2", "--max-failures", "-1"],
            "--max-failures: expected a whole number from 0, got '-1'",
        ),
        (
            ["tiny.yaml", "--workers", "256", "--set", "batch_size=256"],
            "--workers 256: each needs a core, and there is",
        ),
        (["tiny.yaml", "--address", "auto"], "--address auto says where workers are; say with --workers N how many"),
        (["tiny.yaml", "--workers", "1", "--address", "127.0.0.1:9"], "no Ray cluster answers at 127.0.0.1:9"),
        (["tiny.yaml", "--workers", "1", "--out", "tiny.yaml"], "tiny.yaml: cannot be made a run folder: File exists"),
        (["tiny.yaml", "--workers", "2", "--set", "n_heads=2"], "unknown key n_heads; did you mean n_head?"),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(
    place: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert exit_code(lambda: main(arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert [path.name for path in place.iterdir()] == ["tiny.yaml"]


def test_without_workers_it_is_the_trainer(place: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["tiny.yaml"]) == 0
    captured = capsys.readouterr()
    result, _ = tiny.run(tiny.config(max_tokens=20 * 64))
    assert f"val_perplexity {result.metrics['val_perplexity']:.4f}" in captured.out.splitlines()[-1]
    assert captured.err == ""  # a config of no study says nothing of MLflow


def test_a_full_run_is_logged_under_the_study_of_its_config(place: Path, best: Path) -> None:
    assert main([str(best), "--out", "out/full", "--set", "eval_every=640"]) == 0
    (run,) = full_runs(place)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "full run of trial 0: full"
    assert {"status": "completed", "full_run_of": "0", "loss": "cross_entropy"}.items() <= run.data.tags.items()
    assert (run.data.params["n_embd"], run.data.params["max_tokens"]) == ("16", "1280")
    assert "objective" not in run.data.metrics  # a sort by it must not mix budgets
    told = [json.loads(line) for line in (place / "out/full" / METRICS).read_text().splitlines()]
    client = connect(f"sqlite:///{place / 'runs' / DATABASE}")
    curve = client.get_metric_history(run.info.run_id, "val_loss")
    assert {one.step: one.value for one in curve} == {line["tokens"]: line["metrics"]["val_loss"] for line in told}
    assert run.data.metrics["val_perplexity"] == told[-1]["metrics"]["val_perplexity"]


def test_a_resumed_run_goes_on_in_its_own_mlflow_run(place: Path, best: Path) -> None:
    assert main([str(best), "--set", "schedule=constant"]) == 0
    (before,) = full_runs(place)
    assert main([str(best), "--set", "schedule=constant", "--resume", "--max-tokens", "1920"]) == 0
    (run,) = full_runs(place)
    assert run.info.run_id == before.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.metrics["tokens"] == 1920
    assert json.loads(run.data.tags["changed"]) == {"max_tokens": "1920"}


def test_a_lost_store_gets_its_full_runs_again(place: Path, best: Path) -> None:
    assert main([str(best), "--out", "out/full", "--set", "eval_every=640"]) == 0
    (before,) = full_runs(place)
    shutil.rmtree(place / "runs" / "mlartifacts")
    fresh_store(place / "runs")
    folder = place / "runs" / "quick"
    track(Ledger(folder), folder)
    (run,) = full_runs(place)
    assert run.info.run_id != before.info.run_id
    assert (run.info.run_name, run.info.status) == (before.info.run_name, before.info.status)
    assert (run.info.start_time, run.info.end_time) == (before.info.start_time, before.info.end_time)
    assert run.data.params == before.data.params
    assert run.data.metrics == before.data.metrics
    other = ("mlflow.parentRunId", "nanosweep.group")
    assert {k: v for k, v in run.data.tags.items() if k not in other} == {
        k: v for k, v in before.data.tags.items() if k not in other
    }
    client = connect(f"sqlite:///{place / 'runs' / DATABASE}")
    assert METRICS in [file.path for file in client.list_artifacts(run.info.run_id)]
    track(Ledger(folder), folder)  # once more changes nothing
    assert [one.info.run_id for one in full_runs(place)] == [run.info.run_id]
    assert main([str(best), "--out", "out/full", "--set", "eval_every=640", "--resume", "--max-tokens", "1920"]) == 0
    (resumed,) = full_runs(place)
    assert (resumed.info.run_id, resumed.data.metrics["tokens"]) == (run.info.run_id, 1920)
    client.delete_run(run.info.run_id)  # somebody does not want it
    track(Ledger(folder), folder)
    assert full_runs(place) == []


def test_a_refused_run_leaves_nothing_in_mlflow(place: Path, best: Path) -> None:
    assert main([str(best), "--set", "vocab_size=20"]) == 2
    assert full_runs(place) == []


def test_an_export_is_trained_on_other_data_on_purpose_only_and_apart_from_its_study(
    place: Path, best: Path, capsys: pytest.CaptureFixture
) -> None:
    other = ["--set", "corpus=stories:100", "--out", "out/other"]
    assert main([str(best), *other]) == 2
    error = capsys.readouterr().err
    assert tiny.stories().hash[:12] in error
    assert prepare("stories:100", "char").hash[:12] in error
    assert "--other-data" in error
    assert not (place / "out").exists()
    assert main([str(best), *other, "--other-data"]) == 0
    assert full_runs(place) == []
    client = connect(f"sqlite:///{place / 'runs' / DATABASE}")
    (run,) = client.search_runs([parents(client)[0].experiment_id], "tags.full_run = 'true'")
    assert run.data.tags["data.hash"] == prepare("stories:100", "char").hash
    assert run.info.run_name == "full run of trial 0 on other data: other"
    assert main([str(best), *other, "--max-tokens", "1920", "--resume"]) == 2  # it stays other data
    assert main([str(best), "--out", "out/same", "--other-data"]) == 0  # the study's own data after all
    assert len(full_runs(place)) == 1
    assert main(["tiny.yaml", "--other-data"]) == 2  # it comes from no study


def test_what_was_edited_in_an_export_is_said_where_its_origin_is(
    place: Path, best: Path, capsys: pytest.CaptureFixture
) -> None:
    text = best.read_text()
    assert text.count("\ndropout: 0.0\n") == 1
    best.write_text(text.replace("\ndropout: 0.0\n", "\ndropout: 0.1\n"))
    assert main([str(best)]) == 0
    said = "dropout 0.1 (exported: 0.0)"
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert said in notes[0]
    (run,) = full_runs(place)
    assert run.data.tags["edited"] == said
    assert f"Edited since its export: {said}." in (place / "out/best/MODEL_CARD.md").read_text()


def test_a_diverged_run_has_failed_in_mlflow_too(place: Path, best: Path) -> None:
    settings = ["optimizer=sgd", "learning_rate=1e30", "grad_clip=0", "warmup_frac=0"]
    assert main([str(best), *(x for s in settings for x in ("--set", s))]) == 1
    (run,) = full_runs(place)
    assert (run.info.status, run.data.tags["status"]) == ("FAILED", "diverged")
    assert "not finite at step" in run.data.tags["cause"]


def test_a_search_that_goes_on_leaves_a_full_run_alone(place: Path, best: Path) -> None:
    client = connect(f"sqlite:///{place / 'runs' / DATABASE}")
    (parent,) = parents(client)
    tags = {"mlflow.parentRunId": parent.run_id, "full_run": "true"}
    going = client.create_run(parent.experiment_id, tags=tags).info.run_id
    ledger = Ledger(place / "runs" / "quick")
    track(ledger, place / "runs" / "quick")
    assert client.get_run(going).info.status == "RUNNING"


def test_a_study_that_is_not_here_is_said_and_the_run_goes_on(
    place: Path, best: Path, capsys: pytest.CaptureFixture
) -> None:
    (place / "runs").rename(place / "elsewhere")
    assert main([str(best)]) == 0
    assert "not logged to MLflow: study quick is not in" in capsys.readouterr().err
    assert not (place / "runs").exists()
    assert main([str(best), "--out", "out/again", "--storage", "elsewhere"]) == 0
    assert len(full_runs(place, "elsewhere")) == 1


def test_mlflow_that_is_away_stops_no_run(
    place: Path, best: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr("search.tracking.full_run_log.FLUSH", 1.0)
    assert main([str(best)]) == 0
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "the run continues" in errors[0]
    assert "--resume sends it" in errors[1]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert main([str(best), "--resume"]) == 0  # nothing is left to train: it sends what is lacking
    (run,) = full_runs(place)
    assert (run.info.status, run.data.metrics["tokens"]) == ("FINISHED", 1280)


@pytest.mark.parametrize("call", ["search_runs", "create_run", "update_run", "log_batch", "set_terminated"])
def test_an_answer_that_is_lost_makes_no_second_run(
    place: Path, best: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    clients: list[Flaky] = []
    monkeypatch.setattr(full_run_log, "connect", connecting(clients, Fault(call, arrives=True)))
    assert main([str(best)]) == 0
    assert call in clients[0].calls
    (run,) = full_runs(place)
    assert (run.info.status, run.data.metrics["tokens"]) == ("FINISHED", 1280)
    assert run.data.params["n_embd"] == "16"
    history = clients[0].get_metric_history(run.info.run_id, "tokens")
    assert len(history) == len({point.step for point in history})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_run_that_was_killed_as_its_mlflow_run_was_made_continues_that_one(
    place: Path, best: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(full_run_log, "connect", connecting([], Fault("create_run", arrives=True, ends=True)))
        assert main([str(best)]) == 0
    (begun,) = full_runs(place)
    assert begun.data.metrics == {}
    assert main([str(best), "--resume"]) == 0
    (run,) = full_runs(place)
    assert run.info.run_id == begun.info.run_id
    assert (run.info.status, run.data.metrics["tokens"]) == ("FINISHED", 1280)


def test_a_study_without_mlflow_has_its_full_runs_without_mlflow(
    place: Path, best: Path, capsys: pytest.CaptureFixture
) -> None:
    ledger = Ledger(place / "runs" / "quick")
    header = journals.header("quick")
    ledger.write("study", **{**header, "spec": {**header["spec"], "tracking": "none"}})
    assert main([str(best)]) == 0
    assert capsys.readouterr().err == ""
    assert full_runs(place) == []


def test_a_run_that_goes_back_shows_each_step_once(tmp_path: Path) -> None:
    def write(*steps: int) -> None:
        made = [{"step": s, "tokens": s * 10, "rung": None, "final": False, "metrics": {"x": 0.1 * s}} for s in steps]
        (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in made))

    write(1, 2)  # of an earlier run
    told = Reports(tmp_path)
    assert told.new() == []
    write(1, 2, 3, 4)
    assert [report.step for report in told.new()] == [3, 4]
    write(1, 2, 3)  # a worker was lost: back to the checkpoint
    assert told.new() == []
    write(1, 2, 3, 4, 5)
    assert [report.step for report in told.new()] == [5]


def test_an_exported_config_knows_its_origin(best: Path, place: Path) -> None:
    source = provenance.read(best)
    assert source is not None
    assert (source.study, source.trial, source.data_hash) == ("quick", 0, tiny.stories().hash)
    assert provenance.read(place / "tiny.yaml") is None
    assert TrainConfig.model_validate(config.load(best).model_dump()) == config.load(best)
