"""MLflow's SQLite store: its tables are there whole, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from search.tracking.mlflow_store import connect
from tests.waiting import until

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_a_process_that_is_killed_over_a_new_stores_tables_spoils_nothing(tmp_path: Path) -> None:
    uri, half = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / ".mlflow.db.new"
    code = f"from search.tracking.mlflow_store import connect; connect({uri!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    until(lambda: half.exists() and half.stat().st_size > 0)  # some tables
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert half.exists()  # it was not done yet
    assert [experiment.name for experiment in connect(uri).search_experiments()] == ["Default"]
    assert not half.exists()
