"""What the driver does with 10,000 trials: each thing that grows with them, timed, and its memory.

    python -m tests.benchmarks.bench_scale [--trials 10000] [--reports 10] [--mlflow 200] [--json FILE]

The journal is made up, of the records that a search writes: ASHA at 3 rungs stops most trials on the way, so 10,000
trials make some 67,000 records. Seconds are of this process's work, not of the clock, so that a busy machine does not
count.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

LENGTH = 64_000_000
RUNGS = (1_000_000, 4_000_000, 16_000_000)
SPEC = {
    "study": "scale",
    "base": "base.yaml",
    "space": {
        "learning_rate": {"log": [1e-4, 1e-2]},
        "dropout": {"uniform": [0.0, 0.3]},
        "n_layer": {"choice": [8, 12, 16]},
        "loss": {"choice": ["cross_entropy", "squentropy"]},
        "squentropy_lambda": {"log": [1e-3, 1.0], "when": {"loss": "squentropy"}},
    },
    "sampler": "tpe",
    "scheduler": {"asha": {"first_rung": RUNGS[0], "factor": 4}},
    "budget": {"trials": 100_000},
}


def records(trials: int, reports: int) -> Iterator[dict[str, Any]]:
    """A study's journal."""
    from search.spec.space import readable
    from search.stopping.asha import Asha
    from search.study.journal import VERSION
    from trainer.config import TrainConfig

    rng, clock, asha = random.Random(0), 1.0, Asha(4)
    base = TrainConfig(max_tokens=LENGTH, n_embd=128, n_head=4, n_layer=8)
    data = {"corpus": "stories", "tokenizer": "char", "hash": "0" * 64, "floor": None}
    about: dict[str, Any] = {"version": VERSION, "spec": SPEC, "base": base.model_dump(), "data": data}
    yield {"record": "study", "time": clock, **about, "rungs": list(RUNGS)}
    for number in range(trials):
        point: dict[str, Any] = {"learning_rate": 10 ** rng.uniform(-4, -2), "dropout": rng.uniform(0, 0.3)}
        point |= {"n_layer": rng.choice([8, 12, 16]), "loss": rng.choice(["cross_entropy", "squentropy"])}
        if point["loss"] == "squentropy":
            point["squentropy_lambda"] = 10 ** rng.uniform(-3, 0)
        config = TrainConfig(**{**base.model_dump(), **point}).model_dump()
        at, exempt = {"time": round(clock, 3), "trial": number}, number % 20 == 0
        made_of = {"point": point, "config": config, "name": readable(point), "exempt": exempt}
        yield {"record": "point", **at, **made_of}
        yield {"record": "status", **at, "status": "running", "tokens": 0, "node": "n"}
        quality, stopped = abs(math.log10(point["learning_rate"]) + 3) + rng.gauss(0, 0.05), False
        steps = sorted({*RUNGS, *(LENGTH * (i + 1) // reports for i in range(reports))})
        for tokens in steps:
            clock += 0.01
            rung = tokens if tokens in RUNGS else None
            nats = 1.2 + quality + 3 * (1e6 / tokens) ** 0.5
            metrics = {
                "val_loss": nats,
                "val_perplexity": math.exp(nats),
                "val_bits_per_byte": nats,
                "train_loss": nats,
            }
            metrics |= {
                "val_accuracy": 0.5,
                "learning_rate": 1e-3,
                "grad_norm": 1.0,
                "seconds": 1.0,
                "tokens_per_second": 1e5,
            }
            at = {"time": round(clock, 3), "trial": number}
            where = {"step": tokens // 1536, "tokens": tokens, "rung": rung, "final": tokens == LENGTH}
            yield {"record": "report", **at, **where, "metrics": metrics, "checkpoint": None, "seconds": 1.0}
            if rung is not None:
                made = asha.report(number, rung, metrics["val_perplexity"], exempt=exempt)
                yield {"record": "decision", **at, "rung": rung, **asdict(made)}
                if stopped := made.action == "stop":
                    break
        end = {"status": "pruned", "rung": rung} if stopped else {"status": "completed"}
        yield {"record": "status", **at, **end, "seconds": 1.0, "n_parameters": 10**6}


def write(folder: Path, trials: int, reports: int) -> int:
    """The journal without a flush for each record. Returns its records."""
    from search.study.journal import NAME, encode

    folder.mkdir(parents=True)
    count = 0
    with (folder / NAME).open("w", encoding="utf-8") as file:
        for record in records(trials, reports):
            file.write(encode(record) + "\n")
            count += 1
    return count


def timed(does: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.process_time()
    return does(), time.process_time() - begun


def memory() -> float:
    """MB of this process."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


def measure(folder: Path, trials: int, reports: int) -> dict[str, Any]:
    from search.results import table
    from search.spec.study_spec import StudySpec
    from search.strategy.sampler import Sampler
    from search.strategy.stopping import rebuild
    from search.study.journal import NAME
    from search.study.study import read_study, spent

    found: dict[str, Any] = {"trials": trials, "records": write(folder, trials, reports)}
    found["journal_mb"] = (folder / NAME).stat().st_size / 2**20
    before = memory()
    study, found["read_journal_s"] = timed(lambda: read_study(folder))
    found["study_mb"] = memory() - before
    spec = StudySpec.model_validate(SPEC)
    asha, found["rebuild_asha_s"] = timed(lambda: rebuild(spec, study))
    assert asha is not None
    _, found["decision_s"] = timed(lambda: asha.report(trials, RUNGS[0], 5.0))
    _, found["budget_s"] = timed(lambda: spent(study, spec.budget))
    import optuna  # noqa: F401  its import is not the proposal's

    sampler = Sampler(spec, study.header.base)
    sampler.ask(trials, study)  # the first loads what it needs
    _, found["proposal_s"] = timed(lambda: sampler.ask(trials + 1, study))
    _, found["leaderboard_s"] = timed(lambda: table.render(study, limit=30))
    _, found["leaderboard_json_s"] = timed(lambda: table.as_json(study))
    found["driver_mb"] = memory()
    return found


def send(folder: Path, trials: int, reports: int) -> dict[str, Any]:
    """Seconds for each trial that MLflow gets, all its reports and its end, on SQLite in this process."""
    from search.study.ledger import Ledger
    from search.tracking.mlflow_store import DATABASE, connect
    from search.tracking.mlflow_tracker import MlflowTracker

    write(folder, trials, reports)
    uri = f"sqlite:///{folder.parent / DATABASE}"
    connect(uri, 600)
    tracker = MlflowTracker(folder, uri)
    begun = time.process_time()
    tracker.follow(Ledger(folder))
    missing = tracker.close(3600)
    assert not missing, missing
    return {"mlflow_trials": trials, "mlflow_s_per_trial": (time.process_time() - begun) / trials}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--reports", type=int, default=10)
    parser.add_argument("--mlflow", type=int, default=200, metavar="N", help="trials sent to MLflow; 0: none")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name) / "a" / "scale", given.trials, given.reports)
        if given.mlflow:
            found |= send(Path(name) / "b" / "scale", given.mlflow, given.reports)
    for key, value in found.items():
        print(f"{key:<20} {value:.4g}" if isinstance(value, float) else f"{key:<20} {value:,}")
    print(json.dumps(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
