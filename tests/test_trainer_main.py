"""`python -m trainer`: what it prints, what it leaves behind, how it fails."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.waiting import CEILING, until
from trainer import checkpoint, config
from trainer.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
LAST_LINE = re.compile(r"val_loss (\d+\.\d+) val_perplexity (\d+\.\d+)")


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config file in an empty folder, and the cache of the other tests."""
    tiny.run(tiny.config(max_tokens=64))  # prepares the corpus
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tiny.stories().path.parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # own code appends the working directory
    path = tmp_path / "tiny.yaml"
    path.write_text(config.dump(tiny.config()))
    return path


def test_it_writes_a_run_folder_and_its_last_line_is_the_result(given: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(given), "--set", "learning_rate=3e-4", "--set", "n_layer=1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    match = LAST_LINE.fullmatch(printed[-1])
    assert match
    assert math.exp(float(match[1])) == pytest.approx(float(match[2]), rel=1e-3)
    folder = Path("out/tiny")
    saved = config.load(folder / checkpoint.CONFIG)
    assert (saved.learning_rate, saved.n_layer) == (3e-4, 1)
    assert len([line for line in printed if line.startswith("step ")]) == 4
    floor = next(line for line in printed if line.startswith("floor: "))
    assert 0 < float(floor.split()[1]) < float(match[1])


def test_an_own_corpus_is_read_where_code_is_allowed(given: Path, capsys: pytest.CaptureFixture) -> None:
    Path("my_texts.py").write_text('TEXTS = [f"The cat sat on mat {n}. Then it slept." for n in range(200)]\n')
    words = [str(given), "--set", "corpus=my_texts:TEXTS", "--max-tokens", "640"]
    assert main(words) == 2
    assert "--allow-code" in capsys.readouterr().err
    assert not Path("out").exists()
    assert main([*words, "--allow-code"]) == 0


def test_the_same_numbers_as_the_library(given: Path, capsys: pytest.CaptureFixture) -> None:
    main([str(given), "--out", "elsewhere"])
    match = LAST_LINE.fullmatch(capsys.readouterr().out.splitlines()[-1])
    result, _ = tiny.run(tiny.config())
    assert match
    assert float(match[1]) == pytest.approx(result.metrics["val_loss"], abs=1e-4)


def test_a_run_folder_is_continued_or_left_alone_but_not_overwritten(
    given: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([str(given), "--set", "schedule=constant"]) == 0
    before = (Path("out/tiny") / checkpoint.CHECKPOINT).read_bytes()
    capsys.readouterr()
    assert main([str(given), "--set", "learning_rate=1e-2"]) == 2
    error = capsys.readouterr().err
    assert "holds a run of another config (learning_rate, schedule differ)" in error
    assert "--resume" in error
    assert "--out" in error
    assert (Path("out/tiny") / checkpoint.CHECKPOINT).read_bytes() == before
    assert main([str(given), "--set", "schedule=constant", "--resume", "--max-tokens", "3200"]) == 0
    assert checkpoint.load(Path("out/tiny")).state.step == 50
    assert main([str(given), "--resume", "--out", "new"]) == 0  # nothing there: begins


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.yaml"], "missing.yaml: no such file"),
        (["tiny.yaml", "--set", "learning_rte=1"], "unknown key learning_rte; did you mean learning_rate?"),
        (["tiny.yaml", "--set", "n_head=3"], "n_embd (16) is not divisible by n_head (3)"),
        (["tiny.yaml", "--set", "learning_rate"], "--set learning_rate: expected KEY=VALUE"),
        (["tiny.yaml", "--set", "squentropy_lambda=0.1"], "squentropy_lambda belongs to loss: squentropy"),
        (["tiny.yaml", "--set", "corpus=text:nowhere.txt"], "no such file: nowhere.txt"),
        (["tiny.yaml", "--set", "corpus=story"], "did you mean stories?"),
        (["tiny.yaml", "--set", "block_size=100000"], "fewer than one block"),
        (["tiny.yaml", "--set", "vocab_size=20"], "vocab_size (20) is smaller than the"),
        (["tiny.yaml", "--max-tokens", "fast"], "max_tokens"),
        (["tiny.yaml", "--set", "device=mps"], "device: mps"),
        (["tiny.yaml", "--out", "tiny.yaml"], "tiny.yaml: cannot be made a run folder: File exists"),
    ],
)
def test_a_mistake_is_one_line_exit_code_2_and_leaves_nothing_behind(
    given: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert [path.name for path in Path.cwd().iterdir()] == ["tiny.yaml"]


def test_a_diverged_run_says_so_and_fails(given: Path, capsys: pytest.CaptureFixture) -> None:
    settings = ["optimizer=sgd", "learning_rate=1e30", "grad_clip=0", "warmup_frac=0"]
    assert main([str(given), *(x for s in settings for x in ("--set", s))]) == 1
    assert "diverged: loss or gradient norm not finite at step 2 (128 tokens" in capsys.readouterr().err


def environment() -> dict[str, str]:
    cache = str(tiny.stories().path.parent)
    return {**os.environ, "NANOSWEEP_CACHE": cache, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def test_it_runs_with_ray_optuna_mlflow_and_pandas_blocked(given: Path) -> None:
    code = "import sys; sys.modules.update(dict.fromkeys(('ray', 'optuna', 'mlflow', 'pandas')))\n"
    code += "from trainer.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, str(given)], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert LAST_LINE.fullmatch(done.stdout.splitlines()[-1])


def test_ctrl_c_keeps_the_checkpoint_and_says_how_to_go_on(given: Path) -> None:
    command = [sys.executable, "-m", "trainer", str(given), "--max-tokens", "10M", "--set", "eval_every=640"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    folder = given.parent / "out" / "tiny"
    until((folder / checkpoint.CHECKPOINT).exists, "a checkpoint")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=CEILING)
    assert process.returncode == 130, errors
    assert "add --resume" in errors
    assert "Traceback" not in errors
    assert checkpoint.load(folder).state.step >= 10
