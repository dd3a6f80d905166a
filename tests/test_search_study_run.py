"""Whole studies on a real Ray: the same numbers again, one trial's failure its own, nothing lost when things die.

Each Ray start takes seconds, so studies are shared between tests, and what can be refused without Ray is tested
without.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from search.cli.main import main
from search.report import page
from search.run import driver, study_run
from search.spec.load import load_spec
from search.stopping.median import Median
from search.strategy.sampler import Sampler
from search.study.failures import failed_alike
from search.study.journal import ENDED, NAME, read_records
from search.study.study import Study, Trial, read_study
from tests import tiny
from tests.drivers import records, workers
from tests.limits import largest_file
from tests.refusals import facts, refusal
from tests.waiting import CEILING, until
from trainer.config import TrainConfig
from trainer.config import load as load_config

ROOT = Path(__file__).resolve().parent.parent
SPEC = """
study: tiny
base: base.yaml
space:
  learning_rate: {log: [1e-4, 1e-1]}
  n_layer: {choice: [1, 2]}
sampler: random
scheduler: {asha: {first_rung: 640, factor: 2}}
budget: {trials: 6}
seed: 3
"""
BROKEN = (1, 4)  # trials whose folders cannot be made: such a trial fails
ALIKE = """
study: alike
base: base.yaml
space: {learning_rate: {log: [1e-3, 1e-1]}}
sampler: random
budget: {trials: 4}
tracking: none
"""
MEDIAN = """
study: median
base: base.yaml
space: {learning_rate: {log: [1e-4, 1e-1]}}
sampler: random
scheduler: {median: {first_rung: 640, every: 640, min_trials: 2, exempt: 0}}
budget: {trials: 5}
"""
LONG = """
study: long
base: base.yaml
set: {max_tokens: 192k, eval_every: 9600}
space:
  learning_rate: {log: [1e-3, 1e-2]}
sampler: random
budget: {trials: 2}
"""


@pytest.fixture(scope="module", autouse=True)
def _own_place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOSWEEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


def write(folder: Path, text: str, storage: Path | None = None, **base: Any) -> Path:
    config = tiny.config(**base).model_dump(mode="json", exclude_none=True)
    (folder / "base.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items()))
    path = folder / "spec.yaml"
    path.write_text(f"{text}storage: {storage or folder / 'runs'}\n")
    return path


def run(path: Path, **options: Any) -> Study:
    return study_run.run(*load_spec(path), **options)


def break_folder(path: Path) -> Path:
    """A file where a trial would make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def numbers(trial: Trial) -> list[dict[str, float]]:
    """What a trial measured, without what depends on the clock."""
    return [{name: value for name, value in r["metrics"].items() if name not in tiny.TIMING} for r in trial.reports]


def alone(trial: Trial) -> list[dict[str, float]]:
    """The same trial by the loop alone: no Ray, no interruption."""
    config = TrainConfig.model_validate(trial.config)
    _, reports = tiny.run(config, rungs=[640, 1280] if config.max_tokens == 2560 else [])
    return [tiny.values(report) for report in reports][: len(trial.reports)]


# one study, run once


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: MLflow makes its tables once (seconds)."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory: pytest.TempPathFactory, storage: Path) -> Path:
    return write(tmp_path_factory.mktemp("once"), SPEC, storage)


@pytest.fixture(scope="module")
def study(spec_file: Path, storage: Path) -> Study:
    for number in BROKEN:
        break_folder(storage / "tiny" / "trials" / str(number))
    return run(spec_file)


@pytest.fixture(scope="module")
def folder(storage: Path, study: Study) -> Path:
    return storage / "tiny"


def test_an_exception_in_one_trial_ends_that_trial_alone(study: Study) -> None:
    assert list(study.trials) == list(range(6))
    failed = [trial for trial in study.trials.values() if trial.status == "failed"]
    assert [trial.number for trial in failed] == list(BROKEN)
    assert all("cannot be made a run folder" in trial.cause for trial in failed)
    others = {trial.status for trial in study.trials.values()} - {"failed"}
    assert others <= {"completed", "pruned"}
    assert "completed" in others


def test_trials_have_the_numbers_that_the_loop_alone_gives(study: Study) -> None:
    trained = [trial for trial in study.trials.values() if trial.reports]
    assert len(trained) >= 2
    for trial in trained:
        assert numbers(trial) == alone(trial)


def test_points_depend_on_spec_and_seed_alone(spec_file: Path, study: Study) -> None:
    spec, base, _ = load_spec(spec_file)
    points = [Sampler(spec, base).ask(n, Study()) for n in range(6)]
    assert [trial.point for trial in study.trials.values()] == points


def test_a_result_is_in_the_journal_before_anybody_acts_on_it(study: Study, folder: Path) -> None:
    reported: set[tuple[int, int]] = set()
    decided: set[tuple[int, int]] = set()
    for record in read_records(folder / NAME):
        if record["record"] == "report":
            reported.add((record["trial"], record["rung"]))
        elif record["record"] == "decision":
            assert (record["trial"], record["rung"]) in reported
            decided.add((record["trial"], record["rung"]))
        elif record["record"] == "status" and record["status"] == "pruned":
            assert (record["trial"], record["rung"]) in decided
    assert decided


