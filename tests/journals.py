"""Small real journals for tests: written through the same Journal and Ledger that a search writes through."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from search.study.journal import VERSION
from search.study.ledger import Ledger
from trainer.config import TrainConfig

RUNGS = [1000, 4000]
LENGTH = 8000


def header(name: str = "quick", **changes: Any) -> dict[str, Any]:
    """The fields of a study record."""
    spec = {
        "study": name,
        "base": "base.yaml",
        "space": {
            "learning_rate": {"log": [1e-4, 1e-2]},
            "loss": {"choice": ["cross_entropy", "squentropy"]},
            "squentropy_lambda": {"log": [1e-3, 1.0], "when": {"loss": "squentropy"}},
        },
        "sampler": "random",
        "scheduler": {"asha": {"first_rung": 1000, "factor": 4}},
        "budget": {"trials": 8},
        "objective": "val_perplexity",
        "seed": 1337,
    }
    base = TrainConfig(max_tokens=LENGTH).model_dump()
    data = {"corpus": "stories", "tokenizer": "char", "hash": "abc123", "floor": None}
    fields = {"version": VERSION, "spec": spec, "base": base, "data": data, "rungs": RUNGS}
    return {**fields, "commit": "0123456789abcdef", "dirty": True, "packages": {"torch": "2.13.0"}, **changes}


def metrics(perplexity: float, **more: float) -> dict[str, float]:
    """What a report measures, from its validation perplexity."""
    nats = math.log(perplexity) if perplexity > 0 and math.isfinite(perplexity) else perplexity
    return {
        "val_loss": nats,
        "val_perplexity": perplexity,
        "val_bits_per_byte": nats / math.log(2),
        "train_loss": nats - 0.1,
        "seconds": 1.5,
        "peak_memory_mb": 321.0,
        **more,
    }


def point(ledger: Ledger, number: int, **values: Any) -> None:
    values = values or {"learning_rate": 1e-3 * (number + 1), "loss": "cross_entropy"}
    config = TrainConfig(max_tokens=LENGTH, **values)
    ledger.write(
        "point",
        trial=number,
        point=values,
        config=config.model_dump(),
        name=f"lr={config.learning_rate:g} {config.loss}",
    )


def start(ledger: Ledger, number: int, tokens: int = 0) -> None:
    ledger.write("status", trial=number, status="running", tokens=tokens, node="here")


def report(ledger: Ledger, number: int, tokens: int, perplexity: float, rung: int | None = None, **more: float) -> None:
    final = tokens >= LENGTH
    if final:
        more = {"val_loss_subset": math.log(perplexity) + 0.01, **more}
    measured = metrics(perplexity, **more)
    step = tokens // 100
    ledger.write(
        "report", trial=number, step=step, tokens=tokens, rung=rung, final=final, metrics=measured, checkpoint=None
    )


def end(ledger: Ledger, number: int, status: str, **more: Any) -> None:
    ledger.write("status", trial=number, status=status, seconds=12.5, n_parameters=809_856, **more)


def complete(ledger: Ledger, number: int, perplexity: float, **values: Any) -> None:
    """A trial from its point to its end at full length; on the way it was better than at the end."""
    point(ledger, number, **values)
    start(ledger, number)
    report(ledger, number, 1000, perplexity + 3, rung=1000)
    report(ledger, number, 4000, perplexity - 0.5, rung=4000)
    report(ledger, number, LENGTH, perplexity)
    end(ledger, number, "completed")


def write_study(folder: Path, **changes: Any) -> Ledger:
    """One trial of each kind, 0 to 6: completed, the best, pruned, diverged, failed, interrupted, waiting."""
    ledger = Ledger(folder)
    ledger.write("study", **header(folder.name, **changes))
    complete(ledger, 0, 5.0)
    complete(ledger, 1, 4.0, learning_rate=2e-3, loss="squentropy", squentropy_lambda=0.1)
    point(ledger, 2)
    start(ledger, 2)
    report(ledger, 2, 1000, 2.5, rung=1000)  # lower than any, at fewer tokens: must not lead
    ledger.write("decision", trial=2, rung=1000, action="stop", value=2.5, cutoff=2.0, of=3)
    end(ledger, 2, "pruned", rung=1000)
    point(ledger, 3)
    start(ledger, 3)
    report(ledger, 3, 1000, math.nan, rung=1000)
    end(ledger, 3, "diverged", cause="the loss is nan at step 10")
    point(ledger, 4)
    start(ledger, 4)
    end(ledger, 4, "failed", cause="RuntimeError: boom")
    point(ledger, 5)
    start(ledger, 5)
    report(ledger, 5, 1000, 6.0, rung=1000)
    report(ledger, 5, 4000, 5.5, rung=4000)
    ledger.write("status", trial=5, status="interrupted", seconds=3.0)
    point(ledger, 6)
    return ledger
