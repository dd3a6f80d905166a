"""The user's own code in a search: a real study with an own loss, optimizer, model and corpus; who may import it, and
that nobody does who only reads; that changed code is no part of the same study."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.errors import UserError
from data.own_code import source_hash, sources_of
from data.prepare import prepare
from search.cli.main import main
from search.jobs import package
from search.run import study_run, trainable
from search.run.nodes import Answer, complaint
from search.run.own_code import OwnCode
from search.spec import own_code
from search.spec.load import load_spec
from search.strategy.warm_start import take_over
from search.study import header
from search.study.study import Study, Trial, read_study
from search.study.study_record import Header
from tests import foreign, journals, own, tiny
from tests.stores import fresh_store
from trainer import checkpoint, provenance
from trainer.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
MODULES = {"my_loss": own.LOSS, "own_lion": own.LION, "my_model": own.MODEL, "letters": own.CORPUS}
OWN = ("my_loss:FOCAL", "own_lion:Lion", "my_model:MyGPT")
LOUD = "open({!r}, 'w').close()\n"
SPEC = """
study: mine
base: base.yaml
space:
  learning_rate: {log: [1.0e-4, 1.0e-2]}
  loss: {choice: [cross_entropy, my_loss:FOCAL]}
  gamma: {field: loss_params.gamma, log: [0.1, 2], when: {loss: my_loss:FOCAL}}
  reach: {field: model_params.reach, choice: [2, 3]}
start:
  - {loss: my_loss:FOCAL, gamma: 0.5, reach: 2}
  - {loss: cross_entropy, reach: 3}
