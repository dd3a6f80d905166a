"""A search over a key that its optimizer, schedule or loss does not use is refused, with file, line and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.spec.space import configure
from tests.refusals import key_refusal, place
from tests.specs import BASE, read

MUON_RATE = "  muon_learning_rate: {log: [5e-3, 5e-2]%s}\n"
OPTIMIZERS = "  optimizer: {choice: [sgd, muon]}\n"


@pytest.mark.parametrize(
    ("base", "space", "where", "kind", "keys"),
    [
        # the key that decides is not searched
        ("optimizer: sgd\n", MUON_RATE % "",
         "5: space.muon_learning_rate", "unused", ("muon_learning_rate", "optimizer")),
        ("", "  momentum: {choice: [0, 0.9]}\n",
         "5: space.momentum", "unused", ("momentum", "optimizer")),
        ("schedule: cosine\n", "  decay_frac: {choice: [0.1, 0.2]}\n",
         "5: space.decay_frac", "unused", ("decay_frac", "schedule")),
        ("schedule: constant\n", "  min_lr_frac: {uniform: [0, 0.5]}\n",
         "5: space.min_lr_frac", "unused", ("min_lr_frac", "schedule")),
        ("optimizer: my_module:Lion\n", "  beta1: {choice: [0.8, 0.9]}\n",
         "5: space.beta1", "unused", ("beta1", "optimizer")),
        # under another name
        ("optimizer: sgd\n", "  rate: {field: muon_learning_rate, log: [5e-3, 5e-2]}\n",
         "5: space.rate", "unused", ("rate", "optimizer")),
        # it is searched
        ("", OPTIMIZERS + MUON_RATE % "",
         "6: space.muon_learning_rate", "unused", ("muon_learning_rate", "optimizer")),
        ("", OPTIMIZERS + MUON_RATE % ", when: {optimizer: [sgd, muon]}",
         "6: space.muon_learning_rate", "unused", ("muon_learning_rate", "optimizer")),
        ("", "  optimizer: {choice: [sgd, adamw]}\n" + MUON_RATE % "",
         "6: space.muon_learning_rate", "unused", ("muon_learning_rate", "optimizer")),
        ("", "  optimizer: {choice: [sgd, adamw, muon]}\n  momentum: {choice: [0, 0.9]}\n",
         "6: space.momentum", "unused", ("momentum", "optimizer")),
        ("", "  kind: {field: optimizer, choice: [sgd, muon]}\n" + MUON_RATE % "",
         "6: space.muon_learning_rate", "unused", ("muon_learning_rate", "optimizer", "kind")),
        ("", "  kind: {choice: [{optimizer: sgd}, {optimizer: muon}]}\n" + MUON_RATE % "",
         "6: space.muon_learning_rate", "unused", ("muon_learning_rate", "optimizer", "kind")),
        # where the parameter that decides does not exist, the base decides
        ("optimizer: sgd\n",
         "  n_layer: {choice: [1, 2]}\n  optimizer: {choice: [muon], when: {n_layer: 2}}\n"
         + MUON_RATE % ", when: {n_layer: [1, 2]}",
         "7: space.muon_learning_rate", "unused", ("muon_learning_rate", "optimizer")),
        # a mapping that sets it to no effect
        ("", "  kind:\n    choice:\n      - {optimizer: muon, beta1: 0.8}\n      - {optimizer: sgd, beta1: 0.9}\n",
         "8: space.kind.choice[1].beta1", "unused", ("beta1", "optimizer")),
        ("", "  pair: {choice: [{dropout: 0.1, momentum: 0.5}, {dropout: 0.2, momentum: 0.9}]}\n",
         "5: space.pair.choice[0].momentum", "unused", ("momentum", "optimizer")),
    ],
)  # fmt: skip
def test_a_key_that_is_not_used_is_refused_with_its_place(
    tmp_path: Path, base: str, space: str, where: str, kind: str, keys: tuple[str, ...]
) -> None:
    error = key_refusal(lambda: read(tmp_path, f"space:\n{space}", BASE + base))
    assert (place(error), error.kind, error.keys) == (where, kind, keys)


@pytest.mark.parametrize(
    ("base", "space", "problem"),
    [
        ("optimizer: sgd\n", MUON_RATE % "",
         "belongs to optimizer: muon, but optimizer is sgd; remove one of them"),
        ("", OPTIMIZERS + MUON_RATE % "",
         "belongs to optimizer: muon only; add `when: {optimizer: muon}`"),
        ("", "  optimizer: {choice: [sgd, adamw, muon]}\n  momentum: {choice: [0, 0.9]}\n",
         "belongs to optimizer: sgd or muon only; add `when: {optimizer: [sgd, muon]}`"),
        ("", "  kind: {field: optimizer, choice: [sgd, muon]}\n" + MUON_RATE % "",
         "belongs to optimizer: muon only; add `when: {kind: muon}`"),
        ("", "  optimizer: {choice: [sgd, adamw]}\n" + MUON_RATE % "",
         "belongs to optimizer: muon, but optimizer is never that; remove it"),
        ("", "  kind: {choice: [{optimizer: sgd}, {optimizer: muon}]}\n" + MUON_RATE % "",
         "belongs to optimizer: muon, but optimizer is sgd in some of kind; add a `when`, or remove it"),
        ("", "  pair: {choice: [{dropout: 0.1, momentum: 0.5}, {dropout: 0.2, momentum: 0.9}]}\n",
         "belongs to optimizer: sgd or muon, but optimizer is adamw; remove one of them"),
    ],
)  # fmt: skip
def test_what_each_refusal_says(tmp_path: Path, base: str, space: str, problem: str) -> None:
    assert key_refusal(lambda: read(tmp_path, f"space:\n{space}", BASE + base)).problem == problem


@pytest.mark.parametrize(
    ("base", "space"),
    [
        ("optimizer: muon\n", MUON_RATE % ""),
        ("", OPTIMIZERS + "  momentum: {choice: [0, 0.9]}\n"),  # both use it
        ("", OPTIMIZERS + MUON_RATE % ", when: {optimizer: muon}"),
        ("", "  schedule: {choice: [cosine, wsd]}\n  min_lr_frac: {choice: [0, 0.1]}\n"),
        ("", "  kind: {choice: [{optimizer: sgd, momentum: 0.5}, {optimizer: adamw, beta1: 0.8}]}\n"),
        # a `when` of a `when`
        ("", "  n_layer: {choice: [1, 2]}\n  optimizer: {choice: [sgd, muon], when: {n_layer: 2}}\n"
         + MUON_RATE % ", when: {optimizer: muon}"),
        # it exists only where the base's optimizer is the one
        ("optimizer: muon\n", "  n_layer: {choice: [1, 2]}\n  optimizer: {choice: [sgd], when: {n_layer: 2}}\n"
         + MUON_RATE % ", when: {n_layer: 1}"),
        # a mapping is used with some of the optimizers that it meets
        ("", OPTIMIZERS + "  pair: {choice: [{dropout: 0.1, beta1: 0.5}, {dropout: 0.2, beta1: 0.9}]}\n"),
        ("", "  optimizer: {choice: [adamw, 'a:B']}\n  beta1: {choice: [0.8, 0.9], when: {optimizer: adamw}}\n"),
        ("optimizer: sgd\nmuon_learning_rate: 0.1\n", "  momentum: {choice: [0, 0.9]}\n"),  # set, not searched
    ],
)  # fmt: skip
def test_a_key_that_is_used_wherever_it_exists_is_searched(tmp_path: Path, base: str, space: str) -> None:
    read(tmp_path, f"space:\n{space}", BASE + base)


def test_an_own_optimizers_parameters_of_the_base_are_left_out_beside_another(tmp_path: Path) -> None:
    base = BASE + "optimizer: my_module:Lion\noptimizer_params: {beta: 0.5}\n"
    spec, config, _ = read(tmp_path, "space:\n  optimizer: {choice: [adamw, 'my_module:Lion']}\n", base)
    assert configure(config, spec.space, {"optimizer": "my_module:Lion"}).optimizer_params == {"beta": 0.5}
    assert configure(config, spec.space, {"optimizer": "adamw"}).optimizer_params is None


def test_one_number_of_an_own_optimizer_is_searched_beside_those_that_the_base_gives(tmp_path: Path) -> None:
    base = BASE + "optimizer: a:Lion\noptimizer_params: {decay: 0.5, beta: 0.9}\n"
    text = "space:\n  beta: {field: optimizer_params.beta, log: [0.1, 0.9]}\n"
    spec, config, _ = read(tmp_path, text, base)
    assert configure(config, spec.space, {"beta": 0.25}).optimizer_params == {"decay": 0.5, "beta": 0.25}
    error = key_refusal(lambda: read(tmp_path, text))
    assert (place(error), error.kind, error.keys) == ("5: space.beta", "unused", ("beta", "optimizer"))
    error = key_refusal(lambda: read(tmp_path, "space:\n  optimizer_params: {log: [0.1, 0.9]}\n", base))
    assert (place(error), error.kind) == ("5: space.optimizer_params", "not_searched")
    error = key_refusal(lambda: read(tmp_path, text.replace("optimizer_params.", "momentum."), base))
    assert (place(error), error.kind, error.keys) == ("5: space.beta", "unknown", ("momentum.beta",))
    _, changed, _ = read(tmp_path, "space: {n_layer: {choice: [1, 2]}}\n", base, ["optimizer_params.beta=0.1"])
    assert changed.optimizer_params == {"decay": 0.5, "beta": 0.1}
