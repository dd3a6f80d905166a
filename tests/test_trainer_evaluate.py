"""Every target once, whatever the batch; read-outs rather than losses; documents kept apart."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.dataset import Split
from data.tokens import subset
from models.gpt import GPT
from models.head import training_loss
from models.losses import LOSSES
from models.readouts import log_probs
from tests import scarce, tiny
from tests.refusals import key_refusal
from trainer import config
from trainer.config import TrainConfig
from trainer.criterion import build
from trainer.device import Machine
from trainer.distributed import Ranks
from trainer.evaluate import Evaluation, evaluate
from trainer.report import Report
from trainer.scoring import CPU_ROWS

CPU = Machine(torch.device("cpu"))


def random_model(settings: TrainConfig, scale: float = 20.0) -> GPT:
    """Weights large enough that predictions differ."""
    model = GPT(settings.shape(tiny.stories().n_classes), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale if p.dim() > 1 else 1.0)
    return model


def score(settings: TrainConfig, split: Split | None = None, model: GPT | None = None, **options: Any) -> Evaluation:
    data = tiny.stories()
    torch.set_num_threads(1)
    return evaluate(model or random_model(settings), split or data.val, settings, data.token_bytes, CPU, **options)


@pytest.mark.parametrize("loss", LOSSES)
def test_it_equals_scoring_one_target_at_a_time(loss: str) -> None:
    settings = tiny.config(loss=loss, vocab_size=64)  # 10 rows of padding, never classes
    data, model = tiny.stories(), random_model(settings, 5.0)
    split = Split(data.val.tokens[:100], np.array([1, 40, 90, 100]))
    found, criterion = score(settings, split, model), build(settings)
    nll, correct, objective = [], 0, []
    for t in range(99):
        first = t // settings.block_size * settings.block_size  # windows do not overlap
        idx = torch.from_numpy(split.tokens[first : t + 1].astype(np.int64))[None]
        target = torch.tensor([int(split.tokens[t + 1])])
        with torch.no_grad():
            hidden = model(idx)[:, -1]
            logits = model.logits(hidden)[:, : data.n_classes]
            logp = log_probs(criterion.loss, criterion.parameters, logits, criterion.readout)
            value = training_loss(
                criterion.loss, criterion.parameters, hidden, model.head_weight, target, data.n_classes
            )
        nll.append(-float(logp[0, target]))
        correct += int(logp.argmax()) == int(target)
        objective.append(float(value))
    assert found.nll == pytest.approx(sum(nll), rel=1e-5)
    assert (found.tokens, found.correct) == (99, correct)
    assert found.objective == pytest.approx(np.mean(objective), rel=1e-5)
    assert found.scores.nll == pytest.approx([sum(nll[:39]), sum(nll[39:89]), sum(nll[89:])], rel=1e-5)
    assert found.readouts[settings.chosen_readout] == found.nll
    assert [*found.readouts] == [readout.name for readout in LOSSES[loss].readouts]


def test_batch_size_changes_nothing_but_float_noise() -> None:
    split = tiny.stories().val
    results = [score(tiny.config(eval_batch_size=size), split) for size in (1, 7, 1000)]
    for result in results:
        assert result.tokens == split.n_targets
        assert result.nll == pytest.approx(results[0].nll, rel=1e-6)
        assert result.scores.nll == pytest.approx(results[0].scores.nll, rel=1e-5)
        assert result.correct == results[0].correct


def test_ranks_together_score_what_one_process_scores() -> None:
    whole = score(tiny.config(eval_batch_size=5))

    class Part(Ranks):
        """A rank whose sum is left to the test."""

        def sum(self, array: np.ndarray, device: torch.device) -> np.ndarray:
            return array

    parts = [score(tiny.config(eval_batch_size=5), ranks=Part(rank, 3)) for rank in range(3)]
    assert sum(part.nll for part in parts) == pytest.approx(whole.nll, rel=1e-12)
    assert sum(part.scores.nll for part in parts) == pytest.approx(whole.scores.nll, rel=1e-12)
    assert sum(part.correct for part in parts) == whole.correct


def test_documents_add_up_and_special_tokens_are_left_out_of_bits_per_byte() -> None:
    data = tiny.stories()
    found = score(tiny.config())
    text = [data.token_bytes[data.val.tokens[a:b]].sum() for a, b in pairwise(data.val.doc_starts)]
    assert found.scores.nll.dtype == np.float64
    assert found.scores.nll.sum() == pytest.approx(found.nll)
    assert found.scores.bytes.tolist() == text
    assert found.bytes == sum(text)
    assert found.scores.tokens.sum() == found.tokens == data.val.n_targets
    assert found.bytes == found.tokens - data.val.n_docs  # stories are ASCII: a byte per character, none per EOT
    assert found.scores.byte_nll.sum() < found.nll
    assert found.bits_per_byte == pytest.approx(found.scores.byte_nll.sum() / math.log(2) / found.bytes)
    assert found.perplexity == pytest.approx(math.exp(found.nll / found.tokens))


def test_an_untrained_model_is_uniform() -> None:
    settings = tiny.config()
    model = GPT(settings.shape(tiny.stories().n_classes), torch.Generator().manual_seed(1))
    assert score(settings, model=model).loss == pytest.approx(math.log(tiny.stories().n_classes), abs=0.02)


def test_dropout_is_off_and_the_models_mode_comes_back() -> None:
    settings = tiny.config(dropout=0.5)
    model = random_model(settings)
    model.train()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert score(settings, model=model).nll == score(settings, model=model).nll
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


def test_a_subset_of_documents_scores_as_those_documents() -> None:
    # the windows fall elsewhere, so only nearly
    split = subset(tiny.stories().train, 5000)
    settings = tiny.config()
    model = random_model(settings, 2.0)
    assert score(settings, split, model).loss == pytest.approx(
        score(settings, tiny.stories().train, model).loss, rel=0.02
    )


def test_a_large_vocabulary_is_scored_in_chunks_with_the_same_result() -> None:
    C, N = 50_257, 3 * CPU_ROWS + 5
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, C, N + 1).astype(np.uint16), np.array([1, N + 1]))
    settings = tiny.config(eval_batch_size=1000)
    model = GPT(settings.shape(C), torch.Generator().manual_seed(0))
    found = evaluate(model, split, settings, np.ones(C, dtype=np.int64), CPU)
    assert found.loss == pytest.approx(math.log(C), abs=0.05)


@pytest.mark.parametrize("size", [16, 11])
def test_windows_that_do_not_fit_are_scored_in_smaller_batches_with_the_same_numbers(size: int) -> None:
    settings = tiny.config(eval_batch_size=size)
    expected = score(settings)
    with scarce.memory(evaluating=2) as limits:
        found = score(settings)
    assert limits.refused == ([16, 8, 4] if size == 16 else [11, 6, 3])
    assert (found.tokens, found.correct, found.bytes) == (expected.tokens, expected.correct, expected.bytes)
    assert found.nll == pytest.approx(expected.nll, rel=1e-6)
    assert found.objective == pytest.approx(expected.objective, rel=1e-6)
    assert found.scores.nll == pytest.approx(expected.scores.nll, rel=1e-5)


def test_a_window_that_does_not_fit_alone_is_said_and_the_models_mode_comes_back() -> None:
    model = random_model(tiny.config())
    model.train()
    with scarce.memory(evaluating=0), pytest.raises(torch.OutOfMemoryError, match="not even one sequence"):
        score(tiny.config(), model=model)
    assert model.training


@pytest.mark.parametrize(
    ("changes", "kind", "keys", "problem"),
    [
        (
            {"eval_context": 17},
            "conflict",
            ("eval_context", "block_size"),
            "eval_context (17) exceeds block_size (16)",
        ),
        ({"eval_stride": 4}, "conflict", ("eval_stride", "eval_context"), "eval_stride (4) needs eval_context"),
        (
            {"eval_context": 8, "eval_stride": 9},
            "conflict",
            ("eval_stride", "eval_context"),
            "eval_stride (9) exceeds eval_context (8)",
        ),
        ({"eval_context": 8, "eval_stride": 0}, "greater_than_equal", ("eval_stride",), "expected at least 1"),
    ],
)
def test_a_context_that_cannot_be_is_refused(
    changes: dict[str, int], kind: str, keys: tuple[str, ...], problem: str
) -> None:
    error = key_refusal(lambda: config.replace(tiny.config(), **changes))
    assert (error.kind, error.keys) == (kind, keys)
    assert error.problem.startswith(problem)


def test_the_rule_holds_for_every_evaluation_of_a_run() -> None:
    rules: list[dict[str, int]] = [
        {},
        {"eval_context": 16},
        {"eval_context": 16, "eval_stride": 2},
        {"eval_context": 8},
    ]
    own, same, *other = (tiny.run(tiny.config(learning_rate=1e-2, **changes))[1] for changes in rules)
    assert [tiny.values(one) for one in own] == [tiny.values(two) for two in same]
    for reports in other:
        for name in ("val_loss", "train_loss", "val_bits_per_byte"):
            assert all(one.metrics[name] != two.metrics[name] for one, two in zip(own, reports, strict=True))
        assert own[-1].metrics["val_loss_subset"] != reports[-1].metrics["val_loss_subset"]


def test_a_run_resumed_under_another_rule_measures_its_best_anew(tmp_path: Path) -> None:
    def stop(report: Report) -> None:
        if report.step == 20:
            raise KeyboardInterrupt

    settings = tiny.config(eval_context=16, eval_stride=1, **tiny.RUINOUS)
    with pytest.raises(KeyboardInterrupt):
        tiny.run(settings, out_dir=tmp_path, report=stop)
    result, _ = tiny.run(config.replace(settings, eval_stride=16), out_dir=tmp_path, resume=tmp_path)
    assert result.best["step"] > 20