def test_the_header_says_what_the_numbers_depend_on(study: Study) -> None:
    header = study.header
    assert header.spec.study == "tiny"
    assert header.base.n_embd == 16
    assert header.data.hash == tiny.stories().hash
    assert header.rungs == (640, 1280)
    assert header.packages["ray"]
    assert {"commit", "dirty", "host"} <= set(header.record)


def test_a_study_leaves_its_leaderboard_its_best_config_and_the_best_weights(study: Study, folder: Path) -> None:
    wanted = {"spec.yaml", NAME, "leaderboard.md", "best.yaml", "report.html", "trials", "figures"}
    assert wanted <= {path.name for path in folder.iterdir()}
    assert load_config(folder / "best.yaml").n_embd == 16
    full = {number for number, trial in study.trials.items() if trial.final}
    kept = {int(path.parent.name) for path in folder.glob("trials/*/best.pt")}
    assert kept <= full
    assert len(kept) == min(3, len(full))


def test_the_same_command_on_a_finished_study_repeats_nothing_and_says_why(
    spec_file: Path, study: Study, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / NAME).read_bytes()
    again = run(spec_file)
    assert "the budget is used up (6 of 6 trials): no new trial begins" in " ".join(capsys.readouterr().out.split())
    assert (folder / NAME).read_bytes() == before
    assert numbers(again.trials[0]) == numbers(study.trials[0])


def printed_paths(text: str, folder: Path) -> set[str]:
    """The files of the study that the last lines of `run` name, relative to its folder."""
    return set(re.findall(rf"^(?:best config|figures|as a page): +{re.escape(str(folder))}/(\S+)", text, re.M))


