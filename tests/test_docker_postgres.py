"""MLflow as docker/compose.yaml starts it, on a real PostgreSQL: its login, its names, a whole study through it."""

from __future__ import annotations

import base64
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from search.run import study_run
from search.service import background
from search.spec.load import load_spec
from search.study.study import read_study
from search.tracking.mlflow_read import fetch_study
from search.tracking.mlflow_store import connect
from search.tracking.mlflow_tracker import MlflowTracker
from search.tracking.tracker import connected
from tests import composed, journals, tiny, waiting

pytestmark = pytest.mark.slow
PASSWORD = composed.SECRETS["MLFLOW_PASSWORD"]
SPEC = """
study: {name}
base: base.yaml
space:
  learning_rate: {{log: [1e-3, 1e-2]}}
sampler: random
budget: {{trials: 3}}
storage: {storage}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(done: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a server. Raises AssertionError with its last lines when it ends."""
    waiting.until(lambda: done() or process.poll() is not None, log.name)
    assert process.poll() is None, log.read_text()[-2000:]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """HOST:PORT of a PostgreSQL as the image of compose.yaml makes it; under a user of its own, as it runs as no root.

    Its data lie in a folder that goes with it.
    """
    import psycopg

    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which("initdb", path=os.pathsep.join([*map(str, programs), os.environ["PATH"]]))
    if found is None:
        pytest.skip("needs PostgreSQL's programs (Debian: apt install postgresql)")
    user = pwd.getpwnam("postgres") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    wanted = composed.services(**composed.SECRETS)["database"]["environment"]
    folder, port = Path(tempfile.mkdtemp(prefix="nanosweep-pg-")), free_port()
    (folder / "password").write_text(wanted["POSTGRES_PASSWORD"])
    who: dict[str, Any] = {"cwd": folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}}
    if os.getuid() == 0:
        for path in (folder, folder / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
        who |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    make = [
        found,
        "-D",
        "data",
        "-U",
        wanted["POSTGRES_USER"],
        "--pwfile=password",
        "--auth=scram-sha-256",
        "-E",
        "UTF8",
    ]
    subprocess.run([*make, "--no-sync"], check=True, capture_output=True, **who)
    serve = [
        str(Path(found).with_name("postgres")),
        "-D",
        "data",
        "-p",
        str(port),
        "-k",
        str(folder),
        "-c",
        "fsync=off",
    ]
    about = {
        "host": "127.0.0.1",
        "port": port,
        "user": wanted["POSTGRES_USER"],
        "password": wanted["POSTGRES_PASSWORD"],
    }

    def answers() -> bool:
        try:
            connection = psycopg.connect(dbname="postgres", **about)
        except psycopg.OperationalError:
            return False
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {wanted['POSTGRES_DB']}")
        connection.close()
        return True

    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*serve, "-c", "listen_addresses=127.0.0.1"], stdout=log, stderr=log, **who)
    try:
        until(answers, process, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)  # asked by SIGTERM it waits for its clients
        process.wait(waiting.CEILING)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of MLflow, started by compose.yaml's own command and environment, on a port of this machine."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    service = composed.services(**composed.SECRETS)["mlflow"]
    given = {"--host": "127.0.0.1", "--port": str(port), "--workers": "1", "--artifacts-destination": str(folder)}
    words = [sys.executable, "-m", *service["entrypoint"], *service["command"]]
    for option, value in given.items():
        words[words.index(option) + 1] = value
    (folder / "basic_auth.ini").write_text(
        (composed.FOLDER / "basic_auth.ini").read_text().replace("/artifacts", str(folder))
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment |= {**service["environment"], "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini")}
    place = environment["MLFLOW_BACKEND_STORE_URI"]
    environment |= {
        "MLFLOW_BACKEND_STORE_URI": place.replace("database:5432", database),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    url = f"http://127.0.0.1:{port}"
    healthy = [sys.executable, str(composed.FOLDER / "healthy.py"), f"{url}/health"]
    process = background.begin(words, environment, folder / "log", folder)
    try:
        until(lambda: subprocess.run(healthy, capture_output=True).returncode == 0, process, folder / "log")
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        shown = " ".join(word for one in family for word in one.cmdline())
        assert not [name for name, secret in composed.SECRETS.items() if secret in shown], "ps shows a secret"
        yield url
    finally:
        background.end(lambda: background.group(process.pid))
        process.wait()


def ask(server: str, password: str | None, host: str | None = None) -> int:
    """The status of a question to the API. host: the name under which it is asked."""
    request = urllib.request.Request(f"{server}/api/2.0/mlflow/experiments/search?max_results=1")
    if password is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"admin:{password}".encode()).decode())
    if host is not None:
        request.add_header("Host", host)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            request, timeout=waiting.CEILING
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_mlflow_wants_its_password_and_answers_to_its_own_names_only(server: str) -> None:
    assert ask(server, None) == 401
    assert ask(server, "wrong-password") == 401
    assert ask(server, PASSWORD) == 200
    assert ask(server, PASSWORD, host="mlflow:5000") == 200  # as the cluster's nodes call it
    assert ask(server, PASSWORD, host="evil.example") == 403


@pytest.fixture
def named(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server, as the environment names it on every node."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    connect(server, waiting.CEILING)  # MLflow's client takes seconds to load, which a search has patience for once only
    return server


def runs(database: str, study: str) -> list[tuple[str, int]]:
    """What PostgreSQL itself holds: how many runs of a study have which status."""
    import psycopg

    place = composed.services(**composed.SECRETS)["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
    query = (
        "SELECT status, count(*) FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name LIKE %s "
        "GROUP BY status ORDER BY status"
    )
    with psycopg.connect(place.replace("database:5432", database)) as connection:
        return [(str(status), int(n)) for status, n in connection.execute(query, [f"%{study}%"]).fetchall()]


def test_a_journal_arrives_whole_and_comes_back_through_the_server_alone(
    named: str, database: str, tmp_path: Path
) -> None:
    ledger = journals.write_study(tmp_path / "sent")
    with connected(MlflowTracker(tmp_path / "sent")) as tracker:
        tracker.follow(ledger)
        assert tracker.close(waiting.CEILING) == ""
    shutil.move(tmp_path / "sent", tmp_path / "hidden")
    assert repr(fetch_study("sent", named)) == repr(read_study(tmp_path / "hidden"))
    assert sum(n for _, n in runs(database, "sent")) == 7  # the study and the six trials that began


def test_a_study_runs_on_it_and_is_read_back_through_it_alone(
    named: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = tiny.config().model_dump(mode="json", exclude_none=True)
    (tmp_path / "base.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items()))
    (tmp_path / "spec.yaml").write_text(SPEC.format(name="on-postgres", storage=tmp_path / "runs"))
    study_run.run(*load_spec(tmp_path / "spec.yaml"))
    study = read_study(tmp_path / "runs" / "on-postgres")
    assert [trial.status for trial in study.trials.values()] == ["completed"] * 3
    shutil.move(tmp_path / "runs", tmp_path / "hidden")
    assert repr(fetch_study("on-postgres", named)) == repr(study)
    assert runs(database, "on-postgres") == [("FINISHED", 4)]
