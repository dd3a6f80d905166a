"""The same trials undisturbed: each config by the loop alone, or the whole search with nothing killed."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from search.study.study import Study, Trial, read_study
from tests.soak.processes import ROOT
from tests.tiny import TIMING, values
from trainer.config import TrainConfig
from trainer.report import Report

Numbers = list[tuple[int, dict[str, float]]]  # of each report: tokens, and what does not depend on the clock


class _Enough(BaseException):
    """The trial that is compared came no further."""


def train(config: dict[str, Any], rungs: list[int], tokens: int) -> Numbers:
    """A config's reports up to some tokens. One thread, as in a worker with one CPU."""
    import torch

    from data.prepare import prepare
    from trainer import loop

    torch.set_num_threads(1)
    made: Numbers = []

    def take(report: Report) -> None:
        made.append((report.tokens, values(report)))
        if report.tokens >= tokens and not report.final:
            raise _Enough

    settings = TrainConfig.model_validate(config)
    with suppress(_Enough):
        loop.train(settings, prepare(settings.corpus, settings.tokenizer), take, rungs=rungs)
    return made


def train_all(trials: list[Trial], rungs: dict[int, list[int]]) -> dict[int, Numbers]:
    """Each trial that reported anything, by number. rungs: by bracket."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(os.cpu_count(), context) as pool:
        made = {
            trial.number: pool.submit(train, trial.config, rungs[trial.bracket], trial.tokens)
            for trial in trials
            if trial.reports
        }
        return {number: future.result() for number, future in made.items()}


def numbers(trial: Trial) -> Numbers:
    """What the journal has of a trial."""
    return [(r["tokens"], {k: v for k, v in r["metrics"].items() if k not in TIMING}) for r in trial.reports]


def search_all(spec: Path, storage: Path) -> dict[int, Numbers]:
    """The study of another spec with the same points, on a Ray of its own, run through. Raises CalledProcessError."""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    subprocess.run([sys.executable, "-m", "search", "run", str(spec)], cwd=ROOT, env=environment, check=True)
    study: Study = read_study(storage)
    return {trial.number: numbers(trial) for trial in study.trials.values()}
