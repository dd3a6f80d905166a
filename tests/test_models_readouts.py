"""Read-outs: normalised, finite for hostile logits, and true where training has reached its optimum."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.head import per_token_loss
from models.loss import Loss, Readout, find_readout
from models.losses import LOSSES
from models.readouts import INVERSE, SOFTMAX, log_probs, target_log_probs
from tests.losses import ALL, BIASED, CASES, clipped, name_of

INVERTED = [loss for loss in ALL if INVERSE in loss.readouts]
each_pair = pytest.mark.parametrize(
    ("loss", "readout"), [(loss, readout) for loss in ALL for readout in loss.readouts], ids=lambda one: one.name
)
each_inverse = pytest.mark.parametrize("loss", INVERTED, ids=name_of)


def random_logits(N: int = 50, C: int = 17, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(N, C, generator=torch.Generator().manual_seed(0))


@each_pair
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 10.0, 1e3, 1e10, 1e37])
def test_every_readout_normalises_and_stays_finite(loss: Loss, readout: Readout, scale: float) -> None:
    log_p = log_probs(loss, {}, random_logits(scale=scale), readout)
    assert log_p.isfinite().all()
    torch.testing.assert_close(log_p.double().exp().sum(-1), torch.ones(50, dtype=torch.float64), rtol=1e-5, atol=0)


@each_pair
@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e4])
def test_no_denominator_is_hostile_enough(loss: Loss, readout: Readout, strength: float) -> None:
    """Logits at, and next to, the poles of the inverse; all other classes at zero or with them."""
    parameters = clipped(loss, strength)
    poles = [0.0, -0.0]
    if loss.terms is not None:
        t = loss.terms(parameters, 5)
        slope = 2 * (t.others - t.target)
        poles += [-(t.ce + 2 * t.target * t.M) / slope] if slope else []
    near = torch.tensor([x * (1 + e) for x in poles for e in (-1e-7, 0, 1e-7)] + [-1e30, 1e30])
    alone = torch.cat((near[:, None], torch.zeros(len(near), 4)), dim=1)
    for logits in (alone, near[:, None].expand(-1, 5), torch.cat((near[:, None], -near[:, None]), dim=1)):
        log_p = log_probs(loss, parameters, logits, readout)
        assert log_p.isfinite().all()
        torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(len(near)))


@each_pair
def test_a_diverged_network_has_no_score(loss: Loss, readout: Readout) -> None:
    logits = random_logits()
    logits[3, 4] = math.nan
    logits[7] = math.nan
    log_p = log_probs(loss, {}, logits, readout)
    assert log_p[[3, 7]].isnan().all()
    assert log_p[[2, 8]].isfinite().all()
    targets = torch.zeros(50, dtype=torch.int64)
    assert target_log_probs(loss, {}, logits, targets, readout)[[3, 7]].isnan().all()


@each_pair
def test_equal_logits_score_ln_c(loss: Loss, readout: Readout) -> None:
    for level in (0.0, 0.2, -4.0):
        log_p = log_probs(loss, {}, torch.full((2, 65), level), readout)
        torch.testing.assert_close(log_p, torch.full((2, 65), -math.log(65)))


@each_pair
def test_scores_of_targets_are_the_log_probabilities_there(loss: Loss, readout: Readout) -> None:
    logits = random_logits()
    targets = torch.randint(17, (50,), generator=torch.Generator().manual_seed(1))
    before = logits.clone()
    expected = log_probs(loss, {}, logits, readout).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(target_log_probs(loss, {}, logits, targets, readout), expected)
    assert torch.equal(logits, before), "the logits are as they were"


@each_pair
def test_bf16_logits_are_read_in_fp32(loss: Loss, readout: Readout) -> None:
    logits = random_logits().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        log_p = log_probs(loss, {}, logits, readout)
    assert log_p.dtype == torch.float32
    torch.testing.assert_close(log_p, log_probs(loss, {}, logits.float(), readout))


@each_inverse
def test_the_inverse_never_prefers_the_smaller_logit(loss: Loss) -> None:
    logits = random_logits().sort(-1).values
    assert (log_probs(loss, {}, logits, INVERSE).diff(dim=-1) >= 0).all()


def test_weak_squares_end_in_softmax() -> None:
    logits = random_logits(C=65)
    squentropy, softmax = LOSSES["squentropy"], log_probs(LOSSES["cross_entropy"], {}, logits, SOFTMAX)
    distances = []
    for strength in (1e-2, 1e-4, 1e-6, 0.0):
        inverse = log_probs(squentropy, {"squentropy_lambda": strength}, logits, INVERSE)
        distances.append((softmax.exp() * (softmax - inverse)).sum(-1).mean().item())
    assert distances == sorted(distances, reverse=True)
    assert distances[2] < 1e-4
    torch.testing.assert_close(inverse, softmax)
    assert log_probs(squentropy, {"squentropy_lambda": 0.0}, 100 * logits, INVERSE).isfinite().all()


def contexts(C: int) -> Tensor:
    """Distributions over C classes, (4, C), from even to peaked; no class below 0.02 / C."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.rand(4, C, generator=generator, dtype=torch.float64)
    sharp = raw ** torch.tensor([0.0, 2, 8, 30], dtype=torch.float64)[:, None]
    return 0.98 * sharp / sharp.sum(-1, keepdim=True) + 0.02 / C


