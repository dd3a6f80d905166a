"""The nanosweep command: quick to help, one clear line for a mistake."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from search.cli.main import main
from search.run import study_run
from search.spec.study_spec import Budget
from search.study.ledger import Ledger
from tests import journals
from tests.refusals import exit_code
from trainer.config import load

HEAVY = ("torch", "ray", "mlflow", "pandas", "optuna", "datasets", "numpy", "pydantic", "rich")
COMMANDS = ("run", "plan", "leaderboard", "export", "train", "ui", "schema")
SPEC = """
study: small
base: base.yaml
space:
  learning_rate: {log: [1e-4, 1e-2]}
  n_layer: {choice: [1, 2]}
budget: {trials: 3}
scheduler: {asha: {first_rung: 1k}}
"""
BASE = """
corpus: "text:corpus.txt"
n_layer: 1
n_head: 2
n_embd: 16
block_size: 16
batch_size: 2
max_tokens: 8k
eval_tokens: 256
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a spec, a base config, a corpus, and a study in ./runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tmp_path / "cache"))
    journals.write_study(tmp_path / "runs" / "quick").close()
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "corpus.txt").write_text("the cat sat on the mat. " * 400)
    return tmp_path


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a mistake is answered with."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("nanosweep: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    return captured.err


def spent() -> float:
    """CPU seconds of all processes that this one has waited for: other work on the machine does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=lambda c: " ".join(c) or "nanosweep")
def test_help_imports_nothing_heavy_and_answers_at_once(command: list[str]) -> None:
    code = (
        "import sys; from search.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        f"print('HEAVY', [name for name in {HEAVY} if name in sys.modules])"
    )
    root = Path(__file__).parent.parent
    begun = spent()
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, check=True, cwd=root
    )
    assert spent() - begun < 2  # 0.2 s
    assert "usage:" in done.stdout
    assert done.stdout.rstrip().endswith("HEAVY []")


def test_version_is_that_of_the_project_installed_or_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]["version"]
    for name in ("nanosweep", "no-such-package"):
        monkeypatch.setattr("search.study.environment.NAME", name)
        with pytest.raises(SystemExit) as end:
            main(["--version"])
        assert end.value.code == 0
        assert capsys.readouterr().out.split()[:2] == ["nanosweep", wanted]


def test_python_m_search_is_the_command() -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-m", "search", "--help"], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0
    assert {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")} >= {*COMMANDS, "sample"}


def test_leaderboard_in_each_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", "quick"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["1", "1", "4.000"]
    assert main(["leaderboard", "quick", "--format", "json"]) == 0
    assert [row["trial"] for row in json.loads(capsys.readouterr().out)["trials"]][:2] == [1, 0]
    assert main(["leaderboard", "runs/quick", "--format", "csv", "--by", "loss"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("squentropy,4.0,")
    assert main(["leaderboard", "quick", "--format", "md", "--limit", "1"]) == 0
    assert "| 1 | 1 | 4.000 |" in capsys.readouterr().out


def test_leaderboard_into_a_pipe_that_closes_is_quiet(place: Path) -> None:
    command = f"{sys.executable} -m search leaderboard {place}/runs/quick --format csv | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.stderr == ""


def test_export_writes_a_config_that_trains(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "quick", "-o", "best.yaml"]) == 0
    assert "best of study quick, trial 1" in capsys.readouterr().out
    assert load(place / "best.yaml").loss == "squentropy"
    assert main(["export", "quick", "--trial", "0", "-o", "-"]) == 0
    assert "loss: cross_entropy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["leaderboard", "quik"], "did you mean quick?"),
        (["leaderboard", "quick", "--by", "los"], "did you mean loss?"),
        (["leaderboard", "quick", "--storage", "elsewhere"], "holds no study"),
        (["export", "quick", "--trial", "42", "-o", "x.yaml"], "its trials are 0 to 6"),
        (["export", "quick", "-o", "/dev/null/x.yaml"], "cannot be written"),
        (["run", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["plan", "spec.yaml", "--set", "n_layers=3"], "did you mean n_layer?"),
        (["plan", "spec.yaml", "--name", "a/b"], "safe folder name"),
        (["plan", "spec.yaml", "--set", "block_size=20000"], "block"),
        (["ui", "--storage", "elsewhere"], "no such store"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer in mistake(capsys, *arguments)


def test_a_mistake_has_no_traceback_and_exit_code_2(place: Path) -> None:
    command = [sys.executable, "-m", "search", "leaderboard", "quik", "--storage", str(place / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 2
    assert done.stderr.startswith("nanosweep: quik: no such study")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["ui", "--port", "70000"], "nanosweep ui: --port: expected a whole number from 1 to 65535, got '70000'"),
        (["export", "quick"], "nanosweep export: the following arguments are required: -o/--out"),
        (["leaderboard", "q", "--limit", "-1"], "--limit: expected a whole number from 0, got '-1'"),
        (["leaderboard", "q", "--format", "jsn"], "--format jsn: did you mean json?"),
        (["leaderbord", "q"], "nanosweep: leaderbord: no such command; did you mean leaderboard?"),
        (["quite-other"], "nanosweep: quite-other: no such command; allowed: compare, "),
        ([], "nanosweep: the following arguments are required: COMMAND"),
        (["run", "spec.yaml", "--trails", "3"], "nanosweep run: --trails: no such option; did you mean --trials?"),
        (["run", "spec.yaml", "two"], "nanosweep run: two: one argument too many"),
        (
            ["train", "base.yaml", "--maxtokens=3"],
            "nanosweep train: --maxtokens: no such option; did you mean --max-tokens",
        ),
        (["train", "base.yaml", "--workers", "0"], "--workers: expected a whole number from 1, got '0'"),
        (["samples", "quick", "--temperature", "-1"], "--temperature: expected a number from 0, got '-1'"),
        (["jobs", "--limit", "some"], "--limit: expected a whole number from 0, got 'some'"),
        (["up", "--num-cpus", "-1"], "--num-cpus: expected a whole number from 0, got '-1'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    arguments: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(lambda: main(arguments)) == 2
    error = capsys.readouterr().err
    assert answer in error
    assert error.count("\n") == 1


def test_plan_says_what_would_run_and_writes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(place.glob("runs/**/*"))
    assert main(["plan", "spec.yaml", "--storage", "elsewhere", "--name", "other"]) == 0
    text = capsys.readouterr().out
    assert f"other in {place}/elsewhere/other (new)" in text
    assert "0.0001 to 0.01, logarithmic" in text
    assert "1k, 4k" in text
    assert "3 trials (at most 24k tokens)" in text
    assert "8k tokens, 3.3k to 6.4k parameters" in text
    assert sorted(place.glob("runs/**/*")) == before
    assert not (place / "elsewhere").exists()


def test_run_hands_the_changed_spec_to_the_search(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = {}

    def run(spec, base, file, **options):  # what is tested is the command, not the search
        seen.update(spec=spec, base=base, **options)
        study = journals.write_study(spec.folder).study
        study.stopped = "stopped by Ctrl-C"
        return study

    monkeypatch.setattr(study_run, "run", run)
    arguments = ["run", "spec.yaml", "--name", "mine", "--storage", "there", "--set", "dropout=0.2", "--address", "x:1"]
    arguments += ["--trials", "8", "--tokens", "2M", "--hours", "0.5", "--retry-failed"]
    assert main(arguments) == 130
    assert seen["spec"].folder == place / "there" / "mine"
    assert seen["base"].dropout == 0.2
    assert seen["address"] == "x:1"
    assert seen["spec"].budget == Budget(trials=8, tokens=2_000_000, hours=0.5)
    out = capsys.readouterr().out
    assert seen["retry_failed"] is True
    assert (
        "stopped by Ctrl-C: 1 trial interrupted, 1 trial not begun; nothing is lost, the same command continues\n"
        in out
    )
    assert f"{place / 'there' / 'mine' / 'best.yaml'}" in out


@pytest.mark.parametrize(
    ("left", "words"),
    [((), "0 trials"), (("search",), "1 trial"), (("search", "again"), "1 trial and 1 run of finalists"),
     (("again", "again"), "2 runs of finalists")],
)  # fmt: skip
def test_a_study_that_was_stopped_says_how_many_runs_of_which_kind_it_is_left_with(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    left: tuple[str, ...],
    words: str,
) -> None:
    def run(spec, base, file, **options):
        ledger = Ledger(spec.folder)
        ledger.write("study", **journals.header())
        journals.complete(ledger, 0, 5.0)
        for number, kind in enumerate(left, 1):
            of = {"of": 0, "round": number} if kind == "again" else {}
            trial = ledger.study.trials[0]
            ledger.write("point", trial=number, point=trial.point, config=trial.config, **of)
            ledger.write("status", trial=number, status="interrupted")
        ledger.close()
        ledger.study.stopped = "stopped by SIGTERM"
        return ledger.study

    monkeypatch.setattr(study_run, "run", run)
    assert main(["run", "spec.yaml"]) == 130
    assert f"stopped by SIGTERM: {words} interrupted; nothing is lost" in capsys.readouterr().out


def test_ctrl_c_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(study_run, "run", run)
    assert main(["run", "spec.yaml"]) == 130


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert "space" in json.loads(capsys.readouterr().out)["properties"]


def test_the_installed_script_is_there() -> None:
    assert os.access(Path(sys.executable).parent / "nanosweep", os.X_OK)
