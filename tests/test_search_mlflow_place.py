"""A storage may lie anywhere and move: MLflow's files stay in it, and its champion loads from there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking._tracking_service import utils

from search.service import mlflow_server
from search.study.ledger import Ledger
from search.tracking.mlflow_place import ARTIFACTS, correct
from search.tracking.mlflow_read import fetch_study, parents
from search.tracking.mlflow_store import DATABASE, choose_uri, connect, own_uri
from search.tracking.registry import keep_up, register
from tests import journals
from tests.stores import fresh_store
from tests.test_search_registry import begin, track
from tests.test_search_tracking import send
from tests.waiting import CEILING

ROOT = Path(__file__).resolve().parent.parent
ALL = 'a?b#c%20d%e & it\'s "$HOME"\\{x}+;=größe-日本'
NAMES = [ALL, "with space", "a#b", "a?b", "a%20b", "50%", "a&b", "it's", 'a"b', "größe-日本", "-dash", "x" * 200]


@pytest.fixture(autouse=True)
def _forget_places() -> None:
    """As a new process: MLflow remembers where a run's files lie, and in a copy of its store runs have equal ids."""
    utils._artifact_repos_cache.clear()


@pytest.fixture(scope="module", autouse=True)
def _store_of_the_storage() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a study whose champion is registered; copied by each test."""
    storage = tmp_path_factory.mktemp("registered") / "first"
    fresh_store(storage)
    assert register(begin(storage, "quick", {0: 1e-2})).leads
    return storage


@pytest.fixture
def storage(registered: Path, tmp_path: Path) -> Path:
    """A copy that has moved: its former place is gone."""
    shutil.copytree(registered, tmp_path / "second")
    assert register(tmp_path / "second" / "quick").version == "1"
    utils._artifact_repos_cache.clear()
    return (tmp_path / "second").rename(tmp_path / "third")


def addresses(storage: Path) -> list[str]:
    """Every address of files that the store has, but that of MLflow's own default experiment."""
    client = connect(own_uri(storage))
    experiments = [one for one in client.search_experiments() if one.name != "Default"]
    ids = [one.experiment_id for one in experiments]
    runs, models = client.search_runs(ids), client.search_logged_models(ids)
    found = [one.artifact_location for one in (*experiments, *models)] + [run.info.artifact_uri for run in runs]
    found += [version.source for version in client.search_model_versions("")]
    found += [client.get_model_version_download_uri(one.name, one.version) for one in client.search_model_versions("")]
    assert len(found) > 4
    return found


def inside(storage: Path) -> list[str]:
    return [address for address in addresses(storage) if not address.startswith((storage / ARTIFACTS).as_uri())]


def test_whoever_opens_the_store_of_a_moved_storage_finds_its_files_there(storage: Path) -> None:
    assert inside(storage) == []
    assert len(fetch_study("quick", own_uri(storage)).trials) == 1
    assert sorted(path.name for path in storage.parent.iterdir()) == ["third"]


def test_a_driver_in_a_moved_storage_writes_into_it(storage: Path) -> None:
    ledger = Ledger(storage / "quick")
    journals.complete(ledger, 1, 1.0)
    track(storage / "quick", ledger)
    ledger.close()
    assert inside(storage) == []
    assert len(fetch_study("quick", own_uri(storage)).trials) == 2  # from the copy of the journal
    assert sorted(path.name for path in storage.parent.iterdir()) == ["third"]


def test_of_a_storage_and_its_copy_each_has_its_own_files(registered: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(registered, copy)
    assert inside(copy) == []
    assert inside(registered) == []


def test_a_store_that_an_older_release_kept_by_plain_paths_moves_too(tmp_path: Path) -> None:
    uri = fresh_store(tmp_path / "old")
    client = connect(uri)
    experiment = client.create_experiment("quick", artifact_location=str(tmp_path / "old" / ARTIFACTS / "quick"))
    client.create_experiment("quick2", artifact_location=str(tmp_path / "old" / ARTIFACTS / "quick2"))
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, "text", "file.txt")
    (tmp_path / "old").rename(tmp_path / "new")
    client = connect(own_uri(tmp_path / "new"))
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["file.txt"]
    # of this one the new place holds nothing: perhaps it is another storage's
    assert client.get_experiment_by_name("quick2").artifact_location == str(tmp_path / "old" / ARTIFACTS / "quick2")


def test_a_study_of_another_storage_in_the_same_database_keeps_its_place(tmp_path: Path) -> None:
    uri = fresh_store(tmp_path / "shared")
    other = tmp_path / "other" / ARTIFACTS / "quick"
    connect(uri).create_experiment("quick", artifact_location=other.as_uri())
    other.mkdir(parents=True)
    journals.write_study(tmp_path / "mine" / "quick").close()
    correct(uri, tmp_path / "mine", "quick")
    assert connect(uri).get_experiment_by_name("quick").artifact_location == other.as_uri()
    shutil.rmtree(tmp_path / "other")
    correct(uri, tmp_path / "mine", "quick")
    place = (tmp_path / "mine" / ARTIFACTS / "quick").as_uri()
    assert connect(uri).get_experiment_by_name("quick").artifact_location == place


