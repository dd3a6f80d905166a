"""Seconds that a trial costs beyond its training: 100 trials of one step, through the whole search.

    python -m tests.benchmarks.bench_overhead [--trials 100] [--json FILE]

Everything is as in a real study (Ray with reused workers, the journal, MLflow on SQLite, the live view) but for
the trials, which are one step of a tiny model. Counted on each worker from one trial's end to the next one's end,
less what the loop itself took. Goal: at most 0.3 s (fresh workers would need 1.1 to 1.7).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

GOAL = 0.3  # seconds
BASE = """corpus: stories:200
n_layer: 1
n_head: 1
n_embd: 8
block_size: 32
batch_size: 4
max_tokens: 128
eval_tokens: 512
device: cpu
"""
SPEC = """study: overhead
base: {folder}/base.yaml
space:
  learning_rate: {{log: [1e-4, 1e-2]}}
sampler: random
budget: {{trials: {trials}}}
storage: {folder}/runs
"""


def measure(trials: int) -> dict[str, Any]:
    """Run the study and read its journal."""
    from search.run.study_run import run
    from search.spec.load import load_spec

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.environ.setdefault("NANOSWEEP_CACHE", str(folder / "cache"))
        (folder / "base.yaml").write_text(BASE)
        (folder / "spec.yaml").write_text(SPEC.format(folder=folder, trials=trials))
        run(*load_spec(folder / "spec.yaml"))
        return read(folder / "runs" / "overhead")


def read(folder: Path) -> dict[str, Any]:
    """Median and spread of the seconds between two ends on one worker, less the later trial's training."""
    from search.study.journal import read_records

    training: dict[int, float] = {}
    last_end: dict[str, float] = {}
    beyond: list[float] = []
    times: list[float] = []
    for record in read_records(folder / "trials.jsonl"):
        times.append(record["time"])
        if record["record"] == "report":
            training[record["trial"]] = record["metrics"]["seconds"]
        elif record["record"] == "status" and record["status"] == "completed":
            node = record["node"]
            if node in last_end:  # the first on each worker pays for its start
                beyond.append(record["time"] - last_end[node] - training[record["trial"]])
            last_end[node] = record["time"]
    low, middle, high = statistics.quantiles(beyond, n=4)
    return {
        "trials": len(training),
        "seconds_per_trial": round(middle, 4),
        "quartiles": [round(low, 4), round(high, 4)],
        "worst": round(max(beyond), 4),
        "workers": len(last_end),
        "whole": round(times[-1] - times[0], 2),
        "goal": GOAL,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    found = measure(given.trials)
    low, high = found["quartiles"]
    print(
        f"beyond training: {found['seconds_per_trial']:.3f} s per trial (quartiles {low:.3f} to {high:.3f}, worst "
        f"{found['worst']:.3f}; {found['trials']} trials on {found['workers']} workers; goal at most {GOAL})"
    )
    print(json.dumps(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
