"""Every declared loss: against its definition from the papers, written out with one-hot vectors; heads and gradients.

A new loss of this program is a declaration in models/losses.py. All tests here but the first then run over it; its
formula, where there is an independent way to write it, belongs into `definition`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import head
from models.config import GPTConfig
from models.gpt import GPT
from models.head import per_token_loss, training_loss
from models.loss import Loss, Parameter, Readout, Terms, fill_parameters, registry
from models.losses import LOSSES, find
from models.readouts import INVERSE, SOFTMAX
from tests.losses import ALL, BRIER_BY_TORCH, FOCAL, each_loss

# (d, C, V): few classes for the width, and many, each with rows of padding
each_head = pytest.mark.parametrize("sizes", [(12, 9, 11), (6, 40, 48)], ids=["small head", "large head"])
N = 10


def definition(loss: str, parameters: dict[str, float], f: Tensor, y: Tensor) -> Tensor | None:
    """f (N, C), y (N,) -> (N,), written another way than in models/; None for a loss that only models/ knows."""
    C = f.shape[-1]
    one_hot = F.one_hot(y, C).to(f.dtype)
    p = f.exp() / f.exp().sum(-1, keepdim=True)
    cross_entropy = -(one_hot * p.log()).sum(-1)
    match loss:
        case "cross_entropy":
            return cross_entropy
        case "squentropy":
            return cross_entropy + parameters["squentropy_lambda"] / (C - 1) * ((1 - one_hot) * f**2).sum(-1)
        case "squentropy_coded":
            w = one_hot * parameters["squentropy_coded_w"] + (1 - one_hot)
            return cross_entropy + (w * (one_hot - f) ** 2).mean(-1)
        case "mse":
            return ((f - one_hot) ** 2).mean(-1)
        case "rescaled_mse":
            k, M = parameters["rescaled_mse_k"], parameters["rescaled_mse_m"]
            return ((1 + (k - 1) * one_hot) * (f - M * one_hot) ** 2).mean(-1)
        case "brier" | "brier_by_torch":
            return ((p - one_hot) ** 2).sum(-1)
        case "mixed":
            squares = 2 * ((1 - one_hot) * f**2).sum(-1) + 5 * (one_hot * (f - 3) ** 2).sum(-1)
            return 0.7 * cross_entropy + parameters["a"] / C * squares
        case "focal":
            return (1 - (one_hot * p).sum(-1)) ** parameters["gamma"] * cross_entropy
    return None


def problem(sizes: tuple[int, int, int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, int]:
    """hidden (N, d), weight (V, d), targets (N,), C"""
    d, C, V = sizes
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, d, generator=generator, dtype=torch.float64)
    weight = torch.randn(V, d, generator=generator, dtype=torch.float64)
    targets = torch.randint(C, (N,), generator=generator)
    targets[1] = targets[0]  # two rows that add to the same gradient
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets, C


def value_and_gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return loss.detach(), *torch.autograd.grad(loss, inputs)


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK_LOGITS_CPU", 40 * 4)  # 4 rows of the large head: chunks of 4, 4 and 2


precisions = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)], ids=["fp64", "fp32"]
)


@each_head
@each_loss
@precisions
def test_value_and_gradients_are_the_dense_definitions(
    loss: Loss, parameters: dict[str, float], sizes: tuple[int, int, int], dtype: torch.dtype, tolerance: float
) -> None:
    hidden, weight, targets, C = problem(sizes)
    filled = fill_parameters(loss, parameters)
    expected = definition(loss.name, filled, hidden @ weight[:C].T, targets)
    if expected is None:
        pytest.skip(f"{loss.name} has no second formula")
    h, w, _, _ = problem(sizes, dtype)
    got = value_and_gradients(training_loss(loss, parameters, h, w, targets, C), h, w)
    for a, b in zip(got, value_and_gradients(expected.mean(), hidden, weight), strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance * b.abs().max().item())
    per_token = per_token_loss(loss, parameters, (h @ w[:C].T).detach(), targets)
    torch.testing.assert_close(per_token.double(), expected, rtol=tolerance, atol=tolerance)


@each_head
@each_loss
def test_a_head_of_any_size_gives_the_value_and_gradients_of_dense_logits(
    loss: Loss, parameters: dict[str, float], sizes: tuple[int, int, int]
) -> None:
    h, w, targets, C = problem(sizes)
    dense = value_and_gradients(per_token_loss(loss, parameters, h @ w[:C].T, targets).mean(), h, w)
    got = value_and_gradients(training_loss(loss, parameters, h, w, targets, C), h, w)
    for a, b in zip(got, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11 * b.abs().max().item())


@each_head
@each_loss
def test_the_gradient_is_that_of_finite_differences(
    loss: Loss, parameters: dict[str, float], sizes: tuple[int, int, int]
) -> None:
    h, w, targets, C = problem(sizes)

    def value(h: Tensor, w: Tensor) -> Tensor:
        return training_loss(loss, parameters, h, w, targets, C)

    torch.autograd.gradcheck(value, (h, w), check_undefined_grad=False, fast_mode=True)


@each_loss
def test_every_parameter_matters(loss: Loss, parameters: dict[str, float]) -> None:
    h, w, targets, C = problem((6, 40, 48))
    before = training_loss(loss, {}, h, w, targets, C)
    for name, value in parameters.items():
        assert training_loss(loss, {name: value}, h, w, targets, C) != before, name


@each_head
@each_loss
def test_padded_rows_of_the_head_never_matter(
    loss: Loss, parameters: dict[str, float], sizes: tuple[int, int, int]
) -> None:
    hidden, weight, targets, C = problem(sizes)
    other = weight.detach().clone()
    other[C:] += 100
    other.requires_grad_()
    first = value_and_gradients(training_loss(loss, parameters, hidden, weight, targets, C), hidden, weight)
    second = value_and_gradients(training_loss(loss, parameters, hidden, other, targets, C), hidden, other)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert (first[2][C:] == 0).all()
    assert (first[2][:C] != 0).any(dim=1).all()


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.name)
def test_the_size_of_chunks_does_not_matter(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets, C = problem((6, 40, 48))
    results = []
    for rows in (1, 3, N, 99):
        monkeypatch.setattr(head, "CHUNK_LOGITS_CPU", rows * C)
        results.append(value_and_gradients(training_loss(loss, {}, hidden, weight, targets, C), hidden, weight))
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@each_head
def test_losses_meet_where_their_formulas_do(sizes: tuple[int, int, int]) -> None:
    hidden, weight, targets, C = problem(sizes)

    def value(loss: str, **parameters: float) -> float:
        return training_loss(LOSSES[loss], parameters, hidden, weight, targets, C).item()

    f = hidden @ weight[:C].T
    assert value("squentropy", squentropy_lambda=0.0) == pytest.approx(value("cross_entropy"), rel=1e-12)
    assert value("rescaled_mse", rescaled_mse_k=1.0, rescaled_mse_m=1.0) == pytest.approx(value("mse"), rel=1e-12)
    assert value("squentropy_coded", squentropy_coded_w=0.0) == pytest.approx(
        value("squentropy", squentropy_lambda=(C - 1) / C), rel=1e-12
    )
    assert value("squentropy_coded", squentropy_coded_w=1.0) == pytest.approx(
        value("cross_entropy") + value("mse"), rel=1e-12
    )
    # sum p^2 = exp(lse(2 f) - 2 lse(f))
    log_p_y = f.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    brier = (f.mul(2).logsumexp(-1) - 2 * f.logsumexp(-1)).exp() - 2 * log_p_y.exp() + 1
    assert value("brier") == pytest.approx(brier.mean().item(), rel=1e-12)


def test_a_sum_of_squares_needs_no_logits() -> None:
    hidden, weight, _, C = problem((6, 40, 48))
    dense = value_and_gradients(((hidden @ weight[:C].T) ** 2).sum(), hidden, weight)
    lean = value_and_gradients(head.square_sum(hidden, weight[:C]).sum(), hidden, weight)
    for a, b in zip(lean, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11)


@each_head
def test_a_network_that_knows_nothing_scores_ln_c(sizes: tuple[int, int, int]) -> None:
    hidden, weight, targets, C = problem(sizes)
    loss = training_loss(LOSSES["cross_entropy"], {}, hidden, torch.ones_like(weight), targets, C)
    assert loss.item() == pytest.approx(math.log(C), rel=1e-12)


@each_head
@each_loss
def test_bf16_autocast_is_near_and_keeps_squares_exact(
    loss: Loss, parameters: dict[str, float], sizes: tuple[int, int, int]
) -> None:
    h, w, targets, C = problem(sizes, torch.float32)
    exact = value_and_gradients(training_loss(loss, parameters, h, w, targets, C), h, w)
    with torch.autocast("cpu", torch.bfloat16):
        mixed_loss = training_loss(loss, parameters, h, w, targets, C)
    mixed = value_and_gradients(mixed_loss, h, w)
    for a, b in zip(mixed, exact, strict=True):
        assert a.dtype == torch.float32
        if loss.terms and not loss.terms(fill_parameters(loss, parameters), C).ce:  # squares alone
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b, rtol=0.02, atol=0.02 * b.abs().max().item())


@each_head
@each_loss
def test_hidden_in_bf16_is_widened(loss: Loss, parameters: dict[str, float], sizes: tuple[int, int, int]) -> None:
    h, w, targets, C = problem(sizes, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        result = training_loss(loss, parameters, h.bfloat16(), w, targets, C)
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(training_loss(loss, parameters, h, w, targets, C).item(), rel=0.05)


@each_head
@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.name)
def test_a_traced_loss_is_the_same(loss: Loss, sizes: tuple[int, int, int]) -> None:
    torch.compiler.reset()
    h, w, targets, C = problem(sizes)
    plain = value_and_gradients(training_loss(loss, {}, h, w, targets, C), h, w)
    traced = torch.compile(training_loss, backend="aot_eager")(loss, {}, h, w, targets, C)
    for a, b in zip(value_and_gradients(traced, h, w), plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@each_head
@each_loss
def test_gradients_scale_with_the_loss_and_can_be_asked_twice(
    loss: Loss, parameters: dict[str, float], sizes: tuple[int, int, int]
) -> None:
    h, w, targets, C = problem(sizes)
    result = training_loss(loss, parameters, h, w, targets, C)
    once = torch.autograd.grad(result, (h, w), retain_graph=True)
    thrice = torch.autograd.grad(3 * result, (h, w))
    for a, b in zip(thrice, once, strict=True):
        torch.testing.assert_close(a, 3 * b)
    with torch.no_grad():
        assert training_loss(loss, parameters, h, w, targets, C).item() == pytest.approx(result.item())


def ddp_of_one(model: GPT, folder: Path) -> torch.nn.parallel.DistributedDataParallel:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    return torch.nn.parallel.DistributedDataParallel(model)


@pytest.mark.parametrize("tied_head", [True, False])
def test_ddp_sees_the_gradient_of_a_head_used_outside_its_forward(tied_head: bool, tmp_path: Path) -> None:
    config = GPTConfig(block_size=8, vocab_size=48, n_layer=1, n_head=2, n_embd=8, tied_head=tied_head)
    idx = torch.randint(40, (2, 9), generator=torch.Generator().manual_seed(0))
    plain, wrapped = (GPT(config, torch.Generator().manual_seed(0)) for _ in range(2))
    try:
        ddp = ddp_of_one(wrapped, tmp_path)
        for loss in ALL:  # DDP complains at the second forward if the first missed a parameter
            for model, call in ((plain, plain), (wrapped, ddp)):
                model.zero_grad()
                hidden = call(idx[:, :-1]).flatten(0, 1)
                training_loss(loss, {}, hidden, model.head_weight, idx[:, 1:].flatten(), 40).backward()
            for (name, a), b in zip(plain.named_parameters(), wrapped.parameters(), strict=True):
                assert a.grad is not None, name
                assert b.grad is not None, name
                torch.testing.assert_close(a.grad, b.grad)
    finally:
        torch.distributed.destroy_process_group()


@each_loss
def test_one_class_is_no_division_by_zero(loss: Loss, parameters: dict[str, float]) -> None:
    hidden, weight, _, _ = problem((6, 40, 48))
    assert training_loss(loss, parameters, hidden, weight, torch.zeros(N, dtype=torch.int64), 1).isfinite()


@pytest.mark.parametrize(
    ("loss", "parameters", "message"),
    [
        ("crossentropy", {}, "loss is 'crossentropy'; allowed: cross_entropy, squentropy"),
        ("mse", {"rescaled_mse_k": 2.0}, "rescaled_mse_k is not a parameter of loss mse; its parameters: none"),
        ("squentropy", {"lambda": 1.0}, "its parameters: squentropy_lambda"),
        ("squentropy", {"squentropy_lambda": -1.0}, "must be a finite number, not below 0"),
        ("squentropy", {"squentropy_lambda": math.nan}, "must be a finite number"),
        ("rescaled_mse", {"rescaled_mse_m": 0.0}, "must be a finite number, above 0"),
    ],
)
@each_head
def test_a_loss_or_parameter_that_does_not_exist_is_refused(
    loss: str, parameters: dict[str, Any], message: str, sizes: tuple[int, int, int]
) -> None:
    hidden, weight, targets, C = problem(sizes)
    with pytest.raises(ValueError, match=message):
        training_loss(find(loss), parameters, hidden, weight, targets, C)


def _weights(loss: Loss, parameters: object, logits: Tensor) -> Tensor:
    return logits


FORMULA: dict[str, Any] = {"name": "toy", "meaning": "", "readouts": (SOFTMAX,), "per_token": FOCAL.per_token}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_token": None}, "give either terms or per_token"),
        ({"terms": lambda p, C: Terms()}, "give either terms or per_token"),
        (
            {"per_token": None, "terms": lambda p, C: Terms(), "with_gradient": len},
            "with_gradient belongs to per_token",
        ),
        ({"readouts": ()}, "at least one read-out"),
        ({"readouts": (SOFTMAX, SOFTMAX)}, "two read-outs have one name"),
        ({"readouts": (INVERSE,)}, "read-out inverse needs terms"),
        ({"parameters": {"a": Parameter(0.0, "", gt=0)}}, "a is 0.0 by default, outside its own range"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"loss toy: .*{message}"):
        Loss(**{**FORMULA, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "focal"}, "two losses are called focal"),
        ({"parameters": FOCAL.parameters}, "gamma is a parameter of loss focal and of toy"),
        ({"readouts": (Readout("softmax", "", _weights),)}, "another read-out called softmax"),
    ],
)
def test_two_declarations_share_no_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry(FOCAL, Loss(**{**FORMULA, **changes}))


def test_a_closed_form_and_torch_differentiate_alike() -> None:
    h, w, targets, C = problem((6, 40, 48))
    ours, theirs = (
        value_and_gradients(training_loss(loss, {}, h, w, targets, C), h, w)
        for loss in (LOSSES["brier"], BRIER_BY_TORCH)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
