"""The GPT and each of its options: shapes, causality, gradients, parameter counts, names, initial weights."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from models.config import GPTConfig
from models.gpt import GPT, rotate, rotations

TINY = GPTConfig(block_size=16, vocab_size=23, n_layer=2, n_head=2, n_embd=24)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"mlp": "swiglu"},
    {"mlp": "relu2"},
    {"norm": "rmsnorm"},
    {"position": "rope"},
    {"tied_head": False},
    {"zero_init": True},
    {"bias": False, "mlp": "swiglu", "norm": "rmsnorm", "position": "rope", "tied_head": False, "zero_init": True},
]
each_option = pytest.mark.parametrize(
    "option", OPTIONS, ids=lambda option: " ".join(map(str, option.values())) or "plain"
)


def make(seed: int = 0, **changes: Any) -> GPT:
    return GPT(replace(TINY, **changes), torch.Generator().manual_seed(seed))


def stir(model: GPT) -> GPT:
    """Every parameter away from the zeros and ones it starts with, which hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def tokens(B: int = 3, T: int = 16, seed: int = 2) -> torch.Tensor:
    return torch.randint(TINY.vocab_size, (B, T), generator=torch.Generator().manual_seed(seed))


@each_option
@pytest.mark.parametrize("T", [1, 5, 16])
def test_hidden_and_logits_have_their_shapes(option: dict[str, Any], T: int) -> None:
    model = make(**option)
    hidden = model(tokens(T=T))
    assert hidden.shape == (3, T, 24)
    assert model.logits(hidden).shape == (3, T, 23)
    assert model.head_weight.shape == (23, 24)
    torch.testing.assert_close(model.logits(hidden), F.linear(hidden, model.head_weight))


@each_option
def test_changing_a_token_changes_nothing_before_it(option: dict[str, Any]) -> None:
    model, idx = stir(make(**option)), tokens()
    changed = idx.clone()
    changed[:, 9] = (changed[:, 9] + 1) % TINY.vocab_size
    before, after = model(idx), model(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9], rtol=0, atol=0)
    moved = (before - after).abs().amax(-1)  # (B, T)
    assert (moved[:, 9:] > 1e-4).all(), "every later position sees the change"


@each_option
def test_a_gradient_reaches_every_parameter(option: dict[str, Any]) -> None:
    model = stir(make(**option))
    hidden = model(tokens())
    F.cross_entropy(model.logits(hidden).flatten(0, 1), tokens(seed=3).flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@each_option
def test_where_a_token_stands_matters(option: dict[str, Any]) -> None:
    model = stir(make(**option))
    hidden = model(torch.tensor([[1, 2, 3], [2, 1, 3]]))
    assert (hidden[0, 2] - hidden[1, 2]).abs().max() > 1e-4


@pytest.mark.parametrize("mlp", ["gelu", "relu2", "swiglu"])
def test_each_mlp_is_its_formula(mlp: Any) -> None:
    layer: Any = stir(make(mlp=mlp)).transformer.h[0].mlp
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    inner = x @ layer.c_fc.weight.T + layer.c_fc.bias
    if mlp == "swiglu":
        gate, value = inner.split(inner.shape[-1] // 2, dim=-1)
        inner = gate / (1 + (-gate).exp()) * value
    elif mlp == "relu2":
        inner = inner.clamp_min(0) ** 2
    else:
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    torch.testing.assert_close(layer(x), inner @ layer.c_proj.weight.T + layer.c_proj.bias)


def test_rmsnorm_is_its_formula() -> None:
    layer = stir(make(norm="rmsnorm")).transformer.ln_f
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), layer.weight * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt())


def test_rope_sees_distances_only() -> None:
    """Query and key moved together leave their product as it was."""
    q, k = torch.randn(2, 1, 1, 2, 12, generator=torch.Generator().manual_seed(0)).unbind(0)  # (1, 1, n_head, hs)
    table = rotations(TINY)  # (2, block_size, 1, hs / 2)

    def score(i: int, j: int) -> torch.Tensor:
        return (rotate(q, table[:, i : i + 1]) * rotate(k, table[:, j : j + 1])).sum(-1)

    torch.testing.assert_close(score(5, 2), score(15, 12), rtol=1e-4, atol=1e-5)
    assert (score(5, 2) - score(5, 3)).abs().max() > 1e-3
    torch.testing.assert_close(rotate(q, table[:, 7:8]).norm(), q.norm())


def count(config: GPTConfig) -> int:
    """All parameters, by arithmetic."""
    D, V, T, bias = config.n_embd, config.vocab_size, config.block_size, int(config.bias)
    norm = D * (1 + (bias if config.norm == "layernorm" else 0))
    inner = 8 * round(D / 3) if config.mlp == "swiglu" else 4 * D
    outer = 2 * inner if config.mlp == "swiglu" else inner
    attention = 3 * D * (D + bias) + D * (D + bias)
    mlp = outer * (D + bias) + D * (inner + bias)
    tables = V * D * (1 if config.tied_head else 2) + (T * D if config.position == "learned" else 0)
    return tables + config.n_layer * (2 * norm + attention + mlp) + norm


