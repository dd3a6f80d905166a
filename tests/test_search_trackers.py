"""Trackers are followers of the journal: another is one file and one line, `none` is none, and a broken one is a line.

The studies here are real: `nanosweep run` in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import UserError
from search.run.plan import describe
from search.spec.load import load_spec
from search.study.journal import NAME, read_records
from search.study.ledger import Ledger
from search.study.study import read_study
from search.tracking.registry import register
from search.tracking.tracker import Tracker, close, connected, finish, open_tracker
from tests import journals, specs, tiny
from tests.refusals import key_refusal, place
from tests.waiting import CEILING

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("models", "data", "trainer", "search")
SPEC = """
study: small
base: base.yaml
space: {{learning_rate: {{log: [1e-3, 1e-2]}}}}
sampler: random
resources: {{at_once: 1}}
budget: {{trials: {trials}}}
tracking: {tracking}
storage: {storage}
"""
# what `nanosweep run` does, and which modules it has loaded at its end
RUN = """
import sys
from search.cli.main import main
code = main(sys.argv[1:])
print("MLflow was imported:", "mlflow" in sys.modules)
sys.exit(code)
"""
UNREACHABLE = "http://127.0.0.1:9"  # nobody listens there: a driver that asked it would be refused


def write(folder: Path, trials: int, tracking: str) -> Path:
    config = tiny.config().model_dump(mode="json", exclude_none=True)
    (folder / "base.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items()))
    path = folder / "spec.yaml"
    path.write_text(SPEC.format(trials=trials, tracking=tracking, storage=folder / "runs"))
    return path


def search(spec: Path, code: Path = ROOT) -> str:
    """Run the study with the code in a folder, and MLFLOW_TRACKING_URI at nothing. Returns all that it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"MLFLOW_TRACKING_URI": UNREACHABLE, "NANOSWEEP_CACHE": str(spec.parent / "cache")}
    command = [sys.executable, "-c", RUN, "run", str(spec)]
    done = subprocess.run(command, cwd=code, env=environment, capture_output=True, text=True, timeout=CEILING)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def files(folder: Path) -> dict[Path, bytes]:
    paths = (path for name in PACKAGES for path in (folder / name).rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in paths if "__pycache__" not in path.parts}


@pytest.mark.timeout(3 * CEILING)
def test_a_second_tracker_is_a_file_a_line_and_the_schema_and_a_study_may_change_to_none(tmp_path: Path) -> None:
    code = tmp_path / "code"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    before = files(code)
    # 1: the tracker; 2: its line in the registry; 3: the schema for editors, which is made from it
    shutil.copy(ROOT / "tests" / "toy_tracker.py", code / "search" / "tracking" / "lines_tracker.py")
    registry = code / "search" / "spec" / "trackers.py"
    line = '    "lines": "search.tracking.lines_tracker:LinesTracker",\n'
    registry.write_text(registry.read_text().replace('    "none":', f'{line}    "none":'))
    made = [sys.executable, "-m", "search.spec.schema"]
    schema = subprocess.run(made, cwd=code, capture_output=True, text=True, check=True).stdout
    (code / "search" / "specs" / "spec.schema.json").write_text(schema)
    after = files(code)
    touched = {path for path in after if after[path] != before.get(path)}
    assert len(touched) <= 3
    assert {path.name for path in touched} == {"lines_tracker.py", "trackers.py", "spec.schema.json"}
    assert json.loads(schema)["properties"]["tracking"]["enum"] == ["mlflow", "lines", "none"]

    said = search(write(tmp_path, 1, "lines"), code)
    folder = tmp_path / "runs" / "small"
    expected = [f"{record['record']} {record.get('status', '')}" for record in read_records(folder / NAME)]
    followed = (folder / "lines.txt").read_text().splitlines()
    assert "status completed" in followed
    assert followed == expected[1:]  # the study record was in the journal before
    assert "lines.txt has no pictures" in said
    assert f"in the browser: {(folder / 'lines.txt').as_uri()}" in said
    assert "MLflow was imported: False" in said

    said = search(write(tmp_path, 2, "none"))
    assert [trial.status for trial in read_study(folder).trials.values()] == ["completed"] * 2
    assert (folder / "lines.txt").read_text().splitlines() == followed
    assert "MLflow was imported: False" in said
    assert "nanosweep ui" not in said
    assert "registry" not in said
    assert UNREACHABLE not in said
    assert not (tmp_path / "runs" / "mlflow.db").exists()
    with pytest.raises(UserError, match="tracking: none"):
        register(folder)


def test_plan_says_where_records_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tmp_path / "cache"))
    lines = {}
    for uri, tracking in ((UNREACHABLE, "none"), (UNREACHABLE, "mlflow")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        plan = describe(*load_spec(write(tmp_path, 1, tracking)))
        (lines[tracking],) = [line.split(maxsplit=1)[1] for line in plan.splitlines() if line.startswith("tracking ")]
    assert lines == {"none": "none: records stay in the study's folder", "mlflow": f"mlflow at {UNREACHABLE}"}


def test_an_unknown_tracker_is_one_line_with_the_nearest(tmp_path: Path) -> None:
    text = "space: {learning_rate: {log: [1e-3, 1e-2]}}\ntracking: mlfow\n"
    error = key_refusal(lambda: specs.read(tmp_path, text))
    assert (place(error), error.kind) == ("5: tracking", "unknown")
    assert error.problem == "no tracker is called mlfow; did you mean mlflow?"


class Broken(Tracker):
    """Fails wherever it can."""

    listener_name = "the broken tracker"

    def follow(self, ledger: Ledger) -> None:
        ledger.listeners.append(self.record)

    def record(self, record: object) -> None:
        raise RuntimeError("its disk\nis full")

    def close(self, seconds: float = 60.0) -> str:
        raise RuntimeError("its door is stuck")

    def finish(self) -> None:
        raise RuntimeError


def test_a_tracker_that_fails_is_a_line_each_time_and_fails_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    ledger = Ledger(tmp_path / "quick", say=said.append)
    tracker = Broken(tmp_path / "quick", say=said.append)
    with connected(tracker):
        tracker.follow(ledger)
        ledger.write("study", **journals.header("quick"))
        journals.complete(ledger, 0, 4.0)
    finish(tracker)
    assert close(tracker, 1.0) == said[1]
    assert [line.partition("(")[0].partition(";")[0] for line in said] == [
        "the broken tracker failed at a study record and gets no more of them ",
        "the broken tracker failed as it was closed: its door is stuck",
        "the broken tracker failed as it was finished: RuntimeError",
    ]
    assert not any("\n" in line for line in said)


def test_tracking_none_is_the_tracker_that_sends_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "quick")
    tracker = open_tracker("none", tmp_path / "quick")
    tracker.check()
    with connected(tracker):
        tracker.follow(ledger)
        ledger.write("study", **journals.header("quick"))
    finish(tracker)
    assert (ledger.listeners, tracker.link, tracker.job_lines()) == ([], None, [])
    assert tracker.job_variables("http://far", False, {}) == {}
    assert [path.name for path in (tmp_path / "quick").iterdir()] == [NAME]
