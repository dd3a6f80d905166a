"""A run as files without code: the same numbers and the same text, wherever it is loaded."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from data import tokenizers
from data.dataset import Dataset
from data.errors import UserError
from data.prepare import prepare
from tests import tiny
from tests.refusals import refusal
from trainer import portable, rescore, sample


def documents(data: Dataset) -> list[str]:
    """The texts of the validation split."""
    tokenizer, split = tokenizers.load(data.path), data.val
    ends = split.doc_starts[1:] - (1 if data.eot is not None else 0)
    begins = split.doc_starts[:-1] - (0 if data.eot is not None else 1)
    return [tokenizer.decode(split.tokens[a:b]) for a, b in zip(begins, ends, strict=True)]


@pytest.mark.parametrize("loss", ["cross_entropy", "squentropy"])
def test_the_validation_texts_score_what_the_run_reported(tmp_path: Path, loss: str) -> None:
    settings = tiny.config(loss=loss, max_tokens=20 * 64, vocab_size=64)
    result, _ = tiny.run(settings, out_dir=tmp_path / "run")
    portable.save(tmp_path / "run", tmp_path / "files")
    scored = portable.load(tmp_path / "files").score(documents(tiny.stories()))
    nats, tokens = np.array(scored).sum(0)
    assert tokens == tiny.stories().val.n_targets
    assert math.exp(nats / tokens) == pytest.approx(result.metrics["val_perplexity"], rel=1e-6)
    whole = rescore.rescore(tmp_path / "run", tiny.stories(), tiny.stories().val).scores
    assert [one for one, _ in scored] == pytest.approx(whole.nll.tolist(), rel=1e-5)


def test_a_corpus_of_one_document_scores_what_the_run_reported(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("so it goes, and so it went on, as it always had gone.\n" * 200)
    data = prepare(f"text:{tmp_path / 'one.txt'}", "char", cache=tmp_path / "cache")
    assert data.eot is None
    result, _ = tiny.run(tiny.config(max_tokens=640), data=data, out_dir=tmp_path / "run")
    portable.save(tmp_path / "run", tmp_path / "files")
    loaded = portable.load(tmp_path / "files")
    ((nats, tokens),) = loaded.score(documents(data))
    assert math.exp(nats / tokens) == pytest.approx(result.metrics["val_perplexity"], rel=1e-6)
    assert loaded.score(["x"[:0], "s"]) == [(0.0, 0), (0.0, 0)]  # nothing is predicted


def test_a_run_that_stopped_early_is_its_best_weights(tmp_path: Path) -> None:
    result, _ = tiny.run(tiny.config(early_stop=1, **tiny.RUINOUS), out_dir=tmp_path / "run")
    assert result.status == "early_stopped"
    portable.save(tmp_path / "run", tmp_path / "files")
    nats, tokens = np.array(portable.load(tmp_path / "files").score(documents(tiny.stories()))).sum(0)
    assert math.exp(nats / tokens) == pytest.approx(result.metrics["val_perplexity"], rel=1e-6)


def test_it_writes_the_text_that_the_run_writes(tmp_path: Path) -> None:
    tiny.run(tiny.config(max_tokens=640, eval_every=640), out_dir=tmp_path / "run")
    portable.save(tmp_path / "run", tmp_path / "files")
    options = {"max_new_tokens": 20, "seed": 5}
    text = portable.load(tmp_path / "files").write("Once", **options)
    assert text == sample.load(tmp_path / "run").write("Once", **options)[0]
    assert not [path.name for path in (tmp_path / "files").iterdir() if path.suffix in (".pt", ".pkl")]


def test_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint there"):
        portable.save(tmp_path, tmp_path / "files")


@pytest.mark.parametrize("name", ["model.safetensors", "about.json", "tokenizer.json", "config.yaml"])
@pytest.mark.parametrize("left", [None, 0, 0.5])
def test_a_saved_run_that_is_not_whole_is_refused_in_a_line(name: str, left: float | None, tmp_path: Path) -> None:
    tiny.run(tiny.config(max_tokens=64, eval_every=64), out_dir=tmp_path / "run")
    portable.save(tmp_path / "run", tmp_path / "files")
    file = tmp_path / "files" / name
    content = file.read_bytes()
    file.unlink()
    if left is not None:
        file.write_bytes(content[: int(left * len(content))])
    assert str(file) in str(refusal(lambda: portable.load(tmp_path / "files"))) or name == "tokenizer.json"
