"""Memory and time of the head: losses from hidden states and weights against dense logits.

    python -m tests.benchmarks.bench_loss [--tokens 2048] [--classes 50304] [--width 384] [--rounds 5] [--json FILE]

Each measurement is one forward and backward pass in a process of its own: its memory is the peak over what was
resident before (weights and hidden states), its time that of a second pass. The peers take turns. `torch` is
F.linear_cross_entropy in chunks (torch >= 2.13). Goal: squentropy in at most a third of the dense head's memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

GOAL = 1 / 3
CASES = (  # loss, the peer; ours is measured against it
    ("squentropy", "dense"),
    ("cross_entropy", "dense"),
    ("cross_entropy", "torch"),
    ("mse", "dense"),
    ("brier", "dense"),
)


def one_pass(loss: str, how: str, tokens: int, classes: int, width: int, bf16: bool) -> dict[str, float]:
    """Bytes and seconds of one forward and backward pass, measured in this process."""
    import psutil
    import torch
    from torch.nn import functional as F

    from models.head import per_token_loss, training_loss
    from models.losses import LOSSES

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator, requires_grad=True)
    weight = (0.05 * torch.randn(classes, width, generator=generator)).requires_grad_()
    targets = torch.randint(classes, (tokens,), generator=generator)

    def value() -> torch.Tensor:
        if how == "dense":
            return per_token_loss(LOSSES[loss], {}, F.linear(hidden, weight), targets).mean()
        if how == "torch":
            options = torch.nn.LinearCrossEntropyOptions()
            dtype = torch.bfloat16 if bf16 else torch.float32
            return F.linear_cross_entropy(hidden.to(dtype), weight.to(dtype), targets, options=options)
        return training_loss(LOSSES[loss], {}, hidden, weight, targets, classes)

    before, seconds = psutil.Process().memory_info().rss, []
    for _ in range(2):
        hidden.grad = weight.grad = None
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            total = value()
        total.backward()
        seconds.append(time.perf_counter() - start)
    return {"bytes": peak_rss() - before, "seconds": min(seconds)}


def peak_rss() -> int:
    """Bytes. Linux tells it for this program alone; getrusage there counts what ran before exec as well."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def elsewhere(arguments: dict[str, Any]) -> dict[str, float]:
    """one_pass in a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_loss", "--one", json.dumps(arguments)]
    root = Path(__file__).resolve().parents[2]
    return json.loads(subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True).stdout)


def compare(loss: str, peer: str, shape: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Ours over the peer: memory and time, each median, least and most of the rounds."""
    memory, duration, last = [], [], {}
    for number in range(rounds):
        order = ("ours", peer) if number % 2 else (peer, "ours")  # neither always goes first
        last = {how: elsewhere({"loss": loss, "how": how, **shape}) for how in order}
        memory.append(last["ours"]["bytes"] / last[peer]["bytes"])
        duration.append(last["ours"]["seconds"] / last[peer]["seconds"])
    return {
        "loss": loss,
        "peer": peer,
        "memory": [statistics.median(memory), min(memory), max(memory)],
        "time": [statistics.median(duration), min(duration), max(duration)],
        "last": last,
    }


def line(found: dict[str, Any]) -> str:
    memory, duration = ("{:.2f} ({:.2f} to {:.2f})".format(*found[what]) for what in ("memory", "time"))
    sizes = " / ".join(f"{found['last'][how]['bytes'] / 2**20:.0f}" for how in ("ours", found["peer"]))
    goal = f"  goal at most {GOAL:.2f}" if (found["loss"], found["peer"]) == ("squentropy", "dense") else ""
    return f"{found['loss']}: ours / {found['peer']}  memory {memory}{goal}  {sizes} MiB  time {duration}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=50304)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--bf16", action="store_true", help="inside bfloat16 autocast")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)  # how it calls itself
    given = parser.parse_args(argv)
    if given.one:
        print(json.dumps(one_pass(**given.one)))
        return 0
    shape = {"tokens": given.tokens, "classes": given.classes, "width": given.width, "bf16": given.bf16}
    print(f"one pass of the head, {shape}", flush=True)
    results = []
    for loss, peer in CASES:
        results.append(compare(loss, peer, shape, given.rounds))
        print(line(results[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps({**shape, "cases": results}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
