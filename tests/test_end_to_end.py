"""What a user does in an afternoon, from a fresh clone, on real servers: a service comes up, a study is submitted, its
driver dies, it is submitted again, looked at in a browser, exported, and trained further on two workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from data.errors import UserError
from search.service import background, state
from search.study.journal import INACTIVE, NAME, read_records
from search.study.scores import best, objective
from search.study.study import Study, read_study
from tests import browser
from tests.waiting import CEILING, until

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


class Clone:
    """A fresh clone, and a user in it: no variable of ours but those of the service."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "nanosweep"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.folder)], check=True, timeout=CEILING)
        self.storage = self.folder / "runs"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        path = f"{Path(sys.executable).parent}:{kept.get('PATH', '')}"
        self.environment = kept | {"PATH": path, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}

    def __call__(self, *words: str, **more: str) -> str:
        """What a command that succeeds prints."""
        command = [sys.executable, "-m", "search", *words]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment | more, capture_output=True, text=True, timeout=CEILING
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    if not (ROOT / ".git").exists():
        pytest.skip("a clone needs a git checkout")
    made = Clone(tmp_path)
    try:
        yield made
    finally:
        with suppress(AssertionError):
            made("down")


def study(folder: Path) -> Study:
    with suppress(FileNotFoundError, UserError):  # its driver is still beginning
        return read_study(folder)
    return Study()


def test_from_a_clone_to_a_full_run_through_the_service(clone: Clone) -> None:
    ports = [str(port) for port in range(23300, 23400) if background.free(port, "0.0.0.0")][:3]
    said = clone("up", "--ray-port", ports[0], "--dashboard-port", ports[1], "--mlflow-port", ports[2])
    found = state.running(clone.storage)
    assert found is not None, said
    family = [psutil.Process(part.pid) for part in found.parts.values()]

    clone("submit", "search/specs/quickstart.yaml", "--scale", "tiny")
    folder = clone.storage / "quickstart-tiny"
    until(lambda: [trial for trial in study(folder).trials.values() if trial.status in INACTIVE])
    os.kill(json.loads((folder / "driver.json").read_text())["pid"], signal.SIGKILL)
    before = study(folder)
    until(lambda: "failed" in clone("jobs").lower())

    told = clone("submit", "search/specs/quickstart.yaml", "--scale", "tiny", "--follow")
    assert "best config:" in told
    after = read_study(folder)
    assert all(trial.status in INACTIVE for trial in after.trials.values())
    assert len(after.searched) == 6
    ended = [number for number, trial in before.trials.items() if trial.status in INACTIVE]
    again = Counter(
        record["trial"]
        for record in read_records(folder / NAME)
        if record["record"] == "status" and record["status"] == "running"
    )
    assert {again[number] for number in ended} == {1}  # nothing that had ended was trained again

    leader = best(after)
    assert leader is not None
    board = clone("leaderboard", "quickstart-tiny")
    link = re.search(r"in the browser, sorted by objective: (\S+)", board)
    assert link, board
    if not browser.missing():
        value = objective(after, leader)
        assert value is not None
        with browser.browser() as page:
            page.open(link[1])
            page.until(f"document.body.innerText.includes({leader.name!r})")
            page.until(f"document.body.innerText.includes('{value:.4g}'.slice(0, 4))")

    clone("export", "quickstart-tiny", "-o", "best.yaml")
    words = ("train", "best.yaml", "--workers", "2", "--max-tokens", "60k")
    trained = clone(*words, "--address", found.ray_address, **state.environment(found))
    assert re.search(r"val_loss \d+\.\d+ val_perplexity \d+\.\d+", trained), trained
    reports = [json.loads(line) for line in (clone.folder / "out/best/metrics.jsonl").read_text().splitlines()]
    assert reports[-1]["final"]
    assert reports[-1]["tokens"] >= 60_000

    clone("down")
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    assert state.running(clone.storage) is None
