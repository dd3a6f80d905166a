"""Spec and base together: from a point to a config, and the one line that answers each mistake."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from data.errors import UserError
from search.spec.check import check, check_length
from search.spec.points import candidates, ordered, points
from search.spec.space import configure, readable, tokenizers
from search.strategy.sampler import Sampler
from search.study.study import Study
from tests.specs import BASE, read, space
from trainer.config import TrainConfig
from trainer.yaml_file import YamlFile

LOSSES = "  loss: {choice: [squentropy, cross_entropy]}\n"
LAMBDA = "  squentropy_lambda: {log: [1e-3, 1]%s}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  learning_rat: {log: [1e-4, 1e-2]}\n", r":5: space.learning_rat: unknown parameter; .*learning_rate\?"),
        ("  learning_rate: {uniform: [-1, 1]}\n", r":5: space.learning_rate.uniform\[0\]: .*greater than 0, got -1"),
        ("  dropout: {uniform: [0, 1]}\n", r":5: space.dropout.uniform\[1\]: .*less than 1, got 1"),
        ("  dropout: {choice: [0, high]}\n", r":5: space.dropout.choice\[1\]: .*number, got 'high'"),
        ("  dropout:\n    choice:\n      - 0\n      - 2\n", r":8: space.dropout.choice\[1\]: .*less than 1, got 2"),
        ("  dropout: {choice: [0, 0.0]}\n", r":5: space.dropout.choice\[1\]: 0.0 is given twice"),
        ("  max_tokens: {choice: [1M, 1000000]}\n", r":5: space.max_tokens.choice\[1\]: 1000000 is given twice"),
        ("  max_tokens: {choice: [1M, 3 miles]}\n", r":5: space.max_tokens.choice\[1\]: .*`7 epochs`.*'3 miles'"),
        ("  n_layer: {log: [1, 2.5]}\n", r":5: space.n_layer.log\[1\]: n_layer takes whole numbers, got 2.5"),
        ("  n_layer: {uniform: [0, 4]}\n", r":5: space.n_layer.uniform\[0\]: .*got 0"),
        ("  n_layer: {choice: [1, 2.0]}\n", r":5: space.n_layer.choice\[1\]: .*integer, got 2.0"),
        ("  bias: {choice: [1, false]}\n", r":5: space.bias.choice\[0\]: .*boolean, got 1"),
        ("  bias: {uniform: [0, 1]}\n", r":5: space.bias.uniform: bias takes no numbers.*use choice"),
        ("  loss: {log: [1, 8]}\n", r":5: space.loss.log: loss takes no numbers.*use choice"),
        ("  loss: {choice: [squentropi]}\n", r":5: space.loss.choice\[0\]: .*got 'squentropi'"),
        ("  n_embd: {log: [64, 128]}\n", r":5: space.n_embd.log: n_embd must be divisible by n_head.*use choice"),
        ("  n_embd: {choice: [128, 130]}\n", r":5: space.n_embd: n_embd \(130\) is not divisible by n_head \(4\)"),
        ("  n_head: {choice: [2, 3]}\n", r":5: space.n_head: n_embd \(128\) is not divisible by n_head \(3\)"),
        (
            "  width:\n    choice:\n      - {n_embd: 128, n_head: 4}\n      - {n_embd: 99, n_head: 4}\n",
            r":5: space.width: n_embd \(99\) is not divisible.*\(at D99 H4\)",
        ),
        (
            "  width:\n    choice:\n      - {n_embd: 128, n_head: 4}\n      - {n_embd: 64, n_heads: 4}\n",
            r":8: space.width.choice\[1\].n_heads: unknown parameter; did you mean n_head\?",
        ),
        (
            "  width:\n    choice:\n      - {n_embd: 128, n_head: 4}\n      - {n_embd: big, n_head: 4}\n",
            r":8: space.width.choice\[1\].n_embd: .*integer, got 'big'",
        ),
        ("  width: {choice: [{n_head: 4}, {}]}\n", r":5: space.width.choice\[1\]: an empty mapping"),
        (
            "  n_layer: {choice: [1, 2]}\n  deep: {choice: [{n_layer: 3}]}\n",
            r":6: space.deep: sets n_layer, as space.n_layer does",
        ),
        ("  corpus: {choice: [stories, shakespeare]}\n", r":5: space.corpus: .*cannot be searched: .*different text"),
        ("  split: {choice: [documents, nanogpt]}\n", r":5: space.split: .*cannot be searched: .*different text"),
        ("  eval_tokens: {choice: [1k, 2k]}\n", r":5: space.eval_tokens: .*cannot be searched: .*same validation text"),
        ("  seed: {choice: [1, 2]}\n", r":5: space.seed: .*cannot be searched: the luckiest seed would win"),
        ("  tokenizer: {choice: [char, 'bpe:512']}\n", r":5: space.tokenizer: .*use objective: val_bits_per_byte"),
        # when
        ("  dropout: {choice: [0], when: {n_layer: 2}}\n", r":5: space.dropout.when.n_layer: .*is not searched"),
        (
            "  dropout: {choice: [0], when: {nlayer: 2}}\n  n_layer: {choice: [1, 2]}\n",
            r":5: space.dropout.when.nlayer: no such parameter in the space; did you mean n_layer\?",
        ),
        (
            "  dropout: {choice: [0], when: {n_layer: [1, 3]}}\n  n_layer: {choice: [1, 2]}\n",
            r":5: space.dropout.when.n_layer: n_layer is never 3; its choice is \[1, 2\]",
        ),
        (
            "  dropout: {choice: [0], when: {learning_rate: 2}}\n  learning_rate: {log: [1e-4, 1e-2]}\n",
            r":5: space.dropout.when.learning_rate: learning_rate is a range",
        ),
        (
            "  dropout: {choice: [0], when: {n_layer: 2}}\n  n_layer: {choice: [1, 2], when: {dropout: 0}}\n",
            r":4: space: `when` goes in a circle: dropout -> n_layer -> dropout",
        ),
        # a loss parameter and its loss
        (LAMBDA % "", r":5: space.squentropy_lambda: belongs to loss: squentropy, but loss is cross_entropy"),
        (LOSSES + LAMBDA % "", r":6: space.squentropy_lambda: .*add `when: \{loss: squentropy\}`"),
        (
            LOSSES + LAMBDA % ", when: {loss: [squentropy, cross_entropy]}",
            r":6: space.squentropy_lambda: .*add `when: \{loss: squentropy\}`",
        ),
        (
            "  loss: {choice: [mse, brier]}\n" + LAMBDA % ", when: {loss: squentropy}",
            r":6: space.squentropy_lambda.when.loss: loss is never 'squentropy'",
        ),
        (
            "  kind: {choice: [{loss: mse, squentropy_lambda: 0.1}]}\n",
            r":5: space.kind: squentropy_lambda belongs to loss: squentropy, but loss is mse",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, "space:\n" + text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "base", "message"),
    [
        ("set: {n_layer: 3}\nspace: {n_layer: {choice: [1]}}\n", BASE, r":4: set.n_layer: n_layer is searched too"),
        ("sampler: grid\nspace: {dropout: {uniform: [0, 0.5]}}\n", BASE, r":5: space.dropout.uniform: a grid has no"),
        (
            "scheduler:\n  asha:\n    first_rung: 4M\nspace: {n_layer: {choice: [1]}}\n",
            BASE,
            r":6: scheduler.asha.first_rung: 4M tokens exceeds a trial's max_tokens \(2M\): no trial could be stopped",
        ),
        (
            "scheduler: {asha: {first_rung: 1M}}\nspace: {max_tokens: {choice: [4M, 1M]}}\n",
            BASE,
            r":4: scheduler.asha.first_rung: 1M tokens is a trial's max_tokens \(1M\)",
        ),
        ("space:\n" + LOSSES, BASE + "loss: squentropy\nreadout: inverse\n", r":5: space.loss: readout: inverse does"),
        (
            "space: {warmup_frac: {uniform: [0, 1]}}\n",
            BASE + "schedule: wsd\n",
            r":4: space.warmup_frac: warmup_frac \(1.0\) \+ decay_frac \(0.2\) exceed 1 \(at warmup_frac=1\)",
        ),
    ],
)
def test_a_mistake_between_keys_is_one_line(tmp_path: Path, text: str, base: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text, base)


def test_an_override_of_a_searched_parameter_is_answered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--set n_layer: n_layer is searched too \(.*spec.yaml:4: space.n_layer\)"):
        read(tmp_path, "space: {n_layer: {choice: [1]}}\n", overrides=["n_layer=3"])


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("space:\n" + LOSSES + LAMBDA % ", when: {loss: squentropy}", BASE),
        ("space:\n" + LAMBDA % "", BASE + "loss: squentropy\n"),
        ("space:\n  kind: {choice: [{loss: mse}, {loss: squentropy, squentropy_lambda: 0.1}]}\n", BASE),
        ("space: {width: {choice: [{n_embd: 64, n_head: 2}, {n_embd: 96, n_head: 3}]}}\n", BASE),
        ("objective: val_bits_per_byte\nspace: {tokenizer: {choice: [char, 'bpe:512']}}\n", BASE),
        ("scheduler: {asha: {first_rung: 1M}}\nspace: {max_tokens: {log: [2M, 8M]}}\n", BASE),
        ("scheduler: {asha: {first_rung: 9M}}\nspace: {max_tokens: {choice: [1 epoch, 2 epochs]}}\n", BASE),
        ("sampler: grid\nspace: {bias: {choice: [true, false]}, vocab_size: {choice: [null, 128]}}\n", BASE),
    ],
)
def test_what_fits_together_is_let_through(tmp_path: Path, text: str, base: str) -> None:
    spec, config, _ = read(tmp_path, text, base)
    values = {name: candidates(name, parameter) for name, parameter in spec.space.items()}
    for point in points(spec.space, values):
        assert configure(config, spec.space, point)


def test_a_base_keeps_its_loss_parameter_only_where_its_loss_is_chosen(tmp_path: Path) -> None:
    spec, base, _ = read(tmp_path, "space:\n" + LOSSES, BASE + "loss: squentropy\nsquentropy_lambda: 0.25\n")
    assert configure(base, spec.space, {"loss": "squentropy"}).squentropy_lambda == 0.25
    assert configure(base, spec.space, {"loss": "cross_entropy"}).squentropy_lambda is None


def test_linked_parameters_and_text_are_read_as_the_config_reads_them() -> None:
    spec = space(
        width={"choice": [{"n_embd": 96, "n_head": 3}, {"n_embd": 64, "n_head": 2}]},
        max_tokens={"choice": ["1M", "3 epochs"]},
        dropout={"choice": [0, 0.5]},
    )
    point = {"width": {"n_embd": 96, "n_head": 3}, "max_tokens": "1M", "dropout": 0}
    config = configure(TrainConfig(), spec.space, point)
    assert (config.n_embd, config.n_head, config.max_tokens, config.dropout) == (96, 3, 1_000_000, 0.0)
    assert isinstance(config.dropout, float)


def test_a_forbidden_combination_is_found_among_too_many_to_try_all() -> None:
    sizes = {name: {"choice": list(range(1, 41))} for name in ("n_layer", "batch_size", "block_size")}
    spec = space(**sizes, n_head={"choice": [1, 2, 3]})
    started = time.process_time()
    with pytest.raises(UserError, match=r"n_embd \(128\) is not divisible by n_head \(3\)"):
        check(spec, TrainConfig(), YamlFile("spec", {}, {}))
    fine = space(**sizes, n_head={"choice": [1, 2, 4]})
    check(fine, TrainConfig(), YamlFile("spec", {}, {}))
    assert time.process_time() - started < 10  # about 1 s here


def test_first_rung_is_compared_with_epochs_once_the_data_is_known(tmp_path: Path) -> None:
    text = "scheduler: {asha: {first_rung: 2k}}\nspace: {max_tokens: {choice: [1 epoch, 3 epochs]}}\n"
    spec, base, file = read(tmp_path, text)
    check_length(spec, base, 2001, file)
    with pytest.raises(UserError, match=r":4: scheduler.asha.first_rung: 2k tokens exceeds .*\(1.5k\)"):
        check_length(spec, base, 1500, file)


def test_each_tokenizer_is_prepared_once() -> None:
    base = TrainConfig(tokenizer="gpt2")
    assert tokenizers(space(n_layer={"choice": [1]}), base) == ["gpt2"]
    assert tokenizers(space(tokenizer={"choice": ["char", "bpe:512"]}), base) == ["char", "bpe:512"]
    linked = space(text={"choice": [{"tokenizer": "char", "block_size": 256}, {"block_size": 64}]})
    assert tokenizers(linked, base) == ["char", "gpt2"]


def test_parents_come_first_whatever_the_order_of_writing() -> None:
    spec = space(
        dropout={"choice": [0, 0.1], "when": {"n_layer": 2}},
        n_layer={"choice": [1, 2], "when": {"loss": "mse"}},
        loss={"choice": ["mse", "brier"]},
    )
    assert ordered(spec.space) == ["loss", "n_layer", "dropout"]
    found = list(points(spec.space, {name: candidates(name, p) for name, p in spec.space.items()}))
    assert found == [
        {"n_layer": 1, "loss": "mse"},
        {"dropout": 0, "n_layer": 2, "loss": "mse"},
        {"dropout": 0.1, "n_layer": 2, "loss": "mse"},
        {"loss": "brier"},
    ]


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ({"learning_rate": 3.14159e-4, "n_layer": 8, "loss": "squentropy"}, "lr=3.1e-4 L8 squentropy"),
        ({"learning_rate": 0.001, "dropout": 0.0, "weight_decay": 0.1}, "lr=1e-3 dropout=0 wd=0.1"),
        ({"width": {"n_embd": 384, "n_head": 6}, "bias": True}, "D384 H6 bias=True"),
        ({"max_tokens": 2_000_000, "squentropy_lambda": 0.0123456}, "tokens=2M squentropy_lambda=0.0123"),
        ({"max_tokens": "3 epochs", "grad_clip": 12345.0}, "tokens=3 epochs grad_clip=1.2e4"),
    ],
)
def test_a_point_is_readable(point: dict[str, object], words: str) -> None:
    assert readable(point) == words


OWN_RATES = """space:
  loss: {choice: [cross_entropy, squentropy, mse]}
  lr_softmax: {field: learning_rate, log: [1e-4, 1e-2], when: {loss: [cross_entropy, squentropy]}}
  lr_mse: {field: learning_rate, log: [1e-2, 1e-1], when: {loss: mse}}
