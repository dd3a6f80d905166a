"""What is declared with the config's keys is true of the training, and each rule's refusal carries its keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from models.config import GPTConfig
from models.losses import LOSSES
from search.run.trainable import count_gpt
from tests import own, tiny
from tests.refusals import refusal
from trainer import keys
from trainer.config import TrainConfig, load, replace
from trainer.optimizers import OPTIMIZERS
from trainer.yaml_file import RefusedError

VALUES: dict[str, list[str]] = {
    "optimizer": [*OPTIMIZERS, keys.OWN],
    "schedule": list(get_args(TrainConfig.model_fields["schedule"].annotation)),
    "loss": [*LOSSES],
    "model": ["gpt", keys.OWN],
}
MAPPINGS = ("loss_params", "optimizer_params", "model_params")  # values by name, for own code only


def cases() -> Iterator[tuple[str, str, str]]:
    """(key, deciding key, its value): each key with a `used_by` under each value of the key that decides."""
    for key, declaration in keys.declared(TrainConfig).items():
        for by in declaration.used_by if key not in MAPPINGS else ():
            yield from ((key, by, value) for value in VALUES[by])


def final(settings: TrainConfig) -> dict[str, float]:
    """The last report of a run of 8 steps."""
    _, reports = tiny.run(settings, allow_code=True)
    return tiny.values(reports[-1])


@pytest.mark.parametrize(("key", "by", "value"), list(cases()))
def test_a_key_has_an_effect_exactly_where_its_declaration_says(
    key: str, by: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = own.write_optimizer(tmp_path, monkeypatch) if value == keys.OWN else value
    plain = tiny.config(**{by: value, "max_tokens": 8 * 64, "eval_every": 8 * 64})
    users = keys.key_of(TrainConfig, key).used_by[by]
    default = getattr(plain, key)
    if default is None and value not in users:
        with pytest.raises(RefusedError) as caught:
            replace(plain, **{key: 0.5})
        assert (caught.value.kind, caught.value.keys) == ("unused", (key, by))
        return
    other = replace(plain, **{key: 0.5 if default is None else default / 2})
    assert (final(plain) != final(other)) == keys.includes(users, value)


def test_a_declaration_names_keys_and_values_that_exist() -> None:
    for declaration in keys.declared(TrainConfig).values():
        for by, users in declaration.used_by.items():
            assert set(users) <= {*VALUES[by], keys.OWN}
            assert users


def test_what_a_resumed_run_keeps_is_the_networks_shape_and_what_gives_its_state_a_meaning() -> None:
    shape = {field.name for field in dataclasses.fields(GPTConfig)} - {"dropout"}
    others = {"batch_size", "gradient_accumulation_steps", "data_order", "seed", "loss", "optimizer"}
    others |= {"model", "model_params"}
    assert set(keys.kept_keys(TrainConfig)) == shape | others


def test_unused_gives_a_reason_for_each_key_without_effect() -> None:
    reasons = keys.unused(TrainConfig, {"optimizer": "sgd", "schedule": "constant"})
    assert reasons["muon_learning_rate"] == "belongs to optimizer: muon, but optimizer is sgd"
    assert {"beta1", "beta2", "min_lr_frac", "decay_frac", "optimizer_params"} <= reasons.keys()
    assert "momentum" not in reasons
    assert "optimizer_params" not in keys.unused(TrainConfig, {"optimizer": "my.module:Lion"})


@pytest.mark.parametrize(
    ("line", "expected", "kind"),
    [
        ("n_embd: 130", ("n_embd", "n_head"), "conflict"),
        ("position: rope\nn_embd: 4", ("position", "n_embd", "n_head"), "conflict"),
        ("eval_context: 999", ("eval_context", "block_size"), "conflict"),
        ("readout: inverse", ("readout", "loss"), "conflict"),
        ("init_from: gpt2", ("tokenizer", "init_from"), "conflict"),
        ("init_from: gpt2\ntokenizer: gpt2", ("block_size", "init_from"), "conflict"),
        ("squentropy_lambda: 1.0", ("squentropy_lambda", "loss"), "unused"),
        ("optimizer_params: {beta: 0.5}", ("optimizer_params", "optimizer"), "unused"),
        ("optimizer: a:B\noptimizer_params: {lr: 0.5}", ("optimizer_params", "learning_rate"), "conflict"),
        ("optimizer: adan", ("optimizer",), "unknown"),
        ("n_layer: many", ("n_layer",), "int_type"),
        ("optimizer: a:B\noptimizer_params: {x: .nan}", ("optimizer_params",), "value_error"),
        ("n_leyer: 2", ("n_leyer",), "extra_forbidden"),
    ],
)
def test_a_refusal_carries_its_keys_and_kind(tmp_path: Path, line: str, expected: tuple[str, ...], kind: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"block_size: {2048 if 'gpt2' in line else 128}\n{line}\n")
    with pytest.raises(RefusedError) as caught:
        load(path)
    assert (caught.value.keys, caught.value.kind) == (expected, kind)
    if expected[0] in line:
        number = path.read_text().splitlines().index(next(x for x in line.splitlines() if x.startswith(expected[0])))
        assert str(caught.value).startswith(f"{path}:{number + 1}: ")


def test_a_key_with_a_default_may_stand_where_it_is_not_used() -> None:
    """Base configs name many keys."""
    settings: dict[str, Any] = {
        "optimizer": "sgd",
        "muon_learning_rate": 0.1,
        "schedule": "constant",
        "decay_frac": 1.0,
    }
    assert TrainConfig(**settings).muon_learning_rate == 0.1


@pytest.mark.parametrize("value", [0, -1, 10**7 + 1, 10**18, 10**30])
@pytest.mark.parametrize("key", ["n_layer", "n_head", "n_embd", "block_size", "vocab_size", "batch_size", "early_stop"])
def test_a_count_that_no_network_or_batch_has_is_refused(key: str, value: int) -> None:
    assert refusal(lambda: replace(TrainConfig(), **{key: value})).keys == (key,)


@pytest.mark.parametrize("key", ["n_layer", "n_embd", "vocab_size"])
def test_parameters_of_the_largest_network_that_a_config_allows_are_counted_at_once(key: str) -> None:
    config = replace(TrainConfig(n_head=1), **{key: 10**7})
    assert count_gpt(config.shape(65)) > 10**7
