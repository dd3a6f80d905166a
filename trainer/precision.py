"""What `dtype: auto` means on a CPU: bfloat16 where a short measurement of the shape finds it clearly faster.

    decide(config, n_classes=65)        # Decision("bfloat16", 1.31, "AMD EPYC, 2 threads, torch 2.13.0")

Names of processors do not tell: bfloat16 pays with AMX from some 192 wide, with AVX-512 BF16 from some 128, without
either never. A measurement takes half a second and is kept in the cache, for this shape, machine and torch. It is noisy
where both are about equally fast: so bfloat16 must be faster by `MARGIN`, and whoever has decided once stays with it. A
study writes its decision into its header, a run into its checkpoints.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from data.errors import UserError
from data.own_code import is_reference
from data.prepare import default_cache
from trainer import build_model, device
from trainer import criterion as criteria
from trainer.config import TrainConfig, replace
from trainer.device import Machine
from trainer.distributed import Ranks
from trainer.files import replace_text
from trainer.step import Objective

MARGIN = 1.1  # bfloat16 must be so many times as fast: its rounding is coarser
_SECONDS = 0.4  # of a measurement, after the first step of each kind
_FEWEST, _MOST = 5, 40  # pairs of steps
_MULTIPLICATIONS = 3e8  # of a forward pass that is measured: some 20 ms a step
_LAYERS = 2
NARROW = 48  # n_embd below which the casts cost more than they save on every CPU that was tried; nothing is measured


@dataclass(frozen=True)
class Decision:
    """dtype: `float32` or `bfloat16`. speedup: of bfloat16 over float32, the median over pairs of steps; None where
    none is to be expected and nothing was measured. machine: where it was decided."""

    dtype: Literal["float32", "bfloat16"]
    speedup: float | None
    machine: str

    def __str__(self) -> str:
        why = "too narrow for bfloat16" if self.speedup is None else f"bfloat16 is {self.speedup:.2f} × as fast"
        return f"{self.dtype} ({why}; {self.machine})"


def decide(config: TrainConfig, n_classes: int, cache: Path | None = None) -> Decision:
    """What auto means for a config on this machine's CPU with torch's present number of threads: from the cache, or
    measured now. Own code is not imported: an own model or loss is measured as our GPT of its shape with cross entropy.
    """
    shape = _measured(config, n_classes)
    machine = f"{device.processor()}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}, "
    machine += f"torch {torch.__version__}"
    if config.n_embd < NARROW:
        return Decision("float32", None, machine)
    key = [machine, _flags(), n_classes, {name: getattr(shape, name) for name in sorted(TrainConfig.model_fields)}]
    digest = hashlib.sha256(json.dumps(key, default=str).encode()).hexdigest()[:16]
    path = (cache or default_cache()) / "precision" / f"{digest}.json"
    with suppress(OSError, ValueError, TypeError):
        kept = Decision(**json.loads(path.read_text(encoding="utf-8")))
        if kept.dtype in ("float32", "bfloat16"):
            return kept
    speedup = measure(shape, n_classes)
    decision = Decision("bfloat16" if speedup >= MARGIN else "float32", round(speedup, 3), machine)
    with suppress(OSError, UserError):  # a cache that cannot be written costs another measurement
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(asdict(decision)) + "\n")
    return decision


def settle(config: TrainConfig, n_classes: int, machine: Machine, ranks: Ranks, earlier: str) -> Machine:
    """The machine of a run with what `dtype: auto` means there; unchanged where the config or a GPU has settled it.

    earlier: what the run that is continued was trained with; empty for a new one. All ranks do as the first decides.
    """
    if config.dtype != "auto" or machine.device.type != "cpu":
        return machine
    bfloat16 = earlier == "bfloat16"
    if not earlier:
        first = ranks.rank == 0 and decide(config, n_classes).dtype == "bfloat16"
        bfloat16 = bool(ranks.sum(np.array([float(first)]), machine.device)[0])
    return dataclasses.replace(machine, bfloat16=bfloat16)


def decide_plainly(config: dict[str, Any], n_classes: int, threads: int) -> dict[str, Any]:
    """`decide` for another process: plain values in and out."""
    torch.set_num_threads(threads)
    return asdict(decide(TrainConfig.model_validate(config), n_classes))


def measure(shape: TrainConfig, n_classes: int) -> float:
    """Seconds of a float32 forward and backward pass over those of a bfloat16 one, the median over pairs, each of which
    is as close in time as can be. No optimizer: its part is the same in both, and it would load torch's compiler.
    """
    cpu = torch.device("cpu")
    with Machine(cpu).borrowed_randomness(seed=0):
        model = build_model.build(shape, n_classes, torch.Generator().manual_seed(0))
        objective = Objective(model, criteria.build(shape), n_classes)
        tokens = torch.randint(n_classes, (2, shape.batch_size, shape.block_size))
        sides = [_step(objective, Machine(cpu, bfloat16), tokens) for bfloat16 in (False, True)]
        for step in sides:
            step()
        ratios, begun = list[float](), time.perf_counter()
        while len(ratios) < _FEWEST or (len(ratios) < _MOST and time.perf_counter() - begun < _SECONDS):
            first = len(ratios) % 2  # neither always goes first
            seconds = {side: _seconds(sides[side]) for side in (first, 1 - first)}
            ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def _step(objective: Objective, machine: Machine, tokens: torch.Tensor) -> Callable[[], None]:
    x, y = tokens  # (B, T) each

    def step() -> None:
        with machine.autocast():
            loss = objective(x, y)
        loss.backward()
        objective.zero_grad()

    return step


def _seconds(step: Callable[[], None]) -> float:
    # of one thread its own time, which other processes on the machine do not stretch; several wait for each other
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    begun = clock()
    step()
    return clock() - begun


def _measured(config: TrainConfig, n_classes: int) -> TrainConfig:
    """The config whose step stands for all steps of this shape: fewer layers, and fewer sequences where those of a
    whole pass would take long. Only what speed depends on is taken over, so that one measurement serves all else.
    """
    layers = min(config.n_layer, _LAYERS)
    weights = 12 * layers * config.n_embd**2 + (config.vocab_size or n_classes) * config.n_embd
    rows = max(1, min(config.batch_size, round(_MULTIPLICATIONS / weights / config.block_size)))
    names = ("n_head", "n_embd", "block_size", "vocab_size", "bias", "mlp", "norm", "position", "tied_head", "dropout")
    taken = {name: getattr(config, name) for name in names}
    taken |= {} if is_reference(config.loss) else {"loss": config.loss}
    return replace(TrainConfig(device="cpu", dtype="float32"), **taken, n_layer=layers, batch_size=rows)


def _flags() -> str:
    """What the processor can, on Linux: machines of one name differ in it, virtual ones above all."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith(("flags", "Features"))), "")
    return platform.machine()