sampler: random
budget: {trials: 4}
finalists: {top: 2, seeds: 2}
"""
CODE: dict[str, Any] = {
    "corpus": "letters:letters",
    "model": "my_model:MyGPT",
    "optimizer": "own_lion:Lion",
    "optimizer_params": {"beta1": 0.8},
    "schedule": "constant",
}


def write(folder: Path, **base: Any) -> Path:
    """A user's working directory: modules, packages named as ours, base config, spec. Returns the spec."""
    foreign.fill(folder)
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    config = tiny.config(**{**CODE, **base}).model_dump(mode="json", exclude_none=True)
    (folder / "base.yaml").write_text(yaml.safe_dump(config))
    (folder / "spec.yaml").write_text(SPEC)
    return folder / "spec.yaml"


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The working directory of all tests here, as of a user outside the checkout."""
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        patch.setenv("NANOSWEEP_CACHE", str(folder / "cache"))
        for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="module")
def study(place: Path) -> Study:
    path = write(place)
    fresh_store(place / "runs")
    return study_run.run(*load_spec(path), allow_code=True)


@pytest.fixture
def loud(place: Path, study: Study) -> Any:
    """The modules, changed so that whoever imports one leaves a file. Their text as it was comes back."""
    mark = place / "imported"
    for name, text in MODULES.items():
        (place / f"{name}.py").write_text(text + LOUD.format(str(mark)))
    yield mark
    mark.unlink(missing_ok=True)
    write(place)


def fresh(*words: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which has imported nothing yet."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "search", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def alone(trial: Trial) -> list[dict[str, float]]:
    config = TrainConfig.model_validate(trial.config)
    data = prepare(config.corpus, config.tokenizer)
    _, reports = tiny.run(config, data=data, allow_code=True)
    return [tiny.values(report) for report in reports]


# ---------------------------------------------------------------- a study


def test_trials_of_own_code_train_in_workers_to_the_numbers_of_the_loop_alone(study: Study) -> None:
    searched = study.searched
    assert [trial.status for trial in study.trials.values()] == ["completed"] * len(study.trials)
    assert len(searched) == 4
    assert {trial.config["loss"] for trial in searched} == {"cross_entropy", "my_loss:FOCAL"}
    for trial in searched[:2]:
        told = [{k: v for k, v in r["metrics"].items() if k not in tiny.TIMING} for r in trial.reports]
        assert told == alone(trial)
    reaches = {(trial.config["model_params"]["reach"], trial.n_parameters) for trial in searched}
    assert len({size for _, size in reaches}) == len({reach for reach, _ in reaches}) == 2


def test_a_parameter_of_an_own_loss_is_searched_where_that_loss_is_and_nowhere_else(study: Study) -> None:
    for trial in study.searched:
        gamma = (trial.config["loss_params"] or {}).get("gamma")
        assert (gamma is None) == (trial.config["loss"] == "cross_entropy")
        assert gamma is None or 0.1 <= gamma == trial.point["gamma"] <= 2


def test_the_digest_of_each_source_is_in_journal_checkpoint_and_export(study: Study, place: Path) -> None:
    digests = {reference: source_hash(reference) for reference in OWN}
    assert study.header.own_code == digests
    focal = next(trial for trial in study.searched if trial.config["loss"] == "my_loss:FOCAL")
    other = next(trial for trial in study.searched if trial.config["loss"] == "cross_entropy")
    assert main(["export", "mine", "--trial", str(focal.number), "-o", "focal.yaml"]) == 0
    assert main(["export", "mine", "--trial", str(other.number), "-o", "other.yaml"]) == 0
    source, second = (provenance.read(place / name) for name in ("focal.yaml", "other.yaml"))
    assert source is not None
    assert second is not None
    assert source.own_code == digests
    assert set(second.own_code) == {*OWN[1:]}
    assert "--allow-code" in (place / "focal.yaml").read_text()
    assert study.folder is not None
    kept = list(study.folder.glob("trials/*/checkpoint.pt"))
    assert kept
    for path in kept:
        saved = checkpoint.load(path)
        assert saved.own_code == {name: digests[name] for name in OWN if name in saved.config.model_dump().values()}


def test_a_full_run_of_an_export_is_resumed_and_sampled(
    study: Study, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    focal = next(trial for trial in study.searched if trial.config["loss"] == "my_loss:FOCAL")
    assert main(["export", "mine", "--trial", str(focal.number), "-o", "full.yaml"]) == 0
    assert main(["train", "full.yaml", "--max-tokens", "3k", "--allow-code"]) == 0
    assert main(["train", "full.yaml", "--max-tokens", "4k", "--allow-code", "--resume"]) == 0
    capsys.readouterr()
    assert main(["sample", "out/full", "--max-new-tokens", "8", "--allow-code"]) == 0
    assert capsys.readouterr().out.strip()


def test_what_needs_the_code_after_a_search_runs_it_with_permission(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["finalize", "mine", "--allow-code"]) == 0
    assert main(["samples", "mine", "--by", "loss", "--allow-code", "--max-new-tokens", "8"]) == 0
    assert "== my_loss:FOCAL: trial" in capsys.readouterr().out
    assert study.folder is not None
    assert (study.folder / "samples.json").exists()  # the driver had the permission
    assert main(["report", "mine", "--allow-code"]) == 0


@pytest.mark.slow
def test_a_registered_model_brings_its_own_code_along(study: Study, place: Path, tmp_path: Path) -> None:
    code = (
        f"import mlflow, pandas, sys; mlflow.set_tracking_uri('sqlite:///{place}/runs/mlflow.db')\n"
        "model = mlflow.pyfunc.load_model('models:/mine@champion')\n"
        "said = model.predict(pandas.DataFrame({'prompt': ['Dear ']}), params={'max_new_tokens': 5})\n"
        "tags = mlflow.MlflowClient().get_model_version_by_alias('mine', 'champion').tags\n"
        "print(said['text'][0][:5], sys.modules['my_model'].__file__, tags['own_code'])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("Dear ")
    assert "/own_code/my_model.py" in done.stdout
    assert f"my_model:MyGPT sha256 {source_hash('my_model:MyGPT')}" in done.stdout


@pytest.mark.slow
def test_a_full_run_on_workers_finds_the_code_in_the_working_directory(study: Study, place: Path) -> None:
    assert main(["export", "mine", "-o", "wide.yaml"]) == 0
    done = fresh("train", "wide.yaml", "--max-tokens", "3k", "--workers", "2", "--allow-code")
    assert done.returncode == 0, done.stderr[-2000:]
    assert checkpoint.load(place / "out/wide").own_code["my_model:MyGPT"] == source_hash("my_model:MyGPT")


# ---------------------------------------------------------------- who may import it

READ = (
    "leaderboard mine",
    "leaderboard mine --by loss",
    "export mine -o read.yaml",
    "report mine -o read.html",
    "figures mine",
    "documents mine --worst 0",
)
REFUSED = (
    "run spec.yaml --name another",
    "submit spec.yaml",
    "train best.yaml",
    "sample runs/mine/trials/{leader}",
    "samples mine",
    "finalize mine",
)


@pytest.mark.parametrize("words", READ)
def test_reading_a_study_imports_nothing(words: str, loud: Path) -> None:
    done = fresh(*words.split())
    assert done.returncode == 0, done.stderr
    assert not loud.exists()


@pytest.mark.parametrize("words", REFUSED)
def test_what_needs_the_code_is_refused_without_permission_in_a_line_that_names_it(
    words: str, place: Path, study: Study, loud: Path
) -> None:
    (place / "best.yaml").write_text((place / "runs/mine/best.yaml").read_text())
    leader = max(trial.number for trial in study.trials.values() if trial.of is not None)
    before = set((place / "runs").glob("*"))
    if words.startswith("finalize"):
        words = f"finalize {_unscored(place)}"
    done = fresh(*words.format(leader=leader).split())
    assert done.returncode == 2, done.stdout + done.stderr
    assert "add --allow-code" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not loud.exists()
    assert set((place / "runs").glob("*")) - before <= {place / "runs/unscored"}


def _unscored(place: Path) -> Path:
    """The study before `finalize`: what that wrote into its journal left out."""
    folder = place / "runs/unscored"
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    journal = place / "runs/mine/trials.jsonl"
    lines = [line for line in journal.read_text().splitlines(keepends=True) if '"record":"test"' not in line]
    (folder / journal.name).write_text("".join(lines))
    for path in (place / "runs/mine/trials").iterdir():
        if not (folder / "trials" / path.name).exists():
            (folder / "trials" / path.name).symlink_to(path)
    return folder


def test_plan_looks_at_own_code_with_permission_only_and_says_what_it_left_out(
    study: Study, place: Path, loud: Path
) -> None:
    done = fresh("plan", "spec.yaml", "--name", "another", "--set", "corpus=stories:120")
    assert done.returncode == 0, done.stderr
    named = "own code loss my_loss:FOCAL, optimizer own_lion:Lion, model my_model:MyGPT; not im"
    assert named in " ".join(done.stdout.split())
    assert "an unknown number of parameters" in done.stdout
    assert not loud.exists()
    done = fresh("plan", "spec.yaml", "--name", "another", "--set", "corpus=stories:120", "--allow-code")
    assert done.returncode == 0, done.stderr
    assert "unknown" not in done.stdout
    assert loud.exists()


# ---------------------------------------------------------------- what is wrong is said first


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("my_loss:FOCAL]", "my_los:FOCAL]", "no module my_los in the working directory .* did you mean my_loss"),
        ("my_loss:FOCAL]", "my_loss:FOCA]", "my_loss.py has no FOCA; did you mean FOCAL"),
        (
            "my_loss:FOCAL]",
            "my_loss:focal]",
            "loss.choice.1.: my_loss:focal is a function; it must be a models.loss.Loss",
        ),
        ("loss_params.gamma", "loss_params.gama", "gama is not a parameter of loss focal"),
        ("log: [0.1, 2], when", "uniform: [-1, 2], when", "gamma is -1.0; it must be"),
        ("model_params.reach", "model_params.reech", r"building it with \(config, generator, reech=2\) failed"),
    ],
)
def test_a_mistake_in_own_code_is_refused_before_the_first_trial(old: str, new: str, message: str, place: Path) -> None:
    write(place)
    text = SPEC.replace("study: mine", "study: wrong").replace(old, new)
    if "my_lo" in new:  # `when` and `start` name it too
        text = text.replace("my_loss:FOCAL", new.strip("]"))
    text = text[: text.index("start:")] + text[text.index("sampler:") :]
    (place / "wrong.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        study_run.run(*load_spec(place / "wrong.yaml"), allow_code=True)
    assert "\n" not in str(caught.value)
    assert not (place / "runs/wrong").exists()


# ---------------------------------------------------------------- changed code


def test_a_study_is_not_continued_with_changed_code(study: Study, place: Path, loud: Path) -> None:
    for words in ("run spec.yaml --allow-code", "plan spec.yaml"):
        done = fresh(*words.split())
        assert done.returncode == 2
        assert "the code of my_loss:FOCAL has changed since the study began" in done.stderr
    assert not loud.exists()


def test_a_study_of_a_release_that_kept_no_digests_is_continued() -> None:
    header.check_same_own_code({"my_loss:FOCAL": "1" * 64}, Header({"spec": {}}))
    with pytest.raises(UserError, match="the code of a:B has changed"):
        header.check_same_own_code({"a:B": "1" * 64}, Header({"spec": {}}, own_code={"a:B": "2" * 64}))


def test_a_worker_refuses_code_that_changed_under_the_running_driver(place: Path) -> None:
    write(place)
    config = tiny.config(**CODE)
    own = OwnCode(True, str(place), {reference: source_hash(reference) for reference in OWN})
    own.check(config)
    assert own.problem() == ""
    (place / "my_model.py").write_text(MODULES["my_model"] + "# changed\n")
    with pytest.raises(UserError, match="the code of my_model:MyGPT has changed since the driver started"):
        own.check(config)
    assert "other code of my_model:MyGPT" in own.problem()
    write(place)


def test_a_trial_imports_from_the_drivers_directory_wherever_its_worker_stands(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(place)
    config = tiny.config(**{**CODE, "corpus": "stories:120", "loss": "my_loss:FOCAL", "max_tokens": 128})
    job = {"config": config.model_dump(), "out_dir": str(tmp_path / "trial"), "resume": None, "rungs": []}
    code = OwnCode(True, str(place), {reference: source_hash(reference) for reference in OWN})
    messages: list[dict[str, Any]] = []
    monkeypatch.chdir(tmp_path)
    trainable.run(job, tiny.stories(), messages.append, 1, code)
    assert (messages[-1]["status"], messages[-1]["cause"]) == ("completed", "")
    trainable.run(
        {**job, "out_dir": str(tmp_path / "other")}, tiny.stories(), messages.append, 1, OwnCode(False, str(place))
    )
    assert messages[-1]["status"] == "failed"
    assert "--allow-code" in messages[-1]["cause"]


def test_a_node_without_the_code_is_named(tmp_path: Path) -> None:
    lacking = OwnCode(True, str(tmp_path), {"my_loss:FOCAL": "1" * 64}).problem()
    here = {"python": "3.11.9"}
    said = complaint(tmp_path, [Answer("a", True, here), Answer("b", True, here, lacking)], here)
    assert said is not None
    assert "node b: " in said
    assert "no module my_loss" in said
    assert "nanosweep submit" in said


def test_an_earlier_study_of_other_code_is_no_warm_start(tmp_path: Path) -> None:
    journals.write_study(tmp_path / "before", own_code={"a:B": "1" * 64}).close()
    fields = journals.header()
    spec = load_spec_of(tmp_path, fields)
    assert take_over(spec, fields["data"], journals.LENGTH, own_code={"a:B": "1" * 64})
    with pytest.raises(UserError, match="its trials ran other code of a:B"):
        take_over(spec, fields["data"], journals.LENGTH, own_code={"a:B": "2" * 64})


def load_spec_of(folder: Path, fields: dict[str, Any]) -> Any:
    from search.spec.study_spec import StudySpec

    plain = {"study": "s", "base": "b", "space": fields["spec"]["space"], "budget": {"trials": 9}}
    return StudySpec.model_validate({**plain, "storage": str(folder), "warm_start": "before"})


# ---------------------------------------------------------------- to a cluster


def test_a_package_brings_the_modules_that_the_spec_names_and_works_where_it_is_unpacked(
    place: Path, tmp_path: Path
) -> None:
    path = write(place)
    (place / "notes.py").write_text("SECRET = 1\n")
    spec, base, file = load_spec(path)
    named = own_code.references(spec, base)
    assert named == {"my_loss:FOCAL": "loss", "own_lion:Lion": "optimizer", "my_model:MyGPT": "model"} | {
        "letters:letters": "corpus"
    }
    sources = sources_of(named)
    made = package.collect(path, spec, file, own=sources.files)
    assert sources.installed == []
    assert {f"{name}.py" for name in MODULES} <= set(made.files)
    assert "notes.py" not in made.files
    package.write(made, tmp_path / "package.zip")
    with zipfile.ZipFile(tmp_path / "package.zip") as archive:
        archive.extractall(tmp_path / "job")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["NANOSWEEP_CACHE"] = str(tmp_path / "cache")  # of another machine
    words = ["plan", made.spec, "--allow-code", f"--storage={tmp_path / 'runs'}"]
    done = subprocess.run(
        [sys.executable, "-m", "search", *words],
        cwd=tmp_path / "job",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "own code" in done.stdout


def test_a_module_of_an_installed_package_is_named_and_does_not_travel() -> None:
    sources = sources_of({"torch.optim:AdamW": "optimizer", "models.gpt:GPT": "model"})
    assert (sources.files, sources.installed) == ({}, ["torch.optim:AdamW"])


def test_the_study_read_back_is_the_study_that_ran(study: Study) -> None:
    assert study.folder is not None
    assert read_study(study.folder).header.own_code == study.header.own_code
