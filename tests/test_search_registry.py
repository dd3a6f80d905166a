"""The champion in MLflow's model registry: loaded elsewhere it gives the leaderboard's number, and who leads has it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.errors import UserError
from search.study.folder import trial_folder
from search.study.ledger import Ledger
from search.study.scores import objective
from search.study.study import read_study
from search.tracking import registry
from search.tracking.mlflow_store import DATABASE, connect
from search.tracking.mlflow_tracker import MlflowTracker
from search.tracking.registry import ALIAS, keep_up, register
from tests import journals, tiny
from tests.flaky import Fault, connecting
from tests.stores import fresh_store
from tests.test_trainer_portable import documents
from tests.waiting import CEILING
from trainer.checkpoint import CHECKPOINT

ROOT = Path(__file__).resolve().parent.parent
RATES = {0: 1e-3, 1: 1e-2}


def train(ledger: Ledger, folder: Path, number: int, of: int | None = None, round: int = 0, **changes: Any) -> None:
    """A trial that is really trained, as the journal and its folder have it. of: it is a finalist's run."""
    settings = tiny.config(**changes)
    fields = {"point": changes, "config": settings.model_dump(), "name": f"trial {number}"}
    if of is not None:
        fields |= {"of": of, "round": round}
    ledger.write("point", trial=number, **fields)
    journals.start(ledger, number)
    result, reports = tiny.run(settings, out_dir=trial_folder(folder, number))
    for report in reports:
        fields = {name: getattr(report, name) for name in ("step", "tokens", "rung", "final", "metrics")}
        ledger.write("report", trial=number, **fields, checkpoint=None)
    journals.end(ledger, number, result.status)


def track(folder: Path, ledger: Ledger) -> None:
    tracker = MlflowTracker(folder)
    tracker.follow(ledger)
    assert tracker.close(200) == ""  # a busy machine takes its time
    ledger.listeners.clear()


def begin(storage: Path, name: str, rates: dict[int, float]) -> Path:
    """A study of a trial per learning rate, in MLflow."""
    folder = storage / name
    ledger = Ledger(folder)
    data = {"corpus": "stories:120", "tokenizer": "char", "hash": tiny.stories().hash, "floor": None}
    ledger.write("study", **journals.header(name, data=data))
    for number, rate in rates.items():
        train(ledger, folder, number, learning_rate=rate, max_tokens=20 * 64)
    track(folder, ledger)
    ledger.close()
    return folder


@pytest.fixture(scope="module", autouse=True)
def _store_of_the_storage() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage")
    fresh_store(folder)
    return folder


@pytest.fixture(scope="module")
def folder(storage: Path) -> Path:
    """A study whose leader, trial 1, is registered."""
    folder = begin(storage, "quick", RATES)
    made = register(folder)
    assert (made.trial, made.version, made.created, made.leads) == (1, "1", True, True)
    return folder


def champion(storage: Path, name: str) -> Any:
    return connect(f"sqlite:///{storage / DATABASE}").get_model_version_by_alias(name, ALIAS)


ELSEWHERE = """
import json, sys
sys.modules.update(dict.fromkeys(("ray", "optuna", "search")))
import pandas
exec(open("snippet.py").read())
texts = pandas.DataFrame({"prompt": json.load(open("texts.json"))})
scored = model.predict(texts, params={"mode": "score"})
options = {"max_new_tokens": 12, "seed": 3, "top_k": 5}
written = [list(model.predict(texts[:2], params=options)["text"]) for _ in range(2)]
import trainer
print(json.dumps([scored.nats.sum(), int(scored.tokens.sum()), written, trainer.__file__]))
"""


@pytest.mark.slow
def test_loaded_elsewhere_it_scores_the_leaderboards_number(storage: Path, folder: Path, tmp_path: Path) -> None:
    texts = documents(tiny.stories())
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    (tmp_path / "snippet.py").write_text(register(folder).snippet)
    unwanted = ("PYTHONPATH", "MLFLOW_TRACKING_URI")
    environment = {key: value for key, value in os.environ.items() if key not in unwanted} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=CEILING,
    )
    assert done.returncode == 0, done.stderr
    nats, tokens, written, code = json.loads(done.stdout.splitlines()[-1])
    study = read_study(folder)
    assert math.exp(nats / tokens) == pytest.approx(objective(study, study.trials[1]), rel=1e-6)
    assert written[0] == written[1]
    assert all(text.startswith(prompt) for text, prompt in zip(written[0], texts, strict=False))
    assert not Path(code).is_relative_to(ROOT)  # the code that was logged with it
    assert not list(tmp_path.glob("mlflow.db*"))  # the snippet names the store: MLflow makes none of its own