def test_what_is_not_drawn_is_neither_written_nor_named(
    spec_file: Path, study: Study, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def again(*options: str) -> set[str]:
        shutil.rmtree(folder / "figures", ignore_errors=True)
        (folder / "report.html").unlink(missing_ok=True)
        assert main(["run", str(spec_file), *options]) == 0
        named = printed_paths(capsys.readouterr().out, folder)
        assert all((folder / name).exists() for name in named)
        return named

    assert again("--no-figures") == {"best.yaml", "report.html"}
    assert again("--no-report") == {"best.yaml", "figures"}
    assert again("--no-report", "--no-figures") == {"best.yaml"}
    assert not (folder / "figures").exists()
    assert again() == {"best.yaml", "report.html", "figures"}


def test_a_page_and_pictures_that_cannot_be_written_cost_only_themselves(
    spec_file: Path, study: Study, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folder / "figures", ignore_errors=True)
    (folder / "report.html").unlink(missing_ok=True)
    (folder / "figures").touch()
    (folder / "report.html").mkdir()
    assert main(["run", str(spec_file)]) == 0
    out, err = capsys.readouterr()
    assert "no figures" in err
    assert "report.html was not written" in err
    assert printed_paths(out, folder) == {"best.yaml"}
    (folder / "figures").unlink()
    (folder / "report.html").rmdir()


def test_another_spec_under_the_same_name_is_refused_with_the_key(spec_file: Path, folder: Path) -> None:
    other = spec_file.with_name("other.yaml")
    other.write_text(spec_file.read_text().replace("[1e-4, 1e-1]", "[1e-4, 1e-2]"))
    before = (folder / NAME).read_bytes()
    error = refusal(lambda: run(other))
    assert facts(error) == ("changed", ("space.learning_rate.log",), None)
    assert (folder / NAME).read_bytes() == before


def test_a_larger_budget_extends_the_study_and_a_retry_begins_failed_trials_again(
    spec_file: Path, study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def draw(*arguments: Any) -> None:
        threads.extend(thread.name for thread in threading.enumerate())

    monkeypatch.setattr(page, "write_beside", draw)
    more = spec_file.with_name("more.yaml")
    more.write_text(spec_file.read_text().replace("trials: 6", "trials: 8"))
    for number in BROKEN:
        (folder / "trials" / str(number)).unlink()
    extended = run(more, retry_failed=True)
    assert threads
    assert "ray-session" not in threads, "an object of Ray's that goes while Ray ends would end the process"
    assert "ray-pulse" not in threads, "once Ray was told to end, its end is no death"
    assert list(extended.trials) == list(range(8))
    assert all(trial.status in ENDED for trial in extended.trials.values())
    for number, before in study.trials.items():
        now = extended.trials[number]
        assert now.point == before.point
        assert numbers(now) == (alone(now) if number in BROKEN else numbers(before))
    assert "failed" not in {trial.status for trial in extended.trials.values()}
    points = [record["trial"] for record in read_records(folder / NAME) if record["record"] == "point"]
    assert points == list(range(8))


def test_a_cause_common_to_all_trials_stops_the_study_and_after_a_mend_the_same_command_has_its_whole_budget(
    tmp_path: Path,
) -> None:
    path, folder = write(tmp_path, ALIKE, max_tokens=1280), tmp_path / "runs" / "alike"
    everywhere = break_folder(folder / "trials")
    error = refusal(lambda: run(path))
    assert "cannot be made a run folder" in str(error)
    stopped = read_study(folder)
    assert failed_alike(stopped)
    everywhere.unlink()
    study = run(path)
    assert [trial.status for trial in study.trials.values()] == ["completed"] * 4
    assert [trial.point for trial in study.trials.values()] == [
        Sampler(study.header.spec, study.header.base).ask(number, Study()) for number in range(4)
    ]
    assert all(numbers(trial) == alone(trial) for trial in study.trials.values())


# a study with another stopping rule


def test_the_median_rule_stops_trials_at_rungs_and_a_second_driver_decides_by_the_same_values(
    tmp_path: Path, storage: Path
) -> None:
    path = write(tmp_path, MEDIAN, storage)
    first = run(path)
    path.write_text(path.read_text().replace("trials: 5", "trials: 8"))
    study = run(path)
    assert study.header.rungs == (640, 1280, 1920)
    assert [study.trials[number].decisions for number in first.trials] == [t.decisions for t in first.trials.values()]
    assert {trial.status for trial in study.trials.values()} == {"completed", "pruned"}
    rule = Median(min_trials=2)
    for record in read_records(storage / "median" / NAME):
        if record["record"] == "decision":
            rung = record["rung"]
            value = next(r["metrics"] for r in study.trials[record["trial"]].reports if r["rung"] == rung)
            decision = rule.report(record["trial"], rung, value["val_perplexity"])
            assert asdict(decision) == {key: record[key] for key in ("action", "value", "cutoff", "of")}
    stopped = [trial for trial in study.trials.values() if trial.status == "pruned"]
    assert all(trial.reports[-1]["rung"] == trial.rung for trial in stopped), "nobody trains on after its last rung"
    text = (storage / "median" / "leaderboard.md").read_text()
    assert "pruned at" in text


# one study, maltreated


@pytest.mark.slow
def test_a_killed_worker_and_ctrl_c_lose_nothing(tmp_path: Path, storage: Path) -> None:
    path = write(tmp_path, LONG, storage, n_embd=32)
    journal = storage / "long" / NAME
    command = [sys.executable, "-m", "search", "run", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True) as driver:
        try:
            until(lambda: [n for n in (0, 1) if len(records(journal, "report", n)) >= 2])
            with pytest.raises(UserError, match=f"being run by process {driver.pid} on"):
                run(path)
            for process in workers(driver.pid):
                process.kill()
            lost = lambda n: any(r.get("worker_lost") for r in records(journal, "status", n))
            again = until(lambda: [n for n in (0, 1) if lost(n)])[0]
            seen = len(records(journal, "report", again))
            until(lambda: len(records(journal, "report", again)) > seen + 1)
            os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: to Ray's processes too
            assert driver.wait(CEILING) == 130
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
    stopped = read_study(journal.parent)
    assert {trial.status for trial in stopped.trials.values()} <= {"interrupted", "completed"}
    assert "interrupted" in {trial.status for trial in stopped.trials.values()}

    whole = run(path)
    assert list(whole.trials) == [0, 1]
    for trial in whole.trials.values():
        assert trial.status == "completed"
        assert numbers(trial) == alone(trial)
        assert [report["tokens"] for report in trial.reports] == [9600 * n for n in range(1, 21)]


# what is refused before anything has begun


@pytest.mark.parametrize(
    ("changes", "extra", "words"),
    [
        ({"corpus": "text:/nowhere/to/be.txt"}, "", "/nowhere/to/be.txt"),
        ({}, "resources: {gpus: 1}\n", "no GPU here"),
        ({}, "resources: {cpus: 4096}\n", "no machine can give a trial cpus: 4096"),
        ({"block_size": 100_000}, "", "fewer than one block"),
        ({"max_tokens": "0.001 epochs"}, "", "first_rung"),
    ],
)
@pytest.mark.skipif(bool(list(Path("/dev").glob("nvidia[0-9]*"))), reason="one of them wants a machine without a GPU")
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, changes: dict[str, Any], extra: str, words: str
) -> None:
    path = write(tmp_path, SPEC + extra, **changes)
    with pytest.raises(UserError) as caught:
        run(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.yaml", "spec.yaml"]


def test_a_tracking_server_that_is_away_is_said_before_anything_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    path = write(tmp_path, SPEC, corpus="text:/nowhere/to/be.txt")
    with pytest.raises(UserError, match=r"MLflow at http://127\.0\.0\.1:9"):
        run(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.yaml", "spec.yaml"]


def test_a_journal_that_cannot_be_written_is_remembered_in_the_users_words(tmp_path: Path) -> None:
    ledger = driver.DriverLedger(tmp_path)
    ledger.write("study", version=1)
    with largest_file(100), pytest.raises(UserError, match="cannot write the journal: File too large"):
        ledger.write("study", version=1, spec={"study": "x" * 100})
    assert isinstance(ledger.broken, UserError)
