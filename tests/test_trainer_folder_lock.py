"""One run at a time writes a run folder, whoever starts it; a dead one's lock is free."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from search.run.full_run import main as train
from tests import tiny
from trainer import config
from trainer.__main__ import held, main
from trainer.folder_lock import holder_of

HOLD = """
import sys, time
from pathlib import Path
from trainer.__main__ import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that trains into `out`."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "out")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_second_run_in_a_folder_is_told_of_the_first_and_changes_nothing(
    other: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tiny.stories().path.parent))
    path = tmp_path / "tiny.yaml"
    path.write_text(config.dump(tiny.config(max_tokens=64)))
    before = files(tmp_path / "out")
    commands: list[tuple[Any, list[str]]] = [(main, []), (main, ["--resume"]), (train, []), (train, ["--workers", "1"])]
    for command, options in commands:
        assert command([str(path), "--out", str(tmp_path / "out"), *options]) == 2
        assert f"is being trained by process {other.pid} on" in capsys.readouterr().err
    assert files(tmp_path / "out") == before
    assert holder_of(tmp_path / "out", "run") is not None
    other.kill()
    other.wait()
    assert holder_of(tmp_path / "out", "run") is None
    assert main([str(path), "--out", str(tmp_path / "out")]) == 0  # a dead one's lock is free
    assert holder_of(tmp_path / "out", "run") is None
    assert main([str(path), "--out", str(tmp_path / "out"), "--max-tokens", "128", "--resume"]) == 0


@pytest.mark.parametrize("name", ["config.yaml", "error.txt"])
def test_a_folder_without_a_run_goes_away_and_one_with_the_traceback_that_was_named_stays(
    name: str, tmp_path: Path
) -> None:
    for kept in (False, True):
        with held(tmp_path / "new/out"):
            (tmp_path / "new/out/tokenizer.json").touch()
            if kept:
                (tmp_path / "new/out" / name).touch()
        assert (tmp_path / "new").exists() == kept


def test_a_folder_that_was_there_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    with pytest.raises(RuntimeError), held(tmp_path):
        raise RuntimeError("a check failed")
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made a run folder: Not a directory"), held(tmp_path / "file/out"):
        pass
