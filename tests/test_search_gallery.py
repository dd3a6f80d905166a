"""`nanosweep figures`: which files there are, why one is missing, and that drawing leaves no trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from search.cli.main import main
from search.report import figures, gallery
from search.study.folder import trial_folder
from search.study.study import read_study
from tests import journals, tiny
from trainer.calibration import BINS
from trainer.scores import Scores


def scores(one_document: bool = False) -> Scores:
    rng = np.random.default_rng(0)
    tokens = rng.integers(50, 200, 40)
    count = np.full(BINS, 10.0)
    middle = (np.arange(BINS) + 0.5) / BINS
    bins = (count, middle, middle**1.2)
    return Scores(tokens * rng.normal(1.4, 0.2, 40), tokens * 1.3, tokens, tokens, one_document, *bins, *bins)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study whose leader has results by document; with a name in which a formula hides."""
    folder = tmp_path / "quick"
    journals.write_study(folder)
    trial_folder(folder, 1).mkdir(parents=True)
    scores().save(trial_folder(folder, 1) / "scores.npz")
    return folder


ALL = ["trials.png", "by-loss.png", "leader.png", "documents.png", "reliability.png"]


def width(path: Path) -> int:
    """Of a PNG, in pixels: the first number of its header."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    return int.from_bytes(content[16:20], "big")


def test_a_study_has_its_five_pictures_and_the_command_prints_each(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert main(["figures", str(folder)]) == 0
    *printed, said = capsys.readouterr().out.splitlines()
    assert printed == [str(folder / "figures" / name) for name in ALL]
    assert said.startswith("quick: the leader, trial 1: validation loss is lowest at 4k of 8k tokens (1.253; ")
    assert {width(Path(path)) for path in printed} == {960}
    assert sorted(path.name for path in (folder / "figures").iterdir()) == sorted(ALL)  # no half-written file
    assert dict(matplotlib.rcParams) == before
    (folder / "figures" / "by-loss.png").unlink()
    assert main(["figures", "quick", "--storage", str(folder.parent), "--by", "squentropy_lambda", "-o", "here"]) == 0
    assert Path("here/by-squentropy_lambda.png").exists()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_the_same_picture_has_the_same_bytes() -> None:
    first, second = (figures.png(figures.documents("$x$ and $", scores())) for _ in range(2))
    assert first == second


def test_what_cannot_be_drawn_is_said_and_the_rest_is_drawn(folder: Path) -> None:
    scores(one_document=True).save(trial_folder(folder, 1) / "scores.npz")
    drawn = gallery.of_study(read_study(folder), folder / gallery.FOLDER)
    assert [path.name for path in drawn.paths] == [name for name in ALL if name != "documents.png"]
    assert "no documents.png: the validation text is one document" in drawn.lines
    (trial_folder(folder, 1) / "scores.npz").unlink()
    drawn = gallery.of_study(read_study(folder), folder / gallery.FOLDER)
    assert [path.name for path in drawn.paths] == ALL[:3]
    assert len([line for line in drawn.lines if "no scores there" in line]) == 2


def test_a_run_folder_has_pictures_too(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tiny.run(tiny.config(), out_dir=tmp_path / "run")
    drawn = gallery.of_run(tmp_path / "run")
    assert [path.name for path in drawn.paths] == ["loss.png", "documents.png", "reliability.png"]
    assert {width(path) for path in drawn.paths} == {960}
    assert main(["figures", str(tmp_path / "run"), "--by", "loss"]) == 2
    assert "is one run" in capsys.readouterr().err


def test_a_mistake_is_one_line(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["figures", "quik", "--storage", str(folder.parent)]) == 2
    assert "did you mean quick?" in capsys.readouterr().err
    assert main(["figures", str(folder), "--by", "los"]) == 2
    assert "did you mean loss?" in capsys.readouterr().err
    Path("file").touch()
    assert main(["figures", str(folder), "-o", "file"]) == 2
    assert "give another folder with -o" in capsys.readouterr().err


def test_a_study_does_not_fail_for_its_pictures(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "figures").touch()
    gallery.write_beside(folder)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: no figures: not computed: ")
    assert line.endswith(f"nanosweep figures {folder} tries again")


def test_lines_differ_without_their_colours() -> None:
    assert len({marker for _, _, marker in figures.STYLES}) == len(figures.STYLES)
    assert len({str(dashes) for _, dashes, _ in figures.STYLES}) == len(figures.STYLES)
