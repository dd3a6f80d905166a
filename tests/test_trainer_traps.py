"""The ways in which published perplexities went wrong, each held shut by sources whose entropy is known.

The models here are stand-ins that know the truth, put through the real evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from data import stories, tokenizers
from data.dataset import Split
from models.gpt import GPT
from models.head import training_loss
from models.losses import LOSSES
from tests import tiny
from tests.losses import BIASED
from trainer.config import TrainConfig
from trainer.device import Machine
from trainer.evaluate import Evaluation, evaluate

CPU = Machine(torch.device("cpu"))


class Oracle(torch.nn.Module):
    """Instead of a GPT: hidden states from any function of the tokens (B, T) -> (B, T, D), and a head (C, D)."""

    def __init__(self, hidden: Callable[[Tensor], Tensor], head: Tensor) -> None:
        super().__init__()
        self._hidden, self.head_weight = hidden, head

    def forward(self, idx: Tensor) -> Tensor:
        return self._hidden(idx)


def score(
    model: torch.nn.Module, split: Split, settings: TrainConfig, sizes: np.ndarray, final: bool = False
) -> Evaluation:
    torch.set_num_threads(1)
    return evaluate(model, split, settings, sizes, CPU, final=final)  # type: ignore[arg-type]


# ---------------------------------------------------------------- a uniform model


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("final", [False, True])
def test_a_uniform_model_scores_ln_v_through_every_readout(loss: str, final: bool) -> None:
    data, settings = tiny.stories(), tiny.config(loss=loss, vocab_size=64)  # padding rows are no classes
    model = GPT(settings.shape(data.n_classes), torch.Generator())
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    found = score(model, data.val, settings, data.token_bytes, final)
    for nll in found.readouts.values():
        assert nll / found.tokens == pytest.approx(math.log(data.n_classes), abs=1e-6)
    assert found.perplexity == pytest.approx(data.n_classes, rel=1e-5)
    if found.calibration is not None:
        assert found.calibration.calibrated == pytest.approx(found.calibration.raw, rel=1e-5)


# ---------------------------------------------------------------- coverage


@pytest.mark.parametrize("n_targets", [1, 15, 16, 17, 47, 48, 49])
@pytest.mark.parametrize("rule", [{}, {"eval_context": 10}, {"eval_context": 10, "eval_stride": 3}])
@pytest.mark.parametrize("eval_batch_size", [1, 2, 100])
def test_the_last_partial_window_counts_and_batch_size_changes_nothing(
    n_targets: int, rule: dict[str, int], eval_batch_size: int
) -> None:
    """Every target costs another number of nats, so that a lost one, or one scored twice, shows."""
    C = n_targets + 1
    split = Split(np.arange(C, dtype=np.uint16), np.array([1, C]))

    def hidden(idx: Tensor) -> Tensor:  # the next token's logit is log(its own place), all others' 0
        return torch.nn.functional.one_hot(idx, C).float()

    head = torch.zeros(C, C)
    for place in range(1, C):
        head[place, place - 1] = math.log(1 + place)
    settings = tiny.config(eval_batch_size=eval_batch_size, **rule)
    found = score(Oracle(hidden, head), split, settings, np.ones(C, dtype=np.int64))
    expected = [math.log(C + place) - math.log(1 + place) for place in range(1, C)]
    assert found.nll == pytest.approx(sum(expected), rel=1e-5)
    assert found.tokens == n_targets


# ---------------------------------------------------------------- context


def test_trials_of_different_block_size_compare_under_one_rule_and_not_without() -> None:
    """A model whose only skill is to have seen enough: right when the window holds at least 6 tokens before."""
    C = 5
    split = Split(np.random.default_rng(0).integers(0, C, 400).astype(np.uint16), np.array([1, 400]))
    following = torch.from_numpy(split.tokens.astype(np.int64))

    def hidden(idx: Tensor) -> Tensor:
        out = torch.zeros(*idx.shape, C)
        for row, window in zip(out, idx, strict=True):
            # the window's place, from its content: 10 of 5 symbols occur once in 400
            places = following.unfold(0, len(window), 1)
            at = int((places == window).all(1).nonzero()[0])
            for t in range(6, len(window)):
                row[t, following[at + t + 1]] = 5.0
        return out

    def loss(block_size: int, **rule: int) -> float:
        settings = tiny.config(block_size=block_size, **rule)
        return score(Oracle(hidden, torch.eye(C)), split, settings, np.ones(C, dtype=np.int64)).loss

    assert loss(16) > loss(48) + 0.3
    assert loss(16, eval_context=16, eval_stride=8) == loss(48, eval_context=16, eval_stride=8) < loss(16)
    assert loss(16, eval_context=16, eval_stride=10) < loss(48)  # at least 6 tokens before all but the first few
    assert loss(48, eval_context=48) == loss(48)


# ---------------------------------------------------------------- stories: the truth scores the floor


def spread(nats: float, size: int) -> np.ndarray:
    """(size,) nats of a story's characters: unequal, and together what the story's choices cost."""
    weights = 1.0 + np.arange(size) % 7
    return nats * weights / weights.sum()


@pytest.mark.parametrize("final", [False, True])
def test_a_scorer_fed_with_the_true_probabilities_scores_the_entropy(final: bool) -> None:
    """The generator knows the probability of a whole story; the stand-in hands it out character by character.

    By the chain rule it does not matter where in a story its nats fall. They are read from the text alone.
    """
    data = tiny.stories()
    val, C, tokenizer = data.val, data.n_classes, tokenizers.load(data.path)
    texts = [tokenizer.decode(val.tokens[a : b - 1].tolist()) for a, b in pairwise(val.doc_starts)]
    truth = [stories.nll(text) for text in texts]
    nats = np.concatenate([spread(nll, 1 + len(text)) for nll, text in zip(truth, texts, strict=True)])
    targets = torch.from_numpy(val.tokens[1:].astype(np.int64))
    p = torch.from_numpy(np.exp(-nats))
    log_p = ((1 - p) / (C - 1)).log()[:, None].repeat(1, C)
    log_p[torch.arange(len(p)), targets] = p.log()
    settings = tiny.config(block_size=val.n_targets)  # one window: the stand-in needs no place
    oracle = Oracle(lambda idx: log_p.float()[None, : idx.shape[1]], torch.eye(C))
    found = score(oracle, val, settings, data.token_bytes, final)
    assert found.scores.nll == pytest.approx(truth, rel=1e-5)
    assert val.floor_nll is not None
    assert found.loss == pytest.approx(val.floor_nll.sum() / val.n_targets, rel=1e-6)
    ends = sum(spread(nll, 1 + len(text))[-1] for nll, text in zip(truth, texts, strict=True))
    assert found.bits_per_byte == pytest.approx((sum(truth) - ends) / math.log(2) / sum(map(len, texts)), rel=1e-5)


# ---------------------------------------------------------------- special tokens


def test_special_tokens_are_in_neither_part_of_bits_per_byte() -> None:
    """Two tokenizers, one of which marks the ends of documents at a high price, give the same bits per byte."""
    sizes = np.array([0, 1, 2, 3])  # class 0 stands for no bytes
    head = torch.tensor([[-9.0], [0.0], [1.0], [-1.0]])
    with_ends = Split(np.array([0, 1, 2, 0, 3, 3, 1, 0], dtype=np.uint16), np.array([1, 4, 8]))
    without = Split(np.array([0, 1, 2, 3, 3, 1], dtype=np.uint16), np.array([1, 6]))
    model = Oracle(lambda idx: torch.ones(*idx.shape, 1), head)
    one, other = (score(model, split, tiny.config(), sizes) for split in (with_ends, without))
    assert one.bits_per_byte == pytest.approx(other.bits_per_byte, rel=1e-6)
    assert (one.bytes, other.bytes) == (10, 10)
    assert one.loss > other.loss + 1


# ---------------------------------------------------------------- read-outs on a Markov source


def markov_source() -> np.ndarray:
    """(C, C) how often b follows a, in a text of the source: symmetric, so that every class is left as often as it is
    entered. Rows are from even to peaked."""
    rng = np.random.default_rng(4)
    raw = np.exp(1.2 * rng.standard_normal((8, 8)))
    raw[0, 0], raw[1, 2] = 40.0, 25.0
    return np.ceil(3 * (raw + raw.T)).astype(np.int64)


def entropy_rate(counts: np.ndarray) -> float:
    """Nats per token of the chain whose transitions are as frequent as counts."""
    conditional = counts / counts.sum(1, keepdims=True)
    return float(-(counts / counts.sum() * np.log(conditional)).sum())


def text_of(counts: np.ndarray) -> np.ndarray:
    """A text in which b follows a exactly counts[a, b] times: a circuit through all of these transitions (Hierholzer).

    The entropy rate of the source is then the least loss on this text, not only its expectation.
    """
    left = [[b for b in range(len(counts)) for _ in range(counts[a, b])] for a in range(len(counts))]
    for following in left:
        np.random.default_rng(0).shuffle(following)
    path, circuit = [0], []
    while path:
        if left[path[-1]]:
            path.append(left[path[-1]].pop())
        else:
            circuit.append(path.pop())
    return np.array(circuit[::-1], dtype=np.uint16)


def trained_table(settings: TrainConfig, text: np.ndarray, C: int) -> Tensor:
    """(C, C) head of the bigram model that the loss is least for, found by training alone."""
    x, y = torch.from_numpy(text[:-1].astype(np.int64)), torch.from_numpy(text[1:].astype(np.int64))
    hidden = torch.eye(C, dtype=torch.float64)[x]
    weight = torch.zeros(C, C, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=500, history_size=50, tolerance_grad=1e-11, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = training_loss(LOSSES[settings.loss], settings.loss_parameters, hidden, weight, y, C)
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach()


@pytest.mark.parametrize("loss", [loss.name for loss in LOSSES.values() if loss.proper])
def test_the_inverse_readout_reaches_the_entropy_of_a_markov_source_and_softmax_does_not(loss: str) -> None:
    """To 1e-4 nats per token. Plain softmax of a biased loss stays at least 0.05 above."""
    counts = markov_source()
    C, text, settings = len(counts), text_of(counts), tiny.config(loss=loss, eval_batch_size=100)
    assert len(text) == counts.sum() + 1
    table = trained_table(settings, text, C)
    bigram = Oracle(lambda idx: torch.eye(C)[idx], table)
    found = score(bigram, Split(text, np.array([1, len(text)])), settings, np.ones(C, dtype=np.int64))
    entropy = entropy_rate(counts)
    best, *others = (readout.name for readout in LOSSES[loss].readouts)
    assert found.readouts[best] / found.tokens == pytest.approx(entropy, abs=1e-4)
    assert found.loss == found.readouts[best] / found.tokens, "the objective is that of the right read-out"
    assert loss not in BIASED or others == ["softmax"]
    for name in others if loss in BIASED else []:
        assert found.readouts[name] / found.tokens > entropy + 0.05


def test_the_source_is_no_easy_one() -> None:
    counts = markov_source()
    text = text_of(counts)
    seen = np.zeros_like(counts)
    np.add.at(seen, (text[:-1], text[1:]), 1)
    assert np.array_equal(seen, counts)
    peaks = (counts / counts.sum(1, keepdims=True)).max(1)
    assert peaks.min() < 0.35
    assert peaks.max() > 0.6
    assert 1.0 < entropy_rate(counts) < math.log(8) - 0.2