def population_loss(loss: Loss, parameters: dict[str, float], P: Tensor, f: Tensor) -> Tensor:
    """The sum over contexts of E_{y ~ P} loss(f, y), for P and f (4, C)."""
    rows, C = P.shape
    targets = torch.arange(C).repeat(rows)  # every class once in every context
    return (P.flatten() * per_token_loss(loss, parameters, f.repeat_interleave(C, dim=0), targets)).sum()


def optimal_logits(loss: Loss, parameters: dict[str, float], P: Tensor, max_iter: int = 1000) -> Tensor:
    """The minimum of population_loss over f (4, C), found without looking at any formula but the loss."""
    torch.set_num_threads(1)  # threads that wait for each other take most of the time of such small work
    f = torch.zeros_like(P, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [f], max_iter=max_iter, history_size=50, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = population_loss(loss, parameters, P, f)
        total.backward()
        return total

    optimizer.step(closure)
    return f.detach()


OPTIMA = [
    *((loss, parameters) for loss, parameters in CASES if loss in INVERTED),
    (LOSSES["squentropy"], {"squentropy_lambda": 0.1}),
    (LOSSES["rescaled_mse"], {"rescaled_mse_k": 65.0, "rescaled_mse_m": 1.0}),
    (LOSSES["squentropy_coded"], {"squentropy_coded_w": 1.0}),
]


@pytest.mark.parametrize("C", [7, 40])
@pytest.mark.parametrize(("loss", "parameters"), OPTIMA, ids=name_of)
def test_at_the_optimum_the_inverse_is_the_truth(loss: Loss, parameters: dict[str, float], C: int) -> None:
    P = contexts(C)
    logits = optimal_logits(loss, parameters, P)
    read = log_probs(loss, parameters, logits, INVERSE).exp()
    torch.testing.assert_close(read, P, rtol=1e-4, atol=1e-6)
    in_fp32 = log_probs(loss, parameters, logits.float(), INVERSE).exp()
    torch.testing.assert_close(in_fp32.double(), P, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("loss", "parameters"), [case for case in CASES if case[0].proper], ids=name_of)
def test_at_the_optimum_the_default_readout_gives_the_distribution_back(
    loss: Loss, parameters: dict[str, float]
) -> None:
    assert excess_at_the_optimum(loss, parameters) < 1e-6


@pytest.mark.parametrize("loss", [loss for loss in ALL if not loss.proper], ids=name_of)
def test_a_loss_that_is_not_proper_is_declared_so_for_a_reason(loss: Loss) -> None:
    assert excess_at_the_optimum(loss, {}) > 1e-3


def excess_at_the_optimum(loss: Loss, parameters: dict[str, float]) -> float:
    """Nats over the entropy in the worst context. The optimum is searched for numerically, by the loss alone."""
    P = contexts(7)
    log_p = log_probs(loss, parameters, optimal_logits(loss, parameters, P, max_iter=150), loss.readouts[0])
    return (P * (P.log() - log_p)).sum(-1).max().item()


@pytest.mark.parametrize("loss", [loss for loss in ALL if loss.proper and loss.readouts[0] is SOFTMAX], ids=name_of)
def test_a_loss_without_squares_is_at_its_optimum_where_softmax_is_the_truth(loss: Loss) -> None:
    P = contexts(40)
    f = P.log().requires_grad_()
    (gradient,) = torch.autograd.grad(population_loss(loss, {}, P, f), f)
    torch.testing.assert_close(gradient, torch.zeros_like(f), rtol=0, atol=1e-14)
    torch.testing.assert_close(log_probs(loss, {}, f, SOFTMAX).exp(), P)


@pytest.mark.parametrize("loss", [LOSSES[name] for name in BIASED], ids=name_of)
def test_at_the_optimum_softmax_is_biased(loss: Loss) -> None:
    P = contexts(65)[2:]
    logits = optimal_logits(loss, {}, P)

    def excess(readout: Readout) -> float:
        """nats per token over the entropy"""
        return (P * (P.log() - log_probs(loss, {}, logits, readout))).sum(-1).mean().item()

    assert excess(SOFTMAX) > 0.05
    assert excess(INVERSE) < 1e-6


def test_a_readout_that_the_loss_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="'inverse' does not exist for loss cross_entropy; allowed: softmax"):
        find_readout(LOSSES["cross_entropy"], "inverse")
    assert [find_readout(LOSSES["mse"], name) for name in ("auto", "inverse", "softmax")] == [INVERSE, INVERSE, SOFTMAX]


@pytest.mark.parametrize("log", [False, True])
def test_a_readout_of_ones_own_is_normalised_and_leaves_the_logits_alone(log: bool) -> None:
    own = Readout("own", "the logits themselves", lambda loss, parameters, logits: logits, log=log)
    logits = random_logits().abs() + 1
    before = logits.clone()
    log_p = log_probs(LOSSES["cross_entropy"], {}, logits, own)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(50))
    torch.testing.assert_close(log_p.exp(), logits.softmax(-1) if log else logits / logits.sum(-1, keepdim=True))
    assert torch.equal(logits, before)
