"""Full runs on Ray's workers: the loss curve of one process, whatever happens to a worker on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from data.errors import UserError
from search.run.train_workers import describe
from tests import foreign, tiny
from tests.drivers import children
from tests.waiting import CEILING, until
from trainer import checkpoint, config
from trainer.run_folder import METRICS

ROOT = Path(__file__).resolve().parent.parent
DEAD, RESET = ActorDiedError(), RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")
MISSED = WorkerHealthCheckFailedError("A worker health check failed.", DEAD)


@pytest.mark.parametrize(
    ("failures", "kind", "ranks"),
    [
        ({1: DEAD}, "lost", [1]),
        ({1: MISSED}, "lost", [1]),  # as a killed worker looks to Ray Train
        ({0: RESET, 1: DEAD}, "lost", [1]),  # who talked to the one that died fails with it
        ({0: RESET, 1: RESET}, "lost", [0]),
        ({0: UserError("no space left"), 1: RESET}, "mistake", [0]),
        ({0: RESET, 1: torch.OutOfMemoryError("CUDA out of memory")}, "memory", [1]),
        ({0: TypeError("x")}, "bug", [0]),
        ({0: TypeError("x"), 1: DEAD}, "lost", [1]),
        ({0: RESET, 1: TypeError("x")}, "bug", [1]),
    ],
)
def test_only_what_may_succeed_another_time_is_tried_again(
    failures: dict[int, BaseException], kind: str, ranks: list[int]
) -> None:
    note = describe(failures)
    assert (note["kind"], note["ranks"]) == (kind, ranks)


def settings() -> Any:
    return tiny.config(max_tokens=600 * 64, eval_every=50 * 64, learning_rate=3e-4, device="cpu")


def command(folder: Path, *more: str) -> list[str]:
    path = folder / "tiny.yaml"
    path.write_text(config.dump(settings()))
    words = ["train", str(path), "--workers", "2", "--out", str(folder / "out"), *more]
    return [sys.executable, "-m", "search", *words]


def environment() -> dict[str, str]:
    given = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    return {**given, "NANOSWEEP_CACHE": str(tiny.stories().path.parent), "PYTHONPATH": str(ROOT)}


def curve(folder: Path) -> list[dict[str, Any]]:
    """Reports without what the clock says."""
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    for line in lines:
        line["metrics"] = {key: value for key, value in line["metrics"].items() if key not in tiny.TIMING}
    return lines


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two workers that nothing happened to, and what was printed."""
    folder = foreign.fill(tmp_path_factory.mktemp("undisturbed"))
    done = subprocess.run(
        command(folder), capture_output=True, text=True, env=environment(), cwd=folder, timeout=CEILING
    )
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    return folder


@pytest.mark.slow
def test_two_workers_follow_the_loss_curve_of_one_process(undisturbed: Path) -> None:
    _, alone = tiny.run(settings())
    # sums in another order differ in the last bit, and training enlarges that step by step
    for line, report, far in zip(curve(undisturbed / "out"), alone, [1e-6] + [5e-4] * 11, strict=True):
        assert (line["tokens"], line["final"]) == (report.tokens, report.final)
        for name in ("val_loss", "train_loss"):
            assert line["metrics"][name] == pytest.approx(report.metrics[name], rel=far)
    printed = (undisturbed / "printed").read_text().splitlines()
    assert f"val_loss {alone[-1].metrics['val_loss']:.4f}" in printed[-1]
    assert [line.split()[1] for line in printed if line.startswith("step ")] == [str(n) for n in range(50, 601, 50)]
    assert {"config.yaml", "checkpoint.pt", "metrics.jsonl", "tokenizer.json", "scores.npz"} <= {
        path.name for path in (undisturbed / "out").iterdir()
    }


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing_but_time(undisturbed: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), cwd=tmp_path
    )
    until((tmp_path / "out" / checkpoint.CHECKPOINT).exists)
    victims = [worker for worker in children(process.pid, "RayTrainWorker") if worker.is_running()]
    assert len(victims) == 2
    victims[-1].kill()
    printed, errors = process.communicate(timeout=CEILING)
    assert process.returncode == 0, errors
    assert "starting again from the last checkpoint (1 of at most 3 times)" in printed
    assert curve(tmp_path / "out") == curve(undisturbed / "out")
    assert "Traceback" not in printed + errors
