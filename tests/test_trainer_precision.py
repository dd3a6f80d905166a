"""`dtype: auto` on a CPU: measured, kept, and never decided twice for one run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests import tiny
from trainer import checkpoint, precision
from trainer.precision import MARGIN, NARROW, decide

WIDE = {"n_embd": 64, "n_head": 2, "block_size": 32, "n_layer": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "precision"


def kept_as(cache: Path, dtype: str) -> None:
    """Change what was measured, as noise or another machine might have."""
    for file in cache.iterdir():
        file.write_text(json.dumps({**json.loads(file.read_text()), "dtype": dtype}))


def test_bfloat16_is_chosen_where_it_is_clearly_faster_and_the_choice_is_kept(cache: Path) -> None:
    state = torch.get_rng_state()
    torch.set_num_threads(1)
    first = decide(tiny.config(**WIDE), 65)
    assert first.speedup is not None
    assert (first.dtype == "bfloat16") == (first.speedup >= MARGIN)
    assert "1 thread," in first.machine
    assert torch.equal(torch.get_rng_state(), state)  # dropout draws the same afterwards
    assert len(list(cache.iterdir())) == 1
    other = {"float32": "bfloat16", "bfloat16": "float32"}[first.dtype]
    kept_as(cache, other)
    assert decide(tiny.config(**WIDE, learning_rate=0.5, max_tokens=10**6), 65).dtype == other  # of the shape alone
    assert asdict(decide(tiny.config(**{**WIDE, "block_size": 16}), 65)) != asdict(decide(tiny.config(**WIDE), 65))


def test_a_damaged_cache_is_measured_anew(cache: Path) -> None:
    first = decide(tiny.config(**WIDE), 65)
    (file,) = cache.iterdir()
    for damage in ("", "{", '{"dtype": "float64", "speedup": 1, "machine": ""}', "[]"):
        file.write_text(damage)
        assert decide(tiny.config(**WIDE), 65).machine == first.machine
        assert json.loads(file.read_text())["dtype"] in ("float32", "bfloat16")


def test_a_narrow_network_is_not_measured(cache: Path) -> None:
    decision = decide(tiny.config(n_embd=NARROW - 16, n_head=2), 65)
    assert (decision.dtype, decision.speedup) == ("float32", None)
    assert not cache.exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_stays_with_its_decision_when_it_is_resumed(dtype: str, cache: Path, tmp_path: Path) -> None:
    config = tiny.config(**WIDE, max_tokens=512, eval_every=256)
    torch.set_num_threads(1)
    decide(config, tiny.stories().n_classes)
    kept_as(cache, dtype)
    result, _ = tiny.run(config, out_dir=tmp_path / "run")
    assert result.bfloat16 == (dtype == "bfloat16")
    assert checkpoint.load(tmp_path / "run").dtype == dtype
    assert f"auto is {dtype}" in (tmp_path / "run" / "config.yaml").read_text()
    kept_as(cache, {"float32": "bfloat16", "bfloat16": "float32"}[dtype])
    longer = tiny.config(**WIDE, max_tokens=1024, eval_every=256)
    resumed, _ = tiny.run(longer, resume=tmp_path / "run", out_dir=tmp_path / "run")
    assert resumed.bfloat16 == result.bfloat16
    assert checkpoint.load(tmp_path / "run").dtype == dtype


def test_what_the_config_says_is_not_measured(cache: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        result, _ = tiny.run(tiny.config(**WIDE, max_tokens=128, eval_every=128, dtype=dtype))
        assert result.bfloat16 == (dtype == "bfloat16")
    assert not cache.exists()


def test_the_measured_step_is_small_whatever_the_config_asks_for() -> None:
    large = tiny.config(n_layer=48, n_embd=1600, n_head=25, block_size=1024, batch_size=64)
    shape = precision._measured(large, 50_257)
    assert (shape.n_embd, shape.block_size) == (1600, 1024)
    assert (shape.n_layer, shape.batch_size) == (2, 1)
