"""A study's folder: one driver, nothing left behind, weights of the best trials only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import UserError
from search.study.folder import BEST, Weights, held, trial_folder
from search.study.journal import NAME
from tests import journals
from tests.refusals import facts

HOLD = """
import sys, time
from pathlib import Path
from search.study.folder import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(3600)
"""


def test_a_folder_without_a_journal_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), held(tmp_path / "runs" / "study"):
        raise RuntimeError("a check failed")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "other").touch()
    with held(tmp_path / "runs" / "study"):
        pass
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]


def test_a_study_that_began_is_kept(tmp_path: Path) -> None:
    with held(tmp_path / "study"):
        (tmp_path / "study" / NAME).touch()
    assert (tmp_path / "study" / NAME).exists()
    assert not (tmp_path / "study" / "driver.json").exists()


def test_a_second_driver_is_told_who_holds_the_study_and_a_dead_ones_lock_is_free(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "s")], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match=f"being run by process {first.pid} on .* since 2") as caught,
            held(tmp_path / "s"),
        ):
            pass
        assert caught.value.kind == "held"
        first.kill()
        first.wait()
    with held(tmp_path / "s"):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught, held(tmp_path / "file" / "study"):
        pass
    assert facts(caught.value) == ("cannot_write", ("storage",), None)
    assert str(caught.value) == (
        f"storage: {tmp_path / 'file' / 'study'} cannot be written: Not a directory; give another `storage`"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_forbidden_folder_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError) as caught, held(tmp_path / "study"):
        pass
    assert facts(caught.value) == ("cannot_write", ("storage",), None)


def with_weights(folder: Path, number: int) -> None:
    trial_folder(folder, number).mkdir(parents=True)
    for name in ("checkpoint.pt", "best.pt", "config.yaml"):
        (trial_folder(folder, number) / name).touch()


def having_weights(folder: Path) -> list[int]:
    return sorted(int(path.parent.name) for path in folder.glob("trials/*/checkpoint.pt"))


def test_only_the_best_trials_keep_their_weights(tmp_path: Path) -> None:
    ledger = journals.Ledger(tmp_path)
    ledger.write("study", **journals.header())
    ledger.listeners.append(Weights(tmp_path, ledger.study))
    for number, perplexity in enumerate([9.0, 8.0, 7.0, 7.5, 10.0, 1.0]):
        with_weights(tmp_path, number)
        journals.complete(ledger, number, perplexity)
        assert len(having_weights(tmp_path)) == min(number + 1, BEST)
    assert having_weights(tmp_path) == [2, 3, 5]
    assert not list(tmp_path.glob("trials/0/*.pt"))
    assert (tmp_path / "trials" / "0" / "config.yaml").exists()


def test_trials_that_stopped_early_lose_their_weights_and_those_that_may_continue_keep_them(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path)  # 2 pruned, 3 diverged, 4 failed, 5 interrupted, 6 waiting
    for number in range(7):
        with_weights(tmp_path, number)
    Weights(tmp_path, ledger.study)
    assert having_weights(tmp_path) == [0, 1, 4, 5, 6]
