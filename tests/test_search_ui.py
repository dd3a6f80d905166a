"""A real MLflow server, as `nanosweep ui` starts it: the page, reading through it alone, and outages."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from search.cli.main import main
from search.service import background
from search.study.study import read_study
from search.tracking import mlflow_store
from search.tracking.mlflow_read import fetch_study, parents
from search.tracking.mlflow_tracker import MlflowTracker
from search.tracking.mlflow_view import link
from search.tracking.tracker import connected
from tests import journals
from tests.browser import browser
from tests.stores import fresh_store
from tests.waiting import CEILING, until
from trainer.config import load

ROOT = Path(__file__).parent.parent


class Page(NamedTuple):
    url: str
    storage: Path
    said: list[str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """`nanosweep ui` over a storage with the study quick; ended by Ctrl-C, which must end all of it."""
    storage, port = tmp_path_factory.mktemp("storage"), free_port()
    uri = fresh_store(storage)
    ledger = journals.write_study(storage / "quick")
    tracker = MlflowTracker(storage / "quick", uri)
    tracker.follow(ledger)
    assert tracker.close() == ""
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "search", "ui", "--storage", str(storage), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line.rstrip())
        if line.startswith("Ctrl-C"):
            break
    started = psutil.Process(process.pid).children(recursive=True)
    yield Page(f"http://127.0.0.1:{port}", storage, said)
    process.send_signal(signal.SIGINT)
    assert process.wait(CEILING) == 130
    process.stdout.close()
    assert len(started) >= 2
    assert not [child for child in started if background.breathes(child)]


class Proxy:
    """The way to the server; can be cut."""

    def __init__(self, url: str) -> None:
        self.target = int(url.rpartition(":")[2])
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.open: list[socket.socket] = []
        self.begin()

    def begin(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, args=[self.listener], daemon=True).start()

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                here, _ = listener.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self.target))
            self.open += [here, there]
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=self.pump, args=[source, sink], daemon=True).start()

    @staticmethod
    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self) -> None:
        for part in (self.listener, *self.open):
            with contextlib.suppress(OSError):
                part.shutdown(socket.SHUT_RDWR)
            part.close()
        self.open.clear()


def get(url: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return json.loads(opener.open(url, timeout=CEILING).read())


@pytest.mark.slow
def test_the_link_opens_the_study_sorted_by_objective(page: Page) -> None:
    link = re.search(r"sorted by objective: (\S+)", page.said[0])
    assert link is not None
    found = re.fullmatch(rf"{page.url}/#/experiments/(\d+)/runs\?viewStateShareKey=(\S+?)&workflowType=\S+", link[1])
    assert found is not None
    tags = get(f"{page.url}/api/2.0/mlflow/experiments/get?experiment_id={found[1]}")["experiment"]["tags"]
    states = {tag["key"]: tag["value"] for tag in tags}
    assert json.loads(states[f"mlflow.sharedViewState.{found[2]}"])["orderByKey"] == "metrics.`objective`"


@pytest.mark.slow
def test_a_study_of_another_machine_is_read_through_the_server_alone(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", page.url)
    monkeypatch.chdir(tmp_path)
    # its files lie in a folder that only the server's machine has
    hidden = page.storage.with_name("hidden")
    study = read_study(page.storage / "quick")
    shutil.move(page.storage / "quick", hidden)
    try:
        assert main(["leaderboard", "quick"]) == 0
        assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["1", "1", "4.000"]
        assert main(["export", "quick", "-o", "best.yaml"]) == 0
        assert load(tmp_path / "best.yaml").loss == "squentropy"
        assert repr(fetch_study("quick", page.url)) == repr(study)
        assert main(["leaderboard", "quik"]) == 2
        assert "did you mean quick?" in capsys.readouterr().err
    finally:
        shutil.move(hidden, page.storage / "quick")


@pytest.mark.slow
def test_a_server_that_goes_away_and_comes_back_misses_nothing(page: Page, tmp_path: Path) -> None:
    proxy = Proxy(page.url)
    said: list[str] = []
    ledger = journals.write_study(tmp_path / "outage")
    with connected(MlflowTracker(tmp_path / "outage", proxy.url, say=said.append)) as tracker:
        tracker.follow(ledger)
        until(lambda: not tracker._behind and tracker.link is not None)
        proxy.cut()
        journals.complete(ledger, 7, 3.0)
        journals.start(ledger, 6)
        journals.report(ledger, 6, 1000, 9.0)
        until(lambda: bool(said))
        proxy.begin()
        journals.end(ledger, 6, "pruned", rung=1000)
        assert tracker.close() == ""
    assert len(said) == 1
    assert "the search continues" in said[0]
    client = mlflow_store.connect(page.url)
    (parent,) = [parent for parent in parents(client) if parent.study == "outage"]
    runs = client.search_runs([parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    states = {int(run.data.tags["nanosweep.trial"]): (run.info.status, run.data.tags["status"]) for run in runs}
    assert len(runs) == len(states) == 8
    assert states[7] == ("FINISHED", "completed")
    assert states[6] == ("FINISHED", "pruned")
    assert "RUNNING" not in {run.info.status for run in runs}
    assert len(client.get_metric_history(runs[0].info.run_id, "tokens")) == len(
        {metric.step for metric in client.get_metric_history(runs[0].info.run_id, "tokens")}
    )
    assert repr(fetch_study("outage", page.url)) == repr(ledger.study)
    proxy.cut()


@pytest.mark.slow
def test_a_study_run_through_a_server_links_to_it(page: Page, tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "linked")
    tracker = MlflowTracker(tmp_path / "linked", page.url)
    tracker.connect()
    tracker.follow(ledger)
    assert tracker.close() == ""
    assert tracker.link is not None
    assert tracker.link.startswith(f"{page.url}/#/experiments/")
    assert not (tmp_path / "mlartifacts").exists()  # its files are the server's


@pytest.mark.slow
def test_leaderboard_ends_with_the_link_to_the_very_study(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", page.url)
    (parent,) = [parent for parent in parents(mlflow_store.connect(page.url)) if parent.study == "quick"]
    wanted = f"in the browser, sorted by objective: {link(page.url, parent.experiment_id, parent.run_id)}"
    assert main(["leaderboard", "quick", "--storage", str(page.storage)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == wanted
    journals.write_study(tmp_path / "quick")  # another of that name, which the server does not know
    assert main(["leaderboard", str(tmp_path / "quick")]) == 0
    assert "in the browser" not in capsys.readouterr().out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert main(["leaderboard", "quick", "--storage", str(page.storage)]) == 0
    assert "no link: MLflow at" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.slow
def test_report_works_through_the_server_alone(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", page.url)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "quick"]) == 0
    html = (tmp_path / "quick-report.html").read_text()
    assert "7 trials" in capsys.readouterr().out
    assert "are not at hand here" in html


@pytest.mark.slow
def test_in_chromium_the_link_shows_the_objective_best_first_and_the_parents_page_its_leaderboard(page: Page) -> None:
    found = re.search(r"sorted by objective: (\S+)", page.said[0])
    assert found is not None
    (parent,) = [parent for parent in parents(mlflow_store.connect(page.url)) if parent.study == "quick"]
    with browser() as shown:
        shown.open(found[1], 1440)
        shown.until("document.body.innerText.includes('lr=0.001 cross_entropy')")
        text = shown.ask("document.body.innerText")
        assert text.index("lr=0.002 squentropy") < text.index("lr=0.001 cross_entropy") < text.index("lr=0.003")
        heads = "[...document.querySelectorAll('*')].filter(e => !e.children.length && e.innerText === 'objective')"
        right = shown.ask(f"Math.min(...{heads}.map(e => e.getBoundingClientRect().right))")
        assert 0 < right < 1440  # the column is in sight
        shown.open(f"{page.url}/#/experiments/{parent.experiment_id}/runs/{parent.run_id}", 1440)
        shown.until("document.body.innerText.includes('lr=0.002 squentropy')")
        assert "the leader" in (text := shown.ask("document.body.innerText")) or "7 trials" in text


@pytest.mark.slow
def test_ui_with_a_server_of_ones_own_only_links_to_it(
    page: Page, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", page.url)
    assert main(["ui", "quick"]) == 0
    assert f"quick, sorted by objective: {page.url}/#/experiments/" in capsys.readouterr().out
