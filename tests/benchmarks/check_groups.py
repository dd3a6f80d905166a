"""Are the leaderboard's groups right? The finalists of a study again with many more seeds, by brute force.

    python -m tests.benchmarks.check_groups runs/shakespeare-char-cpu --seeds 10 --json out/bench/groups.json

Trains every finalist with seeds that the study never saw (two processes, one thread each; what is done is kept in the
JSON file, and run again it continues), and compares what few seeds said of each pair with what many say.
"""

from __future__ import annotations

import argparse
import itertools
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from search.stats.statistics import Standing, compare_trials
from search.study.scores import finalists, objective_of
from search.study.study import Study, read_study
from trainer.config import TrainConfig, replace

FIRST_SEED = 700_000  # the study's own are drawn from its spec's seed


def train(config: dict[str, Any], seed: int) -> dict[str, float]:
    """The final report's metrics of one run."""
    import torch

    from data.prepare import prepare
    from trainer.loop import train as loop

    torch.set_num_threads(1)
    whole = replace(TrainConfig.model_validate(config), seed=seed)
    return loop(whole, prepare(whole.corpus, whole.tokenizer, whole.split), lambda report: None).metrics


def collect(study: Study, numbers: list[int], seeds: int, file: Path, processes: int) -> dict[int, list[float]]:
    """Scores by trial, a value per seed; the file holds what is done."""
    done: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    target = objective_of(study)
    todo = [(number, seed) for seed in range(seeds) for number in numbers if f"{number} {seed}" not in done]
    with ProcessPoolExecutor(processes) as pool:
        jobs = {pool.submit(train, study.trials[n].config, FIRST_SEED + seed): (n, seed) for n, seed in todo}
        for job in as_completed(jobs):
            number, seed = jobs[job]
            value = job.result()[target.name]
            done[f"{number} {seed}"] = target.compared(value)
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(done, indent=0, sort_keys=True))
            partial.replace(file)
            print(f"trial {number} seed {seed}: {done[f'{number} {seed}']:.4f}  ({len(done)} runs)", flush=True)
    return {number: [done[f"{number} {seed}"] for seed in range(seeds)] for number in numbers}


def apart(found: list[Standing]) -> dict[tuple[int, int], bool]:
    """For each pair: whether they are in different groups."""
    group = {one.number: one.group for one in found}
    return {pair: group[pair[0]] != group[pair[1]] for pair in itertools.combinations(sorted(group), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, default=Path("out/bench/groups.json"))
    given = parser.parse_args()
    study = read_study(given.study)
    few = finalists(study)
    many = collect(study, list(few), given.seeds, given.json, given.processes)
    said, truth = compare_trials(few), compare_trials(many)
    print("trial  few seeds             many seeds")
    values = {one.number: one for one in truth}
    for one in said:
        other = values[one.number]
        print(
            f"{one.number:>5}  {one.value:.4f} ({one.runs}) group {one.group}"
            f"   {other.value:.4f} ({other.runs}) group {other.group}  {study.trials[one.number].name}"
        )
    pairs, right = apart(said), apart(truth)
    order = {one.number: one.value for one in truth}
    mean = {one.number: one.value for one in said}
    wrong = [
        p for p, different in pairs.items() if different and (mean[p[0]] < mean[p[1]]) != (order[p[0]] < order[p[1]])
    ]
    print(f"{sum(pairs[p] == right[p] for p in pairs)} of {len(pairs)} pairs: both say the same")
    print(f"{sum(right[p] and not pairs[p] for p in pairs)} pairs: a tie by few seeds that many tell apart")
    print(f"{sum(pairs[p] and not right[p] for p in pairs)} pairs: told apart by few seeds, a tie by many")
    print(f"{len(wrong)} pairs: told apart by few seeds the wrong way round")


if __name__ == "__main__":
    main()