@each_option
def test_parameters_are_counted_once(option: dict[str, Any]) -> None:
    model = make(**option)
    assert model.n_parameters(non_embedding=False) == count(model.config)
    outside = (16 * 24 if model.config.position == "learned" else 0) + (0 if model.config.tied_head else 23 * 24)
    assert model.n_parameters(non_embedding=True) == count(model.config) - outside


def test_gpt2_has_124_million_parameters() -> None:
    assert count(GPTConfig(vocab_size=50257)) == 124_439_808


@pytest.mark.parametrize("n_embd", [64, 128, 384, 768])
def test_swiglu_costs_about_what_gelu_costs(n_embd: int) -> None:
    sizes = {mlp: count(replace(TINY, n_embd=n_embd, mlp=mlp)) for mlp in ("gelu", "swiglu")}
    assert sizes["swiglu"] == pytest.approx(sizes["gelu"], rel=0.02)


def nanogpt_names(n_layer: int, bias: bool) -> set[str]:
    """The names in a nanoGPT checkpoint."""
    names = {"transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight", "lm_head.weight"}
    parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    names |= {f"transformer.h.{i}.{part}.weight" for i in range(n_layer) for part in parts}
    if bias:
        names |= {name.replace("weight", "bias") for name in names if ".h." in name or "ln_f" in name}
    return names


@pytest.mark.parametrize("bias", [True, False])
def test_the_state_dict_has_nanogpts_names(bias: bool) -> None:
    assert set(make(bias=bias).state_dict()) == nanogpt_names(2, bias)


@each_option
def test_a_checkpoint_holds_parameters_and_nothing_else(option: dict[str, Any]) -> None:
    model = make(**option)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters(remove_duplicate=False)}


def test_initial_weights_are_gpt2s() -> None:
    model = make(n_embd=96, n_layer=8)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif parameter.dim() == 1:
            assert (parameter == 1).all(), name
        else:
            std = 0.02 / math.sqrt(16) if name.endswith("c_proj.weight") else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.05), name
            assert abs(parameter.mean().item()) < 4 * std / math.sqrt(parameter.numel()), name


def test_initial_weights_come_from_the_given_generator_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = make(seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    torch.manual_seed(6)
    second, other = make(seed=1).state_dict(), make(seed=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_zero_init_starts_every_block_as_the_identity() -> None:
    model = make(zero_init=True)
    idx = tokens()
    embedded = model.transformer.wte(idx) + model.transformer.wpe.weight  # type: ignore[union-attr]
    torch.testing.assert_close(model(idx), model.transformer.ln_f(embedded))


def test_a_tied_head_stays_tied_through_a_checkpoint() -> None:
    model = make(seed=1)
    model.load_state_dict(make(seed=2).state_dict())
    assert model.head_weight is model.transformer.wte.weight
    assert torch.equal(model.head_weight, make(seed=2).head_weight)


def test_dropout_works_in_training_only() -> None:
    model, idx = make(dropout=0.5), tokens()
    assert not torch.equal(model(idx), model(idx))
    model.eval()
    assert torch.equal(model(idx), model(idx))
    torch.testing.assert_close(model(idx), make(dropout=0.0)(idx), msg="dropout has no say in the initial weights")


def test_a_sequence_above_block_size_is_refused() -> None:
    with pytest.raises(ValueError, match="17 tokens does not fit into block_size 16"):
        make()(tokens(T=17))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embd": 25}, r"n_embd \(25\) is not divisible by n_head \(2\)"),
        ({"n_embd": 6, "position": "rope"}, "must be even"),
        ({"n_layer": 0}, "n_layer is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"mlp": "silu"}, "mlp is 'silu'; allowed: gelu, swiglu, relu2"),
        ({"norm": "batchnorm"}, "allowed: layernorm, rmsnorm"),
        ({"position": "alibi"}, "allowed: learned, rope"),
    ],
)
def test_a_shape_that_no_network_has_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


@each_option
def test_bf16_autocast_stays_near_fp32(option: dict[str, Any]) -> None:
    model = stir(make(**option))
    exact = model(tokens())
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(tokens())
    assert (exact - rough.float()).abs().max() < 0.2 * exact.abs().max()


@pytest.mark.parametrize("option", [OPTIONS[0], OPTIONS[-1]], ids=["plain", "all options"])
def test_a_traced_model_computes_the_same(option: dict[str, Any]) -> None:
    """torch.compile without its C++ back end, which takes a minute: one graph, no break."""
    model = stir(make(**option))
    traced = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(traced(tokens()), model(tokens()), rtol=1e-4, atol=1e-5)