def test_a_study_that_a_server_has_kept_is_sent_on_without_one(tmp_path: Path) -> None:
    uri = fresh_store(tmp_path)
    client = connect(uri)
    experiment = client.create_experiment("quick", artifact_location="mlflow-artifacts:/7")
    run = client.create_run(experiment)
    kept = tmp_path / ARTIFACTS / "7" / run.info.run_id / "artifacts" / "file.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("text")
    assert send(journals.write_study(tmp_path / "quick")) == ""
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["file.txt"]
    (parent,) = parents(client)
    assert (tmp_path / ARTIFACTS / "7" / parent.run_id / "artifacts" / "trials.jsonl").exists()


def test_registering_again_brings_back_a_champions_files(storage: Path) -> None:
    shutil.rmtree(storage / ARTIFACTS)
    said: list[str] = []
    keep_up(storage / "quick", said.append)
    assert said == []
    assert list((storage / ARTIFACTS).rglob("model.safetensors"))


def test_what_mlflow_refuses_at_registering_is_one_line(storage: Path) -> None:
    from data.errors import UserError

    (place,) = (storage / ARTIFACTS).glob("*")
    shutil.rmtree(place)
    place.write_text("a file where a folder must be")
    with pytest.raises(UserError) as caught:
        register(storage / "quick")
    assert caught.value.kind == "refused"


LOAD = """
import json, sys
from pathlib import Path
import pandas
texts = []
for snippet in json.load(open("snippets.json")):
    exec(snippet)
    rows = model.predict(pandas.DataFrame({"prompt": ["the"]}), params={"max_new_tokens": 5, "seed": 3})
    texts += list(rows["text"])
print(json.dumps(texts))
"""


@pytest.mark.slow
def test_from_a_storage_of_any_name_the_champion_loads_and_nothing_is_written_beside_it(
    registered: Path, tmp_path: Path
) -> None:
    places, away = tmp_path / "places", tmp_path / "away"
    away.mkdir()
    for name in NAMES:
        shutil.copytree(registered, places / name)
    (places / "link").symlink_to(places / NAMES[0])
    before = sorted(path.name for path in places.iterdir())
    snippets = [register(places / name / "quick").snippet for name in before]
    for name in NAMES:
        assert inside(places / name) == [], name
    (away / "snippets.json").write_text(json.dumps(snippets))
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        cwd=away,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=CEILING,
    )
    assert done.returncode == 0, done.stderr
    texts = json.loads(done.stdout.splitlines()[-1])
    assert len(texts) == len(before)
    assert len({*texts}) == 1
    assert sorted(path.name for path in places.iterdir()) == before
    assert sorted(path.name for path in away.iterdir()) == ["snippets.json"]


@pytest.mark.parametrize("name", [ALL, "-dash", "x" * 200])
def test_a_new_store_lies_in_a_storage_of_any_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = tmp_path / name
    fresh_store(storage)
    assert send(journals.write_study(storage / "quick")) == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
    assert inside(storage) == []
    monkeypatch.chdir(tmp_path)
    assert choose_uri(Path("./" + name)) == own_uri(storage)
    server = mlflow_server.environment(own_uri(storage))
    assert server["MLFLOW_BACKEND_STORE_URI"] == own_uri(storage)
    assert (storage / ARTIFACTS).as_uri() in mlflow_server.command(storage, 1)


def test_a_storage_whose_name_is_not_utf8_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from search.cli.main import main
    from tests import specs

    name = os.fsdecode(b"caf\xe9")
    spec = specs.write(tmp_path, "space:\n  learning_rate: {log: [1e-4, 1e-2]}\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    for words in (["run", str(spec)], ["plan", str(spec)], ["up"], ["ui"], ["status"]):
        assert main([*words, "--storage", str(tmp_path / name)]) == 2, words
        assert "not UTF-8" in capsys.readouterr().err, words
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    assert main(["run", str(spec)]) == 2
    assert "not UTF-8" in capsys.readouterr().err
    assert list((tmp_path / name).iterdir()) == []
    (tmp_path / name).rmdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_accounts_of_a_server_that_asks_for_a_password_move_along(tmp_path: Path) -> None:
    import configparser

    from search.service import state

    first = tmp_path / "a%20b"
    first.mkdir()
    path = mlflow_server.protect(first)
    before = state.credentials(path)
    second = first.rename(tmp_path / "50%?")
    path = mlflow_server.protect(second)
    assert state.credentials(path) == before
    assert mlflow_server.protect(second) == path
    reader = configparser.ConfigParser()  # as MLflow's own
    reader.read(path)
    (line,) = [line for line in path.read_text().splitlines() if line.startswith("database_uri")]
    assert "%%" in line
    assert reader["mlflow"]["database_uri"] == own_uri(second).replace(DATABASE, mlflow_server.ACCOUNTS)
