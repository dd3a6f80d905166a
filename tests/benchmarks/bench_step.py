"""A training step against karpathy/nanoGPT's own, as a ratio: above 1 we are faster.

    python -m tests.benchmarks.bench_step --nanogpt DIR [--json FILE] [--shapes small large] [--rounds 15]
    python -m tests.benchmarks.bench_step --widths        # bfloat16 against float32: from which width it pays

A step is all of it on both sides: fetching rows, forward, backward, clipping, AdamW, learning rate. nanoGPT's
model.py is loaded from DIR (its checkout); its step is train.py's loop, line by line. Both train the same shape
from the same token file, in turns of some steps each, so that whatever else the machine does falls on both.
Goals, on a CPU: small >= 1.0; large >= 1.8 where the CPU multiplies bfloat16 in hardware.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import Dataset, Split
from trainer import device, precision, schedule
from trainer.config import TrainConfig
from trainer.distributed import Ranks
from trainer.step import Stepper, Watch

SHAPES: dict[str, dict[str, Any]] = {
    "small": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "batch_size": 12},
    "large": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "batch_size": 8},
}
GOALS = {"small": 1.0, "large": 1.8}
V = 65
SECONDS = 0.5  # of one turn, roughly
Step = Callable[[], object]


def our_step(shape: dict[str, Any], tokens: np.ndarray, dtype: str = "auto") -> Step:
    """One step of trainer/loop.py's inner loop per call."""
    config = TrainConfig(**shape, dtype=dtype, device="cpu", beta2=0.99)
    split = Split(tokens, np.array([1, len(tokens)]))
    data = Dataset("bench", "char", V, None, np.ones(V, np.int64), split, split, "", Path())
    machine = precision.settle(config, V, device.choose(config), Ranks(), "")
    stepper, watch = Stepper(config, data, machine, Ranks()), Watch(machine)
    count = iter(range(10**9))

    def step() -> None:
        number = next(count)
        if watch.see(number, stepper.step(number, schedule.multiplier(config, number, 10**6))) is not None:
            raise RuntimeError("diverged")

    return step


def nanogpt_step(shape: dict[str, Any], tokens: np.ndarray, folder: Path, work: Path) -> Step:
    """One iteration of nanoGPT's train.py per call, as it runs on a CPU (float32, no autocast, dropout 0)."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    if spec is None or spec.loader is None or not (folder / "model.py").exists():
        raise SystemExit(f"error: {folder} has no model.py; give a checkout of karpathy/nanoGPT")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    tokens.astype(np.uint16).tofile(work / "train.bin")
    sizes = {name: value for name, value in shape.items() if name != "batch_size"}
    block_size, batch_size = shape["block_size"], shape["batch_size"]
    with contextlib.redirect_stdout(io.StringIO()):
        model = module.GPT(module.GPTConfig(vocab_size=V, dropout=0.0, bias=False, **sizes))
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def get_batch() -> tuple[torch.Tensor, torch.Tensor]:
        data = np.memmap(work / "train.bin", dtype=np.uint16, mode="r")
        ix = torch.randint(len(data) - block_size, (batch_size,))
        x = torch.stack([torch.from_numpy((data[i : i + block_size]).astype(np.int64)) for i in ix])
        y = torch.stack([torch.from_numpy((data[i + 1 : i + 1 + block_size]).astype(np.int64)) for i in ix])
        return x, y

    batch = get_batch()

    def step() -> None:
        nonlocal batch
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        _, loss = model(*batch)
        batch = get_batch()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step


def compare(reference: Step, ours: Step, rounds: int) -> dict[str, float]:
    """Milliseconds of both, and the ratio reference / ours with its spread over the rounds."""
    count = max(2, round(SECONDS / _seconds(reference, 3)))
    _seconds(ours, 3)
    pairs = []
    for number in range(rounds):
        pair = [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):  # neither always goes first
            pair[side] = _seconds((reference, ours)[side], count)
        pairs.append(pair)
    ratios = sorted(a / b for a, b in pairs)
    return {
        "ratio": statistics.median(ratios),
        "low": ratios[len(ratios) // 10],
        "high": ratios[-1 - len(ratios) // 10],
        "reference_ms": 1e3 * statistics.median(a for a, _ in pairs),
        "ours_ms": 1e3 * statistics.median(b for _, b in pairs),
        "rounds": rounds,
        "steps_per_turn": count,
    }


def _seconds(step: Step, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


def against_nanogpt(folder: Path, names: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    tokens = np.random.default_rng(0).integers(0, V, 1_000_000).astype(np.uint16)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            shape = SHAPES[name]
            theirs = nanogpt_step(shape, tokens, folder, Path(work))
            found = compare(theirs, our_step(shape, tokens), rounds)
            results[name] = {
                **shape,
                **found,
                "goal": GOALS[name],
                "bfloat16": precision.decide(TrainConfig(**shape), V).dtype == "bfloat16",
            }
            print(_line(f"{name} {shape}: nanoGPT / ours", found), f" goal {GOALS[name]}", flush=True)
    return results


def by_width(rounds: int) -> dict[str, dict[str, Any]]:
    """float32 / bfloat16 for a range of widths: where it exceeds 1, bfloat16 is the faster."""
    tokens = np.random.default_rng(0).integers(0, V, 1_000_000).astype(np.uint16)
    results: dict[str, dict[str, Any]] = {}
    for width in (64, 128, 192, 256, 384, 512):
        for batch_size, block_size in ((12, 64), (16, 128), (8, 256)):
            shape = {"n_layer": 4, "n_head": width // 32, "n_embd": width}
            shape |= {"batch_size": batch_size, "block_size": block_size}
            found = compare(our_step(shape, tokens, "float32"), our_step(shape, tokens, "bfloat16"), rounds)
            results[f"{width} {batch_size}x{block_size}"] = found
            print(_line(f"n_embd {width:3}, {batch_size:2} x {block_size:3}: float32 / bfloat16", found), flush=True)
    return results


def _line(name: str, found: dict[str, float]) -> str:
    return (
        f"{name}  {found['ratio']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
        f"  {found['reference_ms']:.1f} ms / {found['ours_ms']:.1f} ms"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--widths", action="store_true", help="measure bfloat16 against float32 instead")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(argv)
    if given.widths:
        results = by_width(given.rounds)
    elif given.nanogpt is None:
        parser.error("give --nanogpt DIR: git clone https://github.com/karpathy/nanoGPT DIR")
    else:
        results = against_nanogpt(given.nanogpt, given.shapes, given.rounds)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
