"""Calibration: bins that add up, a temperature that is the best one, text that is fitted on or scored, never both."""

from __future__ import annotations

import functools
import math
import tempfile
from dataclasses import astuple
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.dataset import Split
from models.gpt import GPT
from models.losses import LOSSES
from models.readouts import log_probs
from tests import tiny
from trainer import calibration, checkpoint
from trainer.calibration import BINS
from trainer.criterion import build
from trainer.device import Machine
from trainer.distributed import Ranks
from trainer.evaluate import Evaluation, evaluate, metrics
from trainer.scores import unit_starts

CPU = Machine(torch.device("cpu"))


@functools.cache
def trained() -> dict[str, torch.Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        tiny.run(tiny.config(learning_rate=1e-2), out_dir=Path(folder))
        return checkpoint.load(Path(folder)).model


def bold(factor: float = 3.0, **changes: Any) -> tuple[GPT, Any]:
    """A model that has learned a little, with logits `factor` times as large: about that is its temperature."""
    settings = tiny.config(**changes)
    model = GPT(settings.shape(tiny.stories().n_classes), torch.Generator())
    model.load_state_dict({name: value * (factor if "ln_f" in name else 1) for name, value in trained().items()})
    return model, settings


def final(model: GPT, settings: Any, split: Split | None = None, **options: Any) -> Evaluation:
    torch.set_num_threads(1)
    data = tiny.stories()
    return evaluate(model, split or data.val, settings, data.token_bytes, CPU, final=True, **options)


def sampled(sharpness: float, n: int = 4000, C: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """log-probabilities (n, C) and targets (n,) drawn from p^sharpness: the best temperature is near 1 / sharpness."""
    generator = torch.Generator().manual_seed(1)
    log_p = (2 * torch.randn(n, C, generator=generator)).log_softmax(-1)
    return log_p, torch.multinomial((log_p * sharpness).softmax(-1), 1, generator=generator)[:, 0]


def brute_force(log_p: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    """The best temperature and its mean nats, by golden section in double precision."""
    low, high = math.log(1 / 30), math.log(30)
    log_p = log_p.double()

    def nats(t: float) -> float:
        return float(calibration.tempered_nll(log_p, targets, math.exp(t)).mean())

    for _ in range(80):
        a, b = high - 0.618034 * (high - low), low + 0.618034 * (high - low)
        low, high = (low, b) if nats(a) < nats(b) else (a, high)
    return math.exp(low), nats(low)


@pytest.mark.parametrize("sharpness", [0.08, 0.3, 0.65, 0.9, 1.0, 1.3, 2.5, 7.0])
def test_the_temperature_is_the_best_one(sharpness: float) -> None:
    log_p, targets = sampled(sharpness)
    passes: list[float] = []

    def measure(powers: np.ndarray) -> np.ndarray:
        passes.append(powers[2])
        return calibration.slopes(log_p, targets, powers).double().sum(1).numpy()

    found = calibration.fit(measure)
    expected, least = brute_force(log_p, targets)
    assert found == pytest.approx(expected, rel=2e-3)
    assert float(calibration.tempered_nll(log_p.double(), targets, found).mean()) == pytest.approx(least, abs=1e-6)
    if 0.65 < sharpness < 1.5:
        assert len(passes) == 1, "a model near calibration costs one pass over the part"
    assert len(passes) <= 4


def test_a_temperature_out_of_range_ends_at_its_edge_and_nan_stays_nan() -> None:
    log_p, _ = sampled(1.0)
    for targets, edge in ((log_p.argmax(-1), 1.25**-14), (log_p.argmin(-1), 1.25**14)):

        def measure(powers: np.ndarray, targets: torch.Tensor = targets) -> np.ndarray:
            return calibration.slopes(log_p, targets, powers).double().sum(1).numpy()

        assert calibration.fit(measure) == pytest.approx(edge)
    assert math.isnan(calibration.fit(lambda powers: np.full(2 * len(powers), math.nan)))


def test_slopes_are_the_derivatives_of_the_tempered_nats() -> None:
    log_p, targets = sampled(1.3, n=20)
    powers = torch.tensor([0.7, 1.0, 1.9], dtype=torch.float64, requires_grad=True)
    found = calibration.slopes(log_p.double(), targets, powers.detach().numpy())
    for i in range(20):
        nats = torch.stack(
            [calibration.tempered_nll(log_p[i : i + 1].double(), targets[i : i + 1], 1 / b) for b in powers]
        )
        (first,) = torch.autograd.grad(nats.sum(), powers, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), powers)
        torch.testing.assert_close(found[:, i], torch.cat((first, second)).detach())


@pytest.mark.parametrize("n_units", [2, 3, 4, 6, 17, 100, 1234])
def test_the_part_is_whole_units_about_a_fifth_from_all_over(n_units: int) -> None:
    sizes = np.random.default_rng(0).integers(1, 50, n_units)
    starts = np.concatenate(([0], np.cumsum(sizes)))
    part = calibration.part(starts)
    of_units = [set(part[a:b].tolist()) for a, b in pairwise(starts)]
    assert all(len(values) == 1 for values in of_units)
    share = np.mean([values == {True} for values in of_units])
    assert 0 < share < 1
    if n_units > 10:
        assert share == pytest.approx(0.2, abs=0.06)
        assert np.diff(np.flatnonzero([values == {True} for values in of_units])).max() <= max(5, n_units // 20)
    assert np.array_equal(part, calibration.part(starts))


def test_bins_hold_every_target_and_a_known_error() -> None:
    confidence = np.array([1 / 15, 0.0667, 0.4, 0.95, 1.0, 0.95])
    correct = np.array([0, 1, 1, 1, 0, 1])
    count, mean, accuracy = calibration.reliability(confidence, correct)
    assert count.tolist() == [1, 1, 0, 0, 0, 1, *[0] * 8, 3]  # 1 / 15 belongs to the first, 0.4 = 6 / 15 to the sixth
    assert mean[14] == pytest.approx((0.95 + 0.95 + 1.0) / 3)
    assert accuracy[[0, 1, 5, 14]].tolist() == [0, 1, 1, pytest.approx(2 / 3)]


def test_probabilities_that_are_true_have_no_calibration_error_and_bold_ones_do() -> None:
    data = tiny.stories()
    model, settings = bold()
    found = final(model, settings)
    assert found.scores.bin_count.sum() == data.val.n_targets
    assert (found.scores.bin_count * found.scores.bin_accuracy).sum() == pytest.approx(found.correct)
    gaps = np.abs(found.scores.bin_accuracy - found.scores.bin_confidence)
    assert found.scores.ece == pytest.approx((gaps * found.scores.bin_count).sum() / found.tokens)
    assert found.scores.ece > 0.2
    log_p, targets = sampled(1.0, n=40_000)
    confidence, likeliest = log_p.exp().max(-1)
    count, mean, accuracy = calibration.reliability(confidence.numpy(), (likeliest == targets).numpy())
    assert (count * np.abs(mean - accuracy)).sum() / count.sum() < 0.02
    assert len(count) == BINS


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rule", [{}, {"eval_context": 12, "eval_stride": 5}])
def test_a_final_evaluation_equals_doing_it_by_hand(loss: str, rule: dict[str, int]) -> None:
    """Every target once more, one at a time, with all of the logits kept."""
    model, settings = bold(loss=loss, **rule)
    data = tiny.stories()
    split = Split(data.val.tokens[:400], np.array([1, 60, 100, 170, 220, 300, 400]))
    found = final(model, settings, split)
    plain = evaluate(model, split, settings, data.token_bytes, CPU)
    assert found.nll == pytest.approx(plain.nll, rel=1e-5)
    assert found.scores.nll == pytest.approx(plain.scores.nll, rel=1e-5)
    assert (found.correct, found.bytes, found.tokens) == (plain.correct, plain.bytes, plain.tokens)
    assert found.readouts == pytest.approx(plain.readouts, rel=1e-5)
    assert found.objective == pytest.approx(plain.objective, rel=1e-5)

    context, stride = settings.eval_context or settings.block_size, settings.eval_stride or settings.block_size
    rows, criterion = [], build(settings)
    for t in range(399):
        late = max(0, -(-(t + 1 - context) // stride))  # the first window that reaches t
        idx = torch.from_numpy(split.tokens[late * stride : t + 1].astype(np.int64))[None]
        with torch.no_grad():
            logits = model.logits(model(idx)[:, -1])[:, : data.n_classes]
        rows.append(log_probs(criterion.loss, criterion.parameters, logits, criterion.readout)[0])
    log_p, targets = torch.stack(rows), torch.from_numpy(split.tokens[1:].astype(np.int64))
    part = torch.from_numpy(calibration.part(unit_starts(split)))
    assert part.float().mean() == pytest.approx(0.4, abs=0.1)  # units 0 and 5 of 6
    temperature, _ = brute_force(log_p[part], targets[part])
    assert found.calibration is not None
    assert found.calibration.tokens == int((~part).sum())
    assert found.calibration.temperature == pytest.approx(min(max(temperature, 1.25**-14), 1.25**14), rel=5e-3)
    expected = calibration.tempered_nll(log_p[~part], targets[~part], found.calibration.temperature)
    assert found.calibration.calibrated == pytest.approx(float(expected.sum()), rel=1e-4)
    bins = (found.scores.tempered_count, found.scores.tempered_confidence, found.scores.tempered_accuracy)
    tempered = (log_p[~part] / found.calibration.temperature).softmax(-1)
    right = (log_p[~part].argmax(-1) == targets[~part]).double()
    assert bins[0].sum() == found.calibration.tokens
    assert (bins[0] * bins[1]).sum() == pytest.approx(float(tempered.amax(-1).sum()), rel=1e-4)
    assert (bins[0] * bins[2]).sum() == pytest.approx(float(right.sum()), abs=2)  # equal logits
    raw = -log_p.gather(1, targets[:, None])[:, 0]
    assert found.calibration.raw == pytest.approx(float(raw[~part].sum()), rel=1e-4)


def test_a_temperature_repairs_boldness_and_both_numbers_are_reported() -> None:
    model, settings = bold()
    found = final(model, settings)
    reported = metrics(found)
    assert reported["val_temperature"] == pytest.approx(3, rel=0.2)
    assert reported["val_perplexity_calibrated"] < 0.8 * reported["val_perplexity_uncalibrated"]
    assert reported["val_perplexity"] == math.exp(found.nll / found.tokens)
    assert reported["val_ece"] == found.scores.ece
    plain = evaluate(model, tiny.stories().val, settings, tiny.stories().token_bytes, CPU)
    more = {"val_ece", "val_temperature", "val_perplexity_calibrated", "val_perplexity_uncalibrated"}
    assert set(reported) - set(metrics(plain)) == more
    assert plain.scores.bin_count.size == 0


def test_text_that_is_scored_does_not_move_the_temperature() -> None:
    model, settings = bold(eval_context=8)
    data = tiny.stories()
    tokens = data.val.tokens[:401].copy()
    split = Split(tokens, 1 + np.arange(0, 401, 40))  # 10 documents, 0 and 5 of them fitted on
    other = tokens.copy()
    other[1 + 48 : 200] = data.eot  # not the inputs of document 5, whose first window begins at 200
    one, changed = (final(model, settings, Split(text, split.doc_starts)) for text in (tokens, other))
    assert one.calibration is not None
    assert changed.calibration is not None
    assert one.calibration.temperature == pytest.approx(3, rel=0.5)
    assert one.calibration.raw != changed.calibration.raw
    assert one.calibration.temperature == pytest.approx(changed.calibration.temperature, rel=1e-5)


def test_a_split_of_one_unit_has_no_temperature() -> None:
    model, settings = bold()
    found = final(model, settings, Split(tiny.stories().val.tokens[:101], np.array([1, 101])))
    assert found.calibration is None
    reported = metrics(found)
    assert "val_ece" in reported
    assert not any("temperature" in name or "calibrated" in name for name in reported)


def test_batches_change_nothing_and_ranks_share_the_passes() -> None:
    model, settings = bold(eval_batch_size=5)
    whole = final(model, settings)
    assert whole.calibration is not None
    _, single = bold(eval_batch_size=1)
    other = final(model, single).calibration
    assert other is not None
    assert astuple(other) == pytest.approx(astuple(whole.calibration), rel=1e-5)

    shares: list[list[np.ndarray]] = [[] for _ in range(3)]

    class Recording(Ranks):
        """Rank `rank` of 3, whose part of every pass is kept; the sums come from a run of one process."""

        def sum(self, array: np.ndarray, device: torch.device) -> np.ndarray:
            shares[self.rank].append(array.copy())
            return totals[len(shares[self.rank]) - 1]

    totals: list[np.ndarray] = []

    class Alone(Ranks):
        def sum(self, array: np.ndarray, device: torch.device) -> np.ndarray:
            totals.append(array.copy())
            return array

    final(model, settings, ranks=Alone())
    for rank in range(3):
        final(model, settings, ranks=Recording(rank, 3))
    for number, total in enumerate(totals):
        np.testing.assert_allclose(sum(share[number] for share in shares), total, rtol=1e-6, atol=1e-9)
        assert all(share[number].any() for share in shares)
