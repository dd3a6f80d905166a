"""Whichever single call to MLflow fails, the store ends in the same state: by another try, or by a later driver."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from search.study.ledger import Ledger
from search.tracking import mlflow_tracker, sender
from search.tracking.full_run_record import FullRun, remember
from search.tracking.mlflow_read import parents
from search.tracking.mlflow_store import connect
from search.tracking.mlflow_tracker import MlflowTracker
from tests import journals
from tests.flaky import Fault, Flaky, connecting
from tests.stores import fresh_store

VOLATILE = ("mlflow.parentRunId", "nanosweep.group", "artifact_uri")
SOURCES = ("mlflow_runs", "mlflow_files", "full_run_record")  # what sends
TRACKING = Path(mlflow_tracker.__file__).parent


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two trials: one of full length, one that is to continue."""
    folder = tmp_path_factory.mktemp("journal") / "quick"
    ledger = Ledger(folder)
    ledger.write("study", **journals.header("quick"))
    journals.complete(ledger, 0, 4.0)
    journals.point(ledger, 1)
    journals.start(ledger, 1)
    journals.report(ledger, 1, 1000, 7.0, rung=1000)
    journals.end(ledger, 1, "interrupted")
    ledger.close()
    (folder / "spec.yaml").write_text("study: quick\n")
    (folder / "figures").mkdir()
    (folder / "figures" / "trials.png").write_bytes(b"a picture")
    out = folder.parent / "full"  # of a full run that ended before
    out.mkdir()
    (out / "metrics.jsonl").write_text('{"step": 1, "tokens": 64, "metrics": {"val_loss": 1.0, "seconds": 2.0}}\n')
    began, params = 1_795_000_000_000, {"n_embd": "16"}
    full = FullRun("0123", "full run of trial 0", str(out), began, began + 9000, "completed", True, params, {})
    remember(folder, full)
    return folder


def bring(storage: Path, journal: Path, fault: Fault | None = None) -> tuple[str, Flaky]:
    """A driver's tracker sends the study to the store of a storage. Returns what it lacked, and its client."""
    folder = storage / "quick"
    if not folder.exists():
        shutil.copytree(journal, folder)
    clients: list[Flaky] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_tracker, "connect", connecting(clients, fault))
        patch.setattr(sender, "FIRST_DELAY", 0.01)
        patch.setattr(sender, "LAST_DELAY", 0.01)
        tracker = MlflowTracker(folder, f"sqlite:///{storage / 'mlflow.db'}", say=lambda line: None)
        tracker._files_due = time.monotonic() + 3600  # the files once, at the end: half of the calls
        ledger = Ledger(folder)
        tracker.follow(ledger)
        missing = tracker.close(120)
        ledger.close()
    return missing, clients[0]


def state(storage: Path) -> dict[str, Any]:
    """All that the store holds, but for ids, places and the time at which a parent run was made."""
    client = connect(f"sqlite:///{storage / 'mlflow.db'}")
    (parent,) = parents(client)
    (experiment,) = [one for one in client.search_experiments() if one.name == "quick"]
    runs = {}
    for run in client.search_runs([experiment.experiment_id]):
        name = run.data.tags["mlflow.runName"]
        assert name not in runs, f"{name} is there twice"
        points = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        history = {key: sorted((p.step, p.value, p.timestamp) for p in line) for key, line in points.items()}
        runs[name] = {
            "status": run.info.status,
            "params": run.data.params,
            "tags": {key: text for key, text in run.data.tags.items() if key not in VOLATILE},
            "metrics": history,
            "group": run.data.tags["nanosweep.group"] == parent.run_id,
            "child": run.data.tags.get("mlflow.parentRunId") == parent.run_id,
            "files": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
        }
        if run.info.run_id != parent.run_id:
            runs[name]["end"] = run.info.end_time
    views = [text.replace(parent.run_id, "PARENT") for key, text in experiment.tags.items() if "View" in key]
    return {"runs": runs, "views": views}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, journal: Path) -> tuple[dict[str, Any], list[str]]:
    """The state after a driver whose calls all succeed, and the calls that it made."""
    storage = tmp_path_factory.mktemp("undisturbed")
    fresh_store(storage)
    missing, client = bring(storage, journal)
    assert missing == ""
    sources = "".join((TRACKING / f"{file}.py").read_text() for file in SOURCES)
    names = {*re.findall(r"client\.([a-z_]+)\(", sources)}
    assert names - {*client.calls} == {"restore_experiment"}  # of the last test
    return state(storage), client.calls


@pytest.mark.parametrize(
    ("arrives", "only"), [(False, ""), (True, "create_")], ids=["call lost", "answer to a creation lost"]
)
def test_a_driver_whose_call_fails_once_reaches_the_same_state(
    tmp_path: Path, journal: Path, undisturbed: tuple[dict[str, Any], list[str]], arrives: bool, only: str
) -> None:
    expected, calls = undisturbed
    for number in (number for number, name in enumerate(calls) if name.startswith(only)):
        storage = tmp_path / str(number)
        fresh_store(storage)
        missing, _ = bring(storage, journal, Fault(number, arrives))
        assert (missing, state(storage)) == ("", expected), f"{calls[number]}, call {number}"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_later_driver_reaches_the_same_state_wherever_the_first_one_broke_off(
    tmp_path: Path, journal: Path, undisturbed: tuple[dict[str, Any], list[str]]
) -> None:
    expected, calls = undisturbed
    for number, name in enumerate(calls):
        if name.startswith(("get_", "search_")):
            continue  # a driver that ends after it leaves what the call before has left
        storage = tmp_path / str(number)
        fresh_store(storage)
        lacked, _ = bring(storage, journal, Fault(number, arrives=True, ends=True))
        assert "the same `nanosweep run` sends it" in lacked
        missing, _ = bring(storage, journal)
        assert (missing, state(storage)) == ("", expected), f"{name}, call {number}"


@pytest.mark.parametrize("arrives", [False, True], ids=["call lost", "answer lost"])
def test_an_experiment_that_was_deleted_is_restored_when_the_call_fails_once(
    tmp_path: Path, journal: Path, undisturbed: tuple[dict[str, Any], list[str]], arrives: bool
) -> None:
    fresh_store(tmp_path)
    bring(tmp_path, journal)
    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.delete_experiment(client.get_experiment_by_name("quick").experiment_id)
    missing, flaky = bring(tmp_path, journal, Fault("restore_experiment", arrives))
    assert "restore_experiment" in flaky.calls
    assert (missing, state(tmp_path)) == ("", undisturbed[0])
