"""Studies as jobs on a real Ray head with its dashboard and a token: submitted, followed, listed, stopped, resumed.

The head is started once; jobs are shared between tests, as each takes seconds to begin.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from search.study import environment
from search.study.journal import NAME, read_records
from search.study.study import Study, read_study
from search.tracking import credentials
from tests import tiny
from tests.drivers import until
from tests.heads import Head, nanosweep
from tests.soak.processes import ROOT
from tests.stores import fresh_store
from tests.waiting import CEILING

pytestmark = pytest.mark.slow

SPEC = """
study: quick
base: base.yaml
space:
  learning_rate: {{log: [1e-3, 1e-2]}}
sampler: random
budget: {{trials: {trials}}}
storage: {storage}
"""
LONG = "set: {max_tokens: 1920k, eval_every: 6400}\nresources: {at_once: 1}\n"  # until it is stopped
PASSWORD = "s3cret-of-mlflow"


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    made = Head(tmp_path_factory.mktemp("head"), cpus=2)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with MLflow's tables in it."""
    made = tmp_path_factory.mktemp("storage") / "runs"
    fresh_store(made)
    return made


@pytest.fixture(scope="module")
def quick(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec of three short trials, and its base, outside of the checkout."""
    return write(tmp_path_factory.mktemp("elsewhere"), storage, trials=3)


def write(folder: Path, storage: Path, rest: str = "", trials: int = 2) -> Path:
    config = tiny.config().model_dump(mode="json", exclude_none=True)
    (folder / "base.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items()))
    path = folder / "spec.yaml"
    path.write_text(SPEC.format(storage=storage, trials=trials) + rest)
    return path


@pytest.fixture(scope="module")
def finished(head: Head, quick: Path, storage: Path) -> subprocess.CompletedProcess[str]:
    """Two trials of the quick study, submitted by somebody whose MLflow has a password, and followed to its end."""
    secret = {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    uri = {"MLFLOW_TRACKING_URI": f"sqlite:///{storage}/mlflow.db"}
    command = ["submit", str(quick), "--trials", "2", "--no-figures", "--follow", "--address", head.address]
    return nanosweep(head, *command, **secret, **uri)


def reports(folder: Path, number: int = 0) -> int:
    return len(study(folder).trials[number].reports) if number in study(folder).trials else 0


def study(folder: Path) -> Study:
    """What its journal says; an empty one before its first record."""
    with suppress(FileNotFoundError, UserError):
        return read_study(folder)
    return Study()


def id_in(text: str) -> str:
    found = re.search(r"^job (\S+): http://127", text, re.M)
    assert found, text
    return found[1]


def test_a_study_is_submitted_and_followed_to_its_end(
    head: Head, finished: subprocess.CompletedProcess[str], storage: Path
) -> None:
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert re.search(rf"^job (quick-\d{{8}}-\d{{4}}): {head.address}/#/jobs/\1$", finished.stdout, re.M)
    assert "study quick: 2 trials, 2 at once" in finished.stdout
    assert "best config:" in finished.stdout
    assert ("figures:" in finished.stdout, (storage / "quick" / "figures").exists()) == (False, False)
    assert (storage / "quick" / "report.html").is_file()
    assert "\x1b" not in finished.stdout  # a log is no terminal
    ended = study(storage / "quick")
    assert [trial.status for trial in ended.trials.values()] == ["completed"] * 2
    # the package has no git; what it ran is known all the same, and shows that it was the package that ran
    assert (ended.header.commit, ended.header.dirty) == environment.code()


def test_no_password_or_token_is_in_logs_job_records_or_the_study(
    head: Head, finished: subprocess.CompletedProcess[str], storage: Path
) -> None:
    assert finished.returncode == 0
    kept = storage / credentials.FILE
    assert PASSWORD in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    record = _job(head, id_in(finished.stdout))
    assert record["runtime_env"]["env_vars"][credentials.VARIABLE] == str(kept)
    files = [path for path in storage.rglob("*") if path.is_file() and path != kept]
    texts = [path.read_bytes().decode(errors="replace") for path in files]
    for secret in (PASSWORD, head.token):
        assert secret not in json.dumps(record)
        assert secret not in head.logs()
        assert secret not in finished.stdout + finished.stderr
        assert not [path for path, text in zip(files, texts, strict=True) if secret in text]


def _job(head: Head, id_: str) -> Any:
    """A job as Ray tells of it."""
    return head.get(f"/api/jobs/{id_}")


def test_without_the_token_the_dashboard_refuses_and_our_line_says_where_it_belongs(head: Head, tmp_path: Path) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        head.get("/api/jobs/", token=False)
    assert caught.value.code == 401
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text("0" * 64)
    said = nanosweep(head, "jobs", "--address", head.address, RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
    assert said.returncode == 2
    assert said.stderr.count("\n") == 1
    assert "~/.ray/auth_token" in said.stderr


def test_jobs_are_listed_and_their_logs_found_by_study_or_id(
    head: Head, finished: subprocess.CompletedProcess[str]
) -> None:
    id_ = id_in(finished.stdout)
    listed = nanosweep(head, "jobs", RAY_API_SERVER_ADDRESS=head.address)
    (line,) = [line for line in listed.stdout.splitlines() if line.startswith(id_)]
    assert line.split()[:3] == [id_, "quick", "succeeded"]
    by_id, by_study = (nanosweep(head, "logs", word, "--address", head.address) for word in (id_, "quick"))
    assert by_id.stdout == by_study.stdout
    assert "best config:" in by_id.stdout
    unknown = nanosweep(head, "logs", "quik", "--address", head.address)
    assert unknown.returncode == 2
    assert re.fullmatch(r"nanosweep: quik: no such job or study at \S+; did you mean quick\?\n", unknown.stderr)


def test_a_driver_that_cannot_reach_mlflow_says_on_which_node_and_its_exit_code_is_ours(
    head: Head, quick: Path
) -> None:
    words = ("submit", str(quick), "--name", "away", "--follow", "--address", head.address)
    done = nanosweep(head, *words, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 2
    assert re.search(r"^nanosweep: node \S+: MLflow at http://127.0.0.1:9 cannot be used", done.stdout, re.M)
    listed = nanosweep(head, "jobs", "--address", head.address).stdout
    assert re.search(r"away +failed .* node \S+: MLflow at", listed)


def test_two_studies_run_at_once_and_one_that_is_stopped_goes_on_when_submitted_again(
    head: Head, quick: Path, storage: Path, tmp_path: Path
) -> None:
    long, folder, other = write(tmp_path, storage, LONG), storage / "long", tmp_path / "other"
    fresh_store(other)
    words = ("submit", str(long), "--name", "long", "--address", head.address)

    # following is left by Ctrl-C, the job continues
    follower = subprocess.Popen(
        [sys.executable, "-m", "search", *words, "--follow"],
        cwd=ROOT,
        env={**head.environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until(lambda: reports(folder) >= 2)
        os.killpg(follower.pid, signal.SIGINT)
        out, err = follower.communicate(timeout=CEILING)
    finally:
        follower.kill()
    id_ = id_in(out)
    assert follower.returncode == 130
    assert f"nanosweep stop {id_}" in err
    assert "Traceback" not in err

    # the same study again is refused before anything is sent
    again = nanosweep(head, *words)
    assert again.returncode == 2
    assert f"study long in {storage} is being run by job {id_}" in again.stderr
    assert again.stderr.count("\n") == 1

    # another one beside it, in a storage of its own
    beside = nanosweep(head, "submit", str(quick), "--storage", str(other), "--follow", "--address", head.address)
    assert beside.returncode == 0, beside.stdout + beside.stderr
    assert [trial.status for trial in study(other / "quick").trials.values()] == ["completed"] * 3
    assert study(folder).trials[0].status == "running"

    stopped = nanosweep(head, "stop", "long", "--address", head.address)
    assert stopped.returncode == 0, stopped.stderr
    assert "submitting the study again resumes what ran" in stopped.stdout
    first = study(folder).trials[0]
    assert (first.status, first.cause) == ("interrupted", "stopped by SIGTERM")
    assert len(study(folder).trials) == 1  # at most one at a time, as it was told

    assert nanosweep(head, *words).returncode == 0
    until(lambda: _starts(folder)[1:])
    assert _starts(folder) == [0, first.tokens]
    assert nanosweep(head, "stop", "long", "--address", head.address).returncode == 0


def _starts(folder: Path) -> list[int]:
    """The tokens from which trial 0 ran, each time."""
    return [r["tokens"] for r in read_records(folder / NAME) if r.get("status") == "running" and r["trial"] == 0]


def test_the_plain_ray_job_submit_of_a_checkout_works_as_well(head: Head, quick: Path, storage: Path) -> None:
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", head.address]
    command += ["--working-dir", ".", "--", "python", "-m", "search", "run", str(quick)]
    command += ["--trials", "2", "--name", "plain"]
    done = subprocess.run(command, cwd=ROOT, env=head.environment, capture_output=True, text=True, timeout=CEILING)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [trial.status for trial in study(storage / "plain").trials.values()] == ["completed"] * 2


def test_three_nodes_run_one_study_with_trials_on_each_until_one_of_another_set_joins(
    head: Head, storage: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        head.add(cpus=1)
    path = write(tmp_path, storage, "set: {max_tokens: 128k, eval_every: 32k}\n")
    path.write_text(path.read_text().replace("trials: 2", "trials: 4"))
    submitted = nanosweep(head, "submit", str(path), "--name", "nodes", "--address", head.address)
    assert submitted.returncode == 0, submitted.stderr
    id_ = id_in(submitted.stdout)
    until(lambda: _job(head, id_)["status"] in ("SUCCEEDED", "FAILED"))
    ended = study(storage / "nodes")
    assert [trial.status for trial in ended.trials.values()] == ["completed"] * 4
    nodes = {node["node_id"] for node in head.state("nodes") if node["state"] == "ALIVE"}
    on = {worker["pid"]: worker["node_id"] for worker in head.state("workers")}
    records = [r for r in read_records(storage / "nodes" / NAME) if r.get("status") == "completed"]
    assert {on[int(record["node"].split()[-1])] for record in records} == nodes
    assert len(nodes) == 3

    older = tmp_path / "older" / "optuna-4.0.0.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: optuna\nVersion: 4.0.0\n")
    head.add(cpus=1, PYTHONPATH=str(older.parent))
    refused = nanosweep(head, "submit", str(path), "--name", "mixed", "--follow", "--address", head.address)
    assert refused.returncode == 2
    assert re.search(r"^nanosweep: node \S+ has optuna 4\.0\.0 \(driver: \S+\)", refused.stdout, re.M)
    assert not (storage / "mixed" / NAME).exists()
