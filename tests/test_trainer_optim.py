"""Who is decayed, who is orthogonalised, and one multiplier for all."""

from __future__ import annotations

import copy

import pytest
import torch

from models.gpt import GPT
from tests import tiny
from trainer.config import TrainConfig
from trainer.optim import Optimizers, build
from trainer.optimizers import OPTIMIZERS


def made(**changes: object) -> tuple[GPT, TrainConfig, Optimizers]:
    settings = tiny.config(bias=True, **changes)
    model = GPT(settings.shape(11), torch.Generator().manual_seed(0))
    return model, settings, build(model, settings)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("tied_head", [True, False])
def test_every_parameter_is_in_exactly_one_group(optimizer: str, tied_head: bool) -> None:
    model, _, optimizers = made(optimizer=optimizer, tied_head=tied_head)
    grouped = [id(p) for part in optimizers.parts for group in part.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_matrices_and_tables_decay_and_vectors_do_not(optimizer: str) -> None:
    _, _, optimizers = made(optimizer=optimizer, weight_decay=0.3)
    for part in optimizers.parts:
        for group in part.param_groups:
            assert {p.dim() >= 2 for p in group["params"]} == {group["weight_decay"] == 0.3}


def test_muon_has_the_hidden_matrices_and_adamw_tables_head_and_vectors() -> None:
    model, settings, optimizers = made(optimizer="muon", tied_head=False)
    names = {id(p): name for name, p in model.named_parameters()}
    muon, adamw = optimizers.parts
    by_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    expected = {f"transformer.h.{i}.{part}.weight" for i in range(2) for part in
                ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}  # fmt: skip
    assert by_muon == expected
    assert isinstance(muon, torch.optim.Muon)
    assert muon.param_groups[0]["lr"] == settings.muon_learning_rate
    assert adamw.param_groups[0]["lr"] == settings.learning_rate


def test_one_multiplier_scales_every_groups_own_peak() -> None:
    _, _, optimizers = made(optimizer="muon", learning_rate=1e-3, muon_learning_rate=0.02)
    optimizers.scale(0.5)
    optimizers.scale(0.25)  # of the peak, not of what it was
    rates = {group["lr"] for part in optimizers.parts for group in part.param_groups}
    assert rates == {0.25e-3, 0.005}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_its_state_goes_on_and_its_rates_are_the_present_configs(optimizer: str) -> None:
    torch.manual_seed(0)
    model, _, one = made(optimizer=optimizer)
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        one.step()
    other_model, _, other = made(optimizer=optimizer, learning_rate=0.5)
    other_model.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(one.state_dict()))  # as from a file: torch shares what it is given
    rates = {group["lr"] for group in other.parts[-1].param_groups}
    assert rates == {0.5}
    for group in other.parts[-1].param_groups:
        group["lr"] = 1e-3
    for each, optimizers in ((model, one), (other_model, other)):
        for p in each.parameters():
            p.grad = torch.full_like(p, 0.5)
        optimizers.step()
    for a, b in zip(model.parameters(), other_model.parameters(), strict=True):
        assert torch.equal(a, b)