sampler: tpe
"""


def test_each_loss_may_have_a_learning_rate_of_its_own(tmp_path: Path) -> None:
    spec, base, _ = read(tmp_path, OWN_RATES)
    sampler = Sampler(spec)
    for number in range(12):
        point = sampler.ask(number, Study())
        assert point is not None
        config = configure(base, spec.space, point)
        low, high = (1e-2, 1e-1) if config.loss == "mse" else (1e-4, 1e-2)
        assert low <= config.learning_rate <= high
        assert set(point) == {"loss", "lr_mse" if config.loss == "mse" else "lr_softmax"}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("when: {loss: mse}", "when: {loss: [mse, squentropy]}", r"lr_mse: sets learning_rate, as space.lr_softmax"),
        (", when: {loss: mse}", "", r"lr_mse: sets learning_rate, as space.lr_softmax does"),
        ("lr_mse: {field: learning_rate", "lr_mse: {field: learning_rat", r"lr_mse: unknown parameter; did you mean"),
        ("[1e-2, 1e-1]", "[-1, 1e-1]", r"lr_mse: log: \[-1, 0.1\] touches zero"),
    ],
)
def test_two_parameters_of_one_field_must_exclude_each_other(
    tmp_path: Path, before: str, after: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        read(tmp_path, OWN_RATES.replace(before, after))
