"""A disk that is really full: a small one of its own, in a mount namespace, made larger afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.study.study import read_study
from tests.test_search_study_run import alone, numbers, write
from tests.waiting import CEILING

ROOT = Path(__file__).resolve().parent.parent
SPEC = """
study: full
base: base.yaml
set: {max_tokens: 9600, eval_every: 960}
space:
  learning_rate: {log: [1e-3, 1e-2]}
sampler: random
budget: {trials: 2}
"""
# 400 kB hold the journal and the checkpoints of one trial, not of two
SCRIPT = """
mount -t tmpfs -o size=400k tmpfs "$1/disk" || exit 77
"$2" -m search run "$1/spec.yaml"
echo "code $?"
mount -o remount,size=50m "$1/disk"
"$2" -m search run "$1/spec.yaml"
echo "code $?"
cp -r "$1/disk/full" "$1/kept"
"""


@pytest.mark.slow
def test_a_full_disk_stops_the_study_in_one_line_and_with_room_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    write(tmp_path, SPEC, tmp_path / "disk")
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "NANOSWEEP_CACHE": str(tmp_path / "cache"),
    }
    apart = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    command = [*apart, "bash", "-c", SCRIPT, "full", str(tmp_path), sys.executable]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=CEILING)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("this system lets nobody here mount a small disk")
    codes = [line for line in done.stdout.splitlines() if line.startswith("code")]
    assert codes == ["code 2", "code 0"], done.stdout + done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("nanosweep:")]
    assert said.startswith(f"nanosweep: no space left for {tmp_path}/disk/full/trials/")
    assert said.endswith("then the same command resumes the study")
    study = read_study(tmp_path / "kept")
    for trial in study.trials.values():
        assert trial.status == "completed"
        assert numbers(trial) == alone(trial)
