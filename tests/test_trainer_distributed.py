"""Two processes under torchrun train the model that one process trains."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import UserError
from tests import tiny
from tests.waiting import CEILING
from trainer import checkpoint, config
from trainer.distributed import Ranks

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_two_ranks_follow_the_loss_curve_of_one_process(tmp_path: Path) -> None:
    # an odd share per rank of micro-batches: 3 rounds of 4 rows make 6 rows for each rank, in batches of 4 and 2
    settings = tiny.config(gradient_accumulation_steps=3, max_tokens=15 * 192, eval_every=5 * 192, learning_rate=1e-2)
    _, alone = tiny.run(settings)
    path = tmp_path / "tiny.yaml"
    path.write_text(config.dump(settings))
    environment = {**os.environ, "NANOSWEEP_CACHE": str(tiny.stories().path.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "trainer"]
    done = subprocess.run(
        [*command, str(path), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=CEILING,
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"val_loss \d+\.\d+ val_perplexity \d+\.\d+", done.stdout.splitlines()[-1])
    assert done.stdout.count("step ") == 3  # one rank speaks
    lines = (tmp_path / "out" / checkpoint.METRICS).read_text().splitlines()
    for line, report in zip(map(json.loads, lines), alone, strict=True):
        assert line["tokens"] == report.tokens
        for name in ("val_loss", "train_loss", "gradient_norm", "val_accuracy"):
            assert line["metrics"][name] == pytest.approx(report.metrics[name], rel=1e-4)
    one, two = tiny.score(checkpoint.load(tmp_path / "out").model, settings).loss, alone[-1].metrics["val_loss"]
    assert one == pytest.approx(two, rel=1e-5)


def test_ranks_share_every_row_once() -> None:
    shares = [Ranks(rank, 4).share(12) for rank in range(4)]
    assert [row for first, count in shares for row in range(first, first + count)] == list(range(12))


def test_rows_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match=r"10 rows .* by 4 processes; make it a multiple of 4"):
        Ranks(0, 4).share(10)
