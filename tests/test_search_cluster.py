"""Which cluster is meant, and what is said where there is none."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from data.errors import UserError
from search.jobs import cluster
from search.service import state
from search.service.state import Process, Service


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (cluster.ADDRESS, "RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "put back after the test")
        monkeypatch.delenv(name)


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def up(storage: Path, dashboard: str) -> Service:
    """What `nanosweep up` would leave; this process stands for its Ray."""
    me = psutil.Process()
    (storage / state.FOLDER).mkdir(parents=True)
    made = Service(
        storage=storage,
        machine=socket.gethostname(),
        started=me.create_time(),
        host="127.0.0.1",
        ray_address="127.0.0.1:6379",
        dashboard=dashboard,
        mlflow="http://127.0.0.1:5000",
        scratch=storage,
        token_file=storage / "token",
        mlflow_credentials=None,
        mlflow_ours=False,
        ray=Process(me.pid, me.create_time(), "mark"),
        mlflow_server=None,
    )
    state.record(made)
    return made


def test_without_a_cluster_the_line_says_how_to_start_or_name_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nanosweep up.*--address http://HOST:8265") as caught:
        cluster.find(None, [tmp_path])
    assert "\n" not in str(caught.value)


def test_the_service_of_the_storage_is_found_with_its_token_and_its_mlflow(tmp_path: Path, listening: str) -> None:
    made = up(tmp_path, listening)
    found = cluster.find(None, [tmp_path / "none", tmp_path])
    assert (found.address, found.service) == (listening, made)
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
    assert os.environ["MLFLOW_TRACKING_URI"] == made.mlflow


def test_an_address_given_comes_before_the_environment_and_that_before_the_service(
    tmp_path: Path, listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    up(tmp_path, "http://127.0.0.1:1")
    monkeypatch.setenv(cluster.ADDRESS, listening)
    assert cluster.find(None, [tmp_path]).address == listening
    monkeypatch.setenv(cluster.ADDRESS, "http://127.0.0.1:1")
    found = cluster.find(listening, [tmp_path])
    assert (found.address, found.service) == (listening, None)
    assert os.environ[cluster.ADDRESS] == listening  # Ray's client would otherwise go where that variable points


def test_another_tracking_server_than_the_services_is_left_alone(
    tmp_path: Path, listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    up(tmp_path, listening)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    cluster.find(None, [tmp_path])
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://elsewhere:5000"


def test_a_cluster_that_is_away_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=f"no Ray dashboard answers at http://127.0.0.1:{port}: connection refused"):
        cluster.find(f"127.0.0.1:{port}", [tmp_path])


@pytest.mark.parametrize("address", ["ray://head:10001", "head:x", "http://", "http://me:s3cret@head:8265"])
def test_another_kind_of_address_is_refused_without_a_password_in_it(tmp_path: Path, address: str) -> None:
    with pytest.raises(UserError, match=r"http://HOST:8265") as caught:
        cluster.find(address, [tmp_path])
    assert "s3cret" not in str(caught.value)