def test_the_logged_model_is_data_and_code_and_no_pickle(storage: Path, folder: Path, tmp_path: Path) -> None:
    client = connect(f"sqlite:///{storage / DATABASE}")
    version = client.get_model_version_by_alias("quick", ALIAS)
    place = Path(version.source.removeprefix("file://"))
    names = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert {Path(name).suffix for name in names} <= {"", ".py", ".yaml", ".json", ".txt", ".jinja", ".safetensors"}
    assert {"MLmodel", "requirements.txt", "champion.py", "artifacts/run/model.safetensors"} <= names
    assert "artifacts/run/tokenizer.json" in names
    assert "code/trainer/evaluate.py" in names
    about = yaml.safe_load((place / "MLmodel").read_text())
    assert json.loads(about["signature"]["inputs"]) == [{"type": "string", "name": "prompt", "required": True}]
    assert about["saved_input_example_info"]
    assert "torch==" in (place / "requirements.txt").read_text()
    assert client.get_run(version.run_id).data.tags["nanosweep.trial"] == "1"


def test_a_version_says_where_it_comes_from(storage: Path, folder: Path) -> None:
    study = read_study(folder)
    tags = champion(storage, "quick").tags
    wanted = {"study": "quick", "trial": "1", "run": "1", "commit": "0123456789abcdef", "data": tiny.stories().hash}
    assert wanted.items() <= tags.items()
    assert float(tags["objective"]) == objective(study, study.trials[1])


def test_registering_again_makes_no_second_version(storage: Path, folder: Path) -> None:
    again = register(folder)
    assert (again.version, again.created, again.leads) == ("1", False, True)


@pytest.mark.slow
def test_the_alias_goes_to_whoever_leads(storage: Path) -> None:
    folder = begin(storage, "moving", {0: 1e-3, 1: 1e-4})
    assert register(folder).version == "1"
    worse = register(folder, 1)
    assert (worse.version, worse.leads) == ("2", False)
    assert champion(storage, "moving").tags["trial"] == "0"
    ledger = Ledger(folder)
    train(ledger, folder, 2, learning_rate=1e-2, max_tokens=20 * 64)
    track(folder, ledger)
    ledger.close()
    said: list[str] = []
    keep_up(folder, said.append)
    assert said == []
    assert champion(storage, "moving").tags["trial"] == "2"
    # under a name that studies share, a study takes the lead from another only where it is better on the same text
    first = register(folder, name="shared")
    assert first.leads
    assert not register(begin(storage, "other", {0: 1e-4}), name="shared").leads
    assert champion(storage, "shared").tags["study"] == "moving"


def test_what_cannot_be_registered_is_one_line(storage: Path, folder: Path, tmp_path: Path) -> None:
    fresh_store(tmp_path)
    for changed, words in (
        ({"name": "a/b"}, "MLflow allows no '/'"),
        ({"number": 7}, "no trial 7; its trials are 0 to 1"),
        ({"uri": f"sqlite:///{tmp_path / DATABASE}"}, "does not know its trial 1; nanosweep run brings it there"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            register(folder, **changed)
        assert "\n" not in str(caught.value)
    ledger = journals.write_study(tmp_path / "bare")
    ledger.close()
    with pytest.raises(UserError, match=r"trial 1 of .* has no weights of full length"):
        register(tmp_path / "bare")


def test_a_study_does_not_fail_by_its_registration(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    said: list[str] = []
    keep_up(folder, said.append)
    assert len(said) == 1
    assert f"later: nanosweep register {folder}" in said[0]
    Ledger(tmp_path / "young").write("study", **journals.header("young"))
    keep_up(tmp_path / "young", said.append)
    assert len(said) == 1  # without a leader there is nothing to do


def test_a_run_with_a_fresh_seed_stands_in_for_a_leader_that_kept_no_weights(folder: Path, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "again")
    ledger.write("study", **journals.header("again"))
    train(ledger, tmp_path / "again", 0, max_tokens=64)
    for number, seed in ((1, 5), (2, 6)):
        train(ledger, tmp_path / "again", number, max_tokens=64, seed=seed, of=0, round=number)
    study, place = ledger.study, tmp_path / "again"
    assert registry.with_weights(study, place, study.trials[0]) is study.trials[0]
    (trial_folder(place, 0) / CHECKPOINT).unlink()
    better = min(study.again(0), key=lambda run: objective(study, run))
    assert registry.with_weights(study, place, study.trials[0]) is better


CREATIONS = ("create_registered_model", "create_logged_model", "log_model_artifacts", "finalize_logged_model")
CREATIONS += ("create_model_version", "set_registered_model_alias")


@pytest.mark.parametrize("arrives", [False, True], ids=["call lost", "answer lost"])
def test_whatever_broke_off_on_the_way_registering_again_ends_with_one_champion(tmp_path: Path, arrives: bool) -> None:
    fresh_store(tmp_path)
    folder = begin(tmp_path, "quick", {0: 1e-3})
    untouched = (tmp_path / DATABASE).read_bytes()
    for name in CREATIONS:
        (tmp_path / DATABASE).write_bytes(untouched)
        said: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry, "connect", connecting(clients := [], Fault(name, arrives)))
            keep_up(folder, said.append)
        assert "the line is broken" in said[0]
        assert name in clients[0].calls
        keep_up(folder, said.append)
        assert len(said) == 1
        client = connect(f"sqlite:///{tmp_path / DATABASE}")
        (version,) = client.search_model_versions("name = 'quick'")
        (model,) = client.search_logged_models([one.experiment_id for one in client.search_experiments()])
        assert (champion(tmp_path, "quick").version, version.source) == (version.version, model.artifact_location)
        assert model.status.value == "READY"
