"""The file of per-document results: it says what was scored, to the last bit, and belongs to the final report."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data.dataset import Split
from models.gpt import GPT
from tests import tiny
from tests.refusals import refusal
from trainer import checkpoint, config, scores
from trainer.device import Machine
from trainer.evaluate import Evaluation, evaluate
from trainer.report import Report


def final(split: Split | None = None, **changes: object) -> Evaluation:
    torch.set_num_threads(1)
    data, settings = tiny.stories(), tiny.config(**changes)
    model = GPT(settings.shape(data.n_classes), torch.Generator().manual_seed(0))
    machine = Machine(torch.device("cpu"))
    return evaluate(model, split or data.val, settings, data.token_bytes, machine, final=True)


def one_document(n: int) -> Split:
    return Split(tiny.stories().val.tokens[: n + 1], np.array([1, n + 1]))


@pytest.mark.parametrize("split", [None, one_document(1000)])
def test_a_file_gives_back_what_was_scored(split: Split | None, tmp_path: Path) -> None:
    found = final(split).scores
    found.save(tmp_path / "scores.npz")
    read = scores.load(tmp_path / "scores.npz")
    for field in dataclasses.fields(scores.Scores):
        one, other = getattr(found, field.name), getattr(read, field.name)
        assert type(one) is type(other)
        assert np.array_equal(one, other)
        assert field.name == "one_document" or one.dtype == other.dtype
    assert read.nll.dtype == read.byte_nll.dtype == np.float64
    assert [path.name for path in tmp_path.iterdir()] == ["scores.npz"]
    np.load(tmp_path / "scores.npz", allow_pickle=False)["nll"]


def test_units_are_documents_and_their_sums_the_pooled_numbers() -> None:
    data, found = tiny.stories(), final()
    assert not found.scores.one_document
    assert found.scores.tokens.tolist() == np.diff(data.val.doc_starts).tolist()
    assert found.scores.nll.sum() == found.nll
    assert found.scores.nll.sum() == pytest.approx(found.readouts["softmax"], rel=1e-12)
    assert (found.scores.tokens.sum(), found.scores.bytes.sum()) == (found.tokens, found.bytes)
    assert found.tokens == data.val.n_targets
    ends = found.scores.nll - found.scores.byte_nll  # the EOT of each document
    assert (ends > 0).all()
    assert (found.scores.tokens - found.scores.bytes == 1).all()


def test_units_of_one_document_are_cells_in_the_order_of_its_text() -> None:
    found = final(one_document(1000)).scores
    assert found.one_document
    assert found.tokens.tolist() == [128] * 7 + [104]
    assert found.nll[3] == pytest.approx(final(one_document(512)).scores.nll[3], rel=1e-6)


def test_reading_needs_no_torch() -> None:
    code = "import sys, trainer.scores; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04half"])
def test_a_file_of_something_else_is_a_clear_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    error = refusal(lambda: scores.load(path))
    assert (error.kind, str(error)) == ("missing", f"{path}: no scores there")
    path.write_bytes(content)
    error = refusal(lambda: scores.load(path))
    assert error.kind == "unreadable"
    assert str(error).startswith(f"{path}: not a readable file of scores (")
    with path.open("wb") as file:
        np.savez(file, other=np.zeros(3))
    assert refusal(lambda: scores.load(path)).kind == "unreadable"


@pytest.mark.parametrize("changes", [{}, {"eval_tokens": "1M"}, {"early_stop": 1, **tiny.RUINOUS}])
def test_a_run_leaves_the_scores_of_its_final_report(changes: dict[str, object], tmp_path: Path) -> None:
    settings = tiny.config(**changes)

    def report(made: Report) -> None:
        assert (tmp_path / scores.SCORES).exists() == made.final

    result, _ = tiny.run(settings, out_dir=tmp_path, report=report)
    found = scores.load(tmp_path / scores.SCORES)
    assert found.nll.sum() / found.tokens.sum() == pytest.approx(result.metrics["val_loss"], rel=1e-12)
    assert found.ece == result.metrics["val_ece"]
    saved = checkpoint.load(tmp_path)
    weights = saved.best_model if result.status == "early_stopped" else saved.model
    assert weights is not None
    assert found.nll == pytest.approx(tiny.score(weights, settings).scores.nll, rel=1e-5)


def test_scores_of_a_run_that_goes_on_go(tmp_path: Path) -> None:
    def stop(made: Report) -> None:
        if made.step == 50:
            raise KeyboardInterrupt

    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    tiny.run(tiny.config(), out_dir=folder)
    first = scores.load(folder / scores.SCORES)
    # an ended run that is told again, elsewhere, has its scores there
    tiny.run(tiny.config(), out_dir=elsewhere, resume=folder)
    assert np.array_equal(scores.load(elsewhere / scores.SCORES).nll, first.nll)
    longer = config.replace(tiny.config(), max_tokens=60 * 64)
    with pytest.raises(KeyboardInterrupt):
        tiny.run(longer, out_dir=folder, resume=folder, report=stop)
    assert not (folder / scores.SCORES).exists()
    tiny.run(longer, out_dir=folder, resume=folder)
    assert not np.array_equal(scores.load(folder / scores.SCORES).nll, first.nll)


def test_a_file_of_an_earlier_release_lacks_what_that_did_not_measure_and_no_more(tmp_path: Path) -> None:
    found = final().scores
    assert found.tempered_count.size
    content = {name: value for name, value in dataclasses.asdict(found).items() if not name.startswith("tempered_")}
    np.savez_compressed(tmp_path / "scores.npz", **content)
    read = scores.load(tmp_path / "scores.npz")
    assert np.array_equal(read.bin_count, found.bin_count)
    assert read.tempered_count.size == read.tempered_confidence.size == read.tempered_accuracy.size == 0
    del content["nll"]
    np.savez_compressed(tmp_path / "scores.npz", **content)
    assert refusal(lambda: scores.load(tmp_path / "scores.npz")).kind == "unreadable"
