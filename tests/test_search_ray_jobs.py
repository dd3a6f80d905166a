"""What is said of jobs, and what a submission carries, without a cluster."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from data.errors import UserError
from search.cli.jobs import table
from search.jobs.cluster import Cluster
from search.jobs.ray_jobs import GRACE, Job, brief
from search.jobs.submit import check_free, folder_there, job_id, variables
from search.study import environment
from search.tracking import credentials
from search.tracking.mlflow_tracker import MlflowTracker

HEAD = "http://head:8265"
NOW = 1_795_729_324.0
RUNNING = Job("quick-20261126-2134", "quick", "/shared/runs", "RUNNING", "", NOW - 83, None, None)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        credentials.VARIABLE,
        "MLFLOW_TRACKING_URI",
        *(f"MLFLOW_TRACKING_{n}" for n in ("USERNAME", "PASSWORD")),
    ):
        monkeypatch.delenv(name, raising=False)


def test_a_jobs_id_has_the_study_and_the_minute_and_is_never_used_twice() -> None:
    first = job_id("quick", [], NOW)
    assert first.startswith("quick-2026112")
    second = job_id("quick", [first], NOW)
    assert second == f"{first}-2"
    assert job_id("quick", [first, second], NOW) == f"{first}-3"


def test_of_a_failed_jobs_pages_the_table_has_the_line_that_says_why() -> None:
    pages = "Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 chars):\n"
    pages += "2026-11-26 21:42:19,419\tINFO job_manager.py:581 -- Runtime env is setting up.\nnote: x\n"
    assert brief(f"{pages}nanosweep: node n: no\nRunning entrypoint for job q: exec python\n") == "node n: no"
    assert brief(f"{pages}KeyError: 'a'\nRunning entrypoint for job q: exec python\n") == "KeyError: 'a'"
    assert brief("Job is currently running.") == ""


def test_the_table_tells_how_long_and_why() -> None:
    failed = Job("raysubmit_1", "", "", "FAILED", "no such file", NOW - 7500, NOW - 300, 2)
    heads, first, second = table([RUNNING, failed], NOW).splitlines()
    assert heads.split() == ["job", "study", "status", "started", "took", "message"]
    assert first.split()[:3] == [RUNNING.id, "quick", "running"]
    assert first.endswith("1m23s")
    assert second.startswith("raysubmit_1 ")
    assert second.endswith("2h00m  no such file")


def test_a_study_that_a_job_runs_is_not_submitted_twice_into_one_storage() -> None:
    with pytest.raises(UserError, match=rf"is being run by job {RUNNING.id}.*nanosweep stop {RUNNING.id}") as caught:
        check_free([RUNNING], "quick", Path("/shared/runs"), HEAD)
    assert "\n" not in str(caught.value)
    check_free([RUNNING], "quick", Path("/other/runs"), HEAD)
    check_free([Job(**{**vars(RUNNING), "status": "STOPPED"})], "quick", Path("/shared/runs"), HEAD)


def test_a_relative_storage_is_absolute_here_and_refused_elsewhere(tmp_path: Path) -> None:
    assert folder_there("./runs", tmp_path / "s", True, HEAD) == tmp_path / "s"
    assert folder_there("/shared/runs", Path("/private/shared/runs/s"), False, HEAD) == Path("/shared/runs/s")
    with pytest.raises(UserError, match="--storage /shared/runs"):
        folder_there("./runs", tmp_path / "s", False, HEAD)


def test_a_job_knows_the_commit_and_the_tracking_server_and_has_time_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    given = variables(Cluster(HEAD), MlflowTracker(tmp_path / "s"), here=False)
    assert given["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert given["RAY_JOB_STOP_WAIT_TIME_S"] == str(GRACE)
    commit, dirty = environment.code()
    assert given.get(environment.COMMIT) == commit
    assert given.get(environment.DIRTY) == (None if dirty is None else str(int(dirty)))


def test_a_password_goes_into_a_file_here_and_nowhere_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:s3cret@mlflow:5000")
    given = variables(Cluster(HEAD), MlflowTracker(tmp_path / "s"), here=True)
    assert "s3cret" not in str(given)
    assert "MLFLOW_TRACKING_URI" not in given  # the file has it whole
    file = Path(given[credentials.VARIABLE])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(UserError, match=credentials.VARIABLE) as caught:
        variables(Cluster(HEAD), MlflowTracker(tmp_path / "s"), here=False)
    assert "s3cret" not in str(caught.value)
    monkeypatch.setenv(credentials.VARIABLE, "/on/the/head")
    assert variables(Cluster(HEAD), MlflowTracker(tmp_path / "s"), here=False)[credentials.VARIABLE] == "/on/the/head"


def test_a_database_file_of_this_machine_means_nothing_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert (
        variables(Cluster(HEAD), MlflowTracker(tmp_path / "s"), here=True)["MLFLOW_TRACKING_URI"]
        == f"sqlite:///{tmp_path}/mlflow.db"
    )
    with pytest.raises(UserError, match="file of this machine"):
        variables(Cluster(HEAD), MlflowTracker(tmp_path / "s"), here=False)


def test_a_copy_without_git_takes_its_commit_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.COMMIT, "abc")
    monkeypatch.setenv(environment.DIRTY, "1")
    assert environment.code(tmp_path) == ("abc", True)
    monkeypatch.delenv(environment.DIRTY)
    assert environment.code(tmp_path) == ("abc", None)
