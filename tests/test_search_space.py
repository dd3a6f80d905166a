"""Spec and base together: from a point to a config, and the one line that answers each mistake."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from search.spec.check import check, check_length
from search.spec.points import candidates, ordered, points
from search.spec.space import configure, readable, tokenizers
from search.strategy.sampler import Sampler
from search.study.study import Study
from tests.refusals import key_refusal, place
from tests.specs import BASE, read, space
from trainer.config import TrainConfig
from trainer.yaml_file import YamlFile

LOSSES = "  loss: {choice: [squentropy, cross_entropy]}\n"
LAMBDA = "  squentropy_lambda: {log: [1e-3, 1]%s}\n"


@pytest.mark.parametrize(
    ("text", "where", "kind", "keys"),
    [
        ("  learning_rat: {log: [1e-4, 1e-2]}\n", "5: space.learning_rat", "unknown", ("learning_rat",)),
        (
            "  learning_rate: {uniform: [-1, 1]}\n",
            "5: space.learning_rate.uniform[0]",
            "greater_than",
            ("learning_rate",),
        ),
        ("  dropout: {uniform: [0, 1]}\n", "5: space.dropout.uniform[1]", "less_than", ("dropout",)),
        ("  dropout: {choice: [0, high]}\n", "5: space.dropout.choice[1]", "float_type", ("dropout",)),
        ("  dropout:\n    choice:\n      - 0\n      - 2\n", "8: space.dropout.choice[1]", "less_than", ("dropout",)),
        ("  dropout: {choice: [0, 0.0]}\n", "5: space.dropout.choice[1]", "twice", ("dropout",)),
        ("  max_tokens: {choice: [1M, 1000000]}\n", "5: space.max_tokens.choice[1]", "twice", ("max_tokens",)),
        ("  max_tokens: {choice: [1M, 3 miles]}\n", "5: space.max_tokens.choice[1]", "value_error", ("max_tokens",)),
        ("  n_layer: {log: [1, 2.5]}\n", "5: space.n_layer.log[1]", "not_whole", ("n_layer",)),
        ("  n_layer: {uniform: [0, 4]}\n", "5: space.n_layer.uniform[0]", "greater_than_equal", ("n_layer",)),
        ("  n_layer: {choice: [1, 2.0]}\n", "5: space.n_layer.choice[1]", "int_type", ("n_layer",)),
        ("  bias: {choice: [1, false]}\n", "5: space.bias.choice[0]", "bool_type", ("bias",)),
        ("  bias: {uniform: [0, 1]}\n", "5: space.bias.uniform", "no_range", ("bias",)),
        ("  loss: {log: [1, 8]}\n", "5: space.loss.log", "no_range", ("loss",)),
        ("  loss: {choice: [squentropi]}\n", "5: space.loss.choice[0]", "unknown", ("loss",)),
        ("  n_embd: {log: [64, 128]}\n", "5: space.n_embd.log", "no_range", ("n_embd", "n_head")),
        ("  n_embd: {choice: [128, 130]}\n", "5: space.n_embd", "conflict", ("n_embd", "n_head")),
        ("  n_head: {choice: [2, 3]}\n", "5: space.n_head", "conflict", ("n_embd", "n_head")),
        (
            "  width:\n    choice:\n      - {n_embd: 128, n_head: 4}\n      - {n_embd: 99, n_head: 4}\n",
            "5: space.width",
            "conflict",
            ("n_embd", "n_head"),
        ),
        (
            "  width:\n    choice:\n      - {n_embd: 128, n_head: 4}\n      - {n_embd: 64, n_heads: 4}\n",
            "8: space.width.choice[1].n_heads",
            "unknown",
            ("n_heads",),
        ),
        (
            "  width:\n    choice:\n      - {n_embd: 128, n_head: 4}\n      - {n_embd: big, n_head: 4}\n",
            "8: space.width.choice[1].n_embd",
            "int_type",
            ("n_embd",),
        ),
        ("  width: {choice: [{n_head: 4}, {}]}\n", "5: space.width.choice[1]", "empty", ("width",)),
        (
            "  n_layer: {choice: [1, 2]}\n  deep: {choice: [{n_layer: 3}]}\n",
            "6: space.deep",
            "conflict",
            ("deep", "n_layer"),
        ),
        ("  corpus: {choice: [stories, shakespeare]}\n", "5: space.corpus", "not_searched", ("corpus",)),
        ("  split: {choice: [documents, nanogpt]}\n", "5: space.split", "not_searched", ("split",)),
        ("  eval_tokens: {choice: [1k, 2k]}\n", "5: space.eval_tokens", "not_searched", ("eval_tokens",)),
        ("  seed: {choice: [1, 2]}\n", "5: space.seed", "not_searched", ("seed",)),
        ("  tokenizer: {choice: [char, 'bpe:512']}\n", "5: space.tokenizer", "conflict", ("objective", "tokenizer")),
        # when
        (
            "  dropout: {choice: [0], when: {n_layer: 2}}\n",
            "5: space.dropout.when.n_layer",
            "not_searched",
            ("n_layer",),
        ),
        (
            "  dropout: {choice: [0], when: {nlayer: 2}}\n  n_layer: {choice: [1, 2]}\n",
            "5: space.dropout.when.nlayer",
            "unknown",
            ("nlayer",),
        ),
        (
            "  dropout: {choice: [0], when: {n_layer: [1, 3]}}\n  n_layer: {choice: [1, 2]}\n",
            "5: space.dropout.when.n_layer",
            "never",
            ("n_layer",),
        ),
        (
            "  dropout: {choice: [0], when: {learning_rate: 2}}\n  learning_rate: {log: [1e-4, 1e-2]}\n",
            "5: space.dropout.when.learning_rate",
            "no_choice",
            ("learning_rate",),
        ),
        (
            "  dropout: {choice: [0], when: {n_layer: 2}}\n  n_layer: {choice: [1, 2], when: {dropout: 0}}\n",
            "4: space",
            "circle",
            ("space",),
        ),
        # a loss parameter and its loss
        (LAMBDA % "", "5: space.squentropy_lambda", "unused", ("squentropy_lambda", "loss")),
        (LOSSES + LAMBDA % "", "6: space.squentropy_lambda", "unused", ("squentropy_lambda", "loss")),
        (
            LOSSES + LAMBDA % ", when: {loss: [squentropy, cross_entropy]}",
            "6: space.squentropy_lambda",
            "unused",
            ("squentropy_lambda", "loss"),
        ),
        (
            "  loss: {choice: [mse, brier]}\n" + LAMBDA % ", when: {loss: squentropy}",
            "6: space.squentropy_lambda.when.loss",
            "never",
            ("loss",),
        ),
        (
            "  kind: {choice: [{loss: mse, squentropy_lambda: 0.1}]}\n",
            "5: space.kind",
            "unused",
            ("squentropy_lambda", "loss"),
        ),
    ],
)
def test_a_mistake_is_refused_with_its_place(
    tmp_path: Path, text: str, where: str, kind: str, keys: tuple[str, ...]
) -> None:
    error = key_refusal(lambda: read(tmp_path, "space:\n" + text))
    assert (place(error), error.kind, error.keys) == (where, kind, keys)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("  learning_rat: {log: [1e-4, 1e-2]}\n", "unknown parameter; did you mean learning_rate?"),
        ("  dropout: {choice: [0, high]}\n", "expected a number, got 'high'"),
        ("  dropout: {choice: [0, 0.0]}\n", "0.0 is given twice; keep one"),
        ("  n_layer: {log: [1, 2.5]}\n", "n_layer takes whole numbers, got 2.5"),
        ("  bias: {uniform: [0, 1]}\n", "bias takes no numbers, so it has no range; use choice"),
        ("  n_embd: {log: [64, 128]}\n", "n_embd must be divisible by n_head, not so in a range; use choice"),
        (
            "  width: {choice: [{n_embd: 128, n_head: 4}, {n_embd: 99, n_head: 4}]}\n",
            "n_embd (99) is not divisible by n_head (4); try n_embd: 100, or n_head: 3 or 9 (at D99 H4)",
        ),
        ("  width: {choice: [{n_head: 4}, {}]}\n", "an empty mapping; name the parameters that go together"),
        (
            "  n_layer: {choice: [1, 2]}\n  deep: {choice: [{n_layer: 3}]}\n",
            "sets n_layer, as space.n_layer does; keep one of them, or let each exist where the other does not (when)",
        ),
        (
            "  seed: {choice: [1, 2]}\n",
            "seed cannot be searched: the luckiest seed would win; leave it out and train the best trials again with "
            "fresh seeds",
        ),
        (
            "  tokenizer: {choice: [char, 'bpe:512']}\n",
            "val_perplexity counts each tokenizer's own tokens, so it cannot compare tokenizers; use objective: "
            "val_bits_per_byte",
        ),
        (
            "  dropout: {choice: [0], when: {n_layer: 2}}\n",
            "n_layer is not searched, so it cannot decide; search it or drop the `when`",
        ),
        (
            "  dropout: {choice: [0], when: {nlayer: 2}}\n  n_layer: {choice: [1, 2]}\n",
            "no such parameter in the space; did you mean n_layer?",
        ),
        (
            "  dropout: {choice: [0], when: {n_layer: [1, 3]}}\n  n_layer: {choice: [1, 2]}\n",
            "n_layer is never 3; its choice is [1, 2]",
        ),
        (
            "  dropout: {choice: [0], when: {learning_rate: 2}}\n  learning_rate: {log: [1e-4, 1e-2]}\n",
            "learning_rate is a range; `when` needs a parent with a choice",
        ),
        (
            "  dropout: {choice: [0], when: {n_layer: 2}}\n  n_layer: {choice: [1, 2], when: {dropout: 0}}\n",
            "`when` goes in a circle: dropout -> n_layer -> dropout",
        ),
        ("  dropout: {uniform: [0, 0.5]}\nsampler: grid\n", "a grid has no points in a range; use choice: [...]"),
        (
            "  dropout: {uniform: [0, 0.5]}\nscheduler: {asha: {first_rung: 4M}}\n",
            "4M tokens exceeds a trial's max_tokens (2M): no trial could be stopped early; lower first_rung or raise "
            "max_tokens",
        ),
    ],
)
def test_what_each_refusal_says(tmp_path: Path, text: str, problem: str) -> None:
    error = key_refusal(lambda: read(tmp_path, "space:\n" + text))
    assert error.problem == problem
    assert str(error) == f"{tmp_path / 'spec.yaml'}:{place(error)}: {problem}"


@pytest.mark.parametrize(
    ("text", "base", "where", "kind", "keys"),
    [
        ("set: {n_layer: 3}\nspace: {n_layer: {choice: [1]}}\n", BASE, "4: set.n_layer", "conflict", ("n_layer",)),
        (
            "sampler: grid\nspace: {dropout: {uniform: [0, 0.5]}}\n",
            BASE,
            "5: space.dropout.uniform",
            "no_range",
            ("dropout", "sampler"),
        ),
        (
            "scheduler:\n  asha:\n    first_rung: 4M\nspace: {n_layer: {choice: [1]}}\n",
            BASE,
            "6: scheduler.asha.first_rung",
            "conflict",
            ("first_rung", "max_tokens"),
        ),
        (
            "scheduler: {asha: {first_rung: 1M}}\nspace: {max_tokens: {choice: [4M, 1M]}}\n",
            BASE,
            "4: scheduler.asha.first_rung",
            "conflict",
            ("first_rung", "max_tokens"),
        ),
        (
            "space:\n" + LOSSES,
            BASE + "loss: squentropy\nreadout: inverse\n",
            "5: space.loss",
            "conflict",
            ("readout", "loss"),
        ),
        (
            "space: {warmup_frac: {uniform: [0, 1]}}\n",
            BASE + "schedule: wsd\n",
            "4: space.warmup_frac",
            "conflict",
            ("warmup_frac", "decay_frac"),
        ),
    ],
)
def test_a_mistake_between_keys_is_refused_with_its_place(
    tmp_path: Path, text: str, base: str, where: str, kind: str, keys: tuple[str, ...]
) -> None:
    error = key_refusal(lambda: read(tmp_path, text, base))
    assert (place(error), error.kind, error.keys) == (where, kind, keys)


def test_an_override_of_a_searched_parameter_is_answered(tmp_path: Path) -> None:
    error = key_refusal(lambda: read(tmp_path, "space: {n_layer: {choice: [1]}}\n", overrides=["n_layer=3"]))
    assert (error.line, error.place, error.kind, error.keys) == (None, ("set", "n_layer"), "conflict", ("n_layer",))
    where = f"{tmp_path / 'spec.yaml'}:4: space.n_layer"
    assert str(error) == f"--set n_layer=3: n_layer is searched too ({where}); remove one of them"


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
    error = key_refusal(lambda: check(spec, TrainConfig(), YamlFile("spec", {}, {})))
    assert (error.kind, error.keys) == ("conflict", ("n_embd", "n_head"))
    assert error.problem.startswith("n_embd (128) is not divisible by n_head (3)")
    fine = space(**sizes, n_head={"choice": [1, 2, 4]})
    check(fine, TrainConfig(), YamlFile("spec", {}, {}))
    assert time.process_time() - started < 10  # about 1 s here


def test_first_rung_is_compared_with_epochs_once_the_data_is_known(tmp_path: Path) -> None:
    text = "scheduler: {asha: {first_rung: 2k}}\nspace: {max_tokens: {choice: [1 epoch, 3 epochs]}}\n"
    spec, base, file = read(tmp_path, text)
    check_length(spec, base, 2001, file)
    error = key_refusal(lambda: check_length(spec, base, 1500, file))
    assert (place(error), error.kind) == ("4: scheduler.asha.first_rung", "conflict")
    assert error.keys == ("first_rung", "max_tokens")


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
    sampler = Sampler(spec, base)
    for number in range(12):
        point = sampler.ask(number, Study())
        assert point is not None
        config = configure(base, spec.space, point)
        low, high = (1e-2, 1e-1) if config.loss == "mse" else (1e-4, 1e-2)
        assert low <= config.learning_rate <= high
        assert set(point) == {"loss", "lr_mse" if config.loss == "mse" else "lr_softmax"}


@pytest.mark.parametrize(
    ("before", "after", "kind", "keys"),
    [
        ("when: {loss: mse}", "when: {loss: [mse, squentropy]}", "conflict", ("lr_mse", "lr_softmax")),
        (", when: {loss: mse}", "", "conflict", ("lr_mse", "lr_softmax")),
        ("lr_mse: {field: learning_rate", "lr_mse: {field: learning_rat", "unknown", ("learning_rat",)),
        ("[1e-2, 1e-1]", "[-1, 1e-1]", "not_positive", ("space",)),
    ],
)
def test_two_parameters_of_one_field_must_exclude_each_other(
    tmp_path: Path, before: str, after: str, kind: str, keys: tuple[str, ...]
) -> None:
    error = key_refusal(lambda: read(tmp_path, OWN_RATES.replace(before, after)))
    assert (error.place, error.kind, error.keys) == (("space", "lr_mse"), kind, keys)
