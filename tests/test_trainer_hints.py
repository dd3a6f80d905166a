"""Words of neighbouring tools: each is answered with ours where ours is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search.spec.load import load_spec
from search.spec.parameter import Parameter
from search.spec.study_spec import Budget, Finalists, Resources, StudySpec
from search.stopping.asha import AshaSettings
from search.stopping.median import MedianSettings
from search.stopping.registry import RULES
from tests import specs
from tests.refusals import refusal
from trainer import config
from trainer.config import TrainConfig
from trainer.hints import WORDS, hint, near

MODELS = (TrainConfig, StudySpec, Parameter, Budget, Finalists, Resources, AshaSettings, MedianSettings)
ROOMS = [frozenset(model.model_fields) for model in MODELS] + [frozenset(RULES)]
PAIRS = [(ours, theirs) for ours, words in WORDS.items() for theirs in words]


def enums(schema: Any) -> Iterator[frozenset[str]]:
    """The words of each key that takes one of a few."""
    if isinstance(schema, dict):
        if "enum" in schema:
            yield frozenset(schema["enum"])
        schema = list(schema.values())
    for part in schema if isinstance(schema, list) else []:
        yield from enums(part)


VALUES = [words for model in (TrainConfig, StudySpec) for words in enums(model.model_json_schema())]


@pytest.mark.parametrize("ours", WORDS)
def test_every_answer_is_a_word_of_ours(ours: str) -> None:
    assert any(ours in room for room in [*ROOMS, *VALUES])


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_every_word_of_theirs_is_answered_with_ours_wherever_ours_is_allowed(ours: str, theirs: str) -> None:
    for room in [*ROOMS, *VALUES]:
        if ours in room and theirs not in room:
            assert near(theirs, room).startswith(f"did you mean {ours}?"), room


def test_no_word_has_two_answers_in_one_place() -> None:
    for room in [*ROOMS, *VALUES]:
        words = [theirs for ours in room & WORDS.keys() for theirs in WORDS[ours]]
        assert len(words) == len(set(words)), sorted(word for word in words if words.count(word) > 1)


def test_a_word_is_read_as_people_write_it() -> None:
    assert near("Weight-Decay", TrainConfig.model_fields) == near("weight_decay", TrainConfig.model_fields)
    assert near("TPESampler", ["grid", "random", "tpe", "gp"]) == "did you mean tpe?"
    assert hint("quite_other", ["b", "a"]) == "allowed: a, b"


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("lr: 1e-3", "did you mean learning_rate?"),
        ("epochs: 7", "did you mean max_tokens? (max_tokens: 7 epochs)"),
        ("max_iters: 600", "did you mean max_tokens? (in tokens)"),
        ("min_lr: 1e-4", "did you mean min_lr_frac? (a fraction of learning_rate)"),
    ],
)
def test_a_config_is_answered(tmp_path: Path, key: str, answer: str) -> None:
    (tmp_path / "c.yaml").write_text(f"{key}\n")
    assert str(refusal(lambda: config.load(tmp_path / "c.yaml"))).endswith(f"unknown key; {answer}")
    override = key.replace(": ", "=")
    (tmp_path / "c.yaml").write_text("n_layer: 1\n")
    assert str(refusal(lambda: config.load(tmp_path / "c.yaml", [override]))).endswith(answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("space: {lr: {log: [1e-4, 1e-2]}}", "unknown parameter; did you mean learning_rate?"),
        ("space: {learning_rate: {loguniform: [1e-4, 1e-2]}}", "unknown key; did you mean log?"),
        ("space: {n_layer: {int: [8, 32]}}", "did you mean uniform? (uniform: [low, high] is whole where its key is)"),
        ("space: {n_layer: {values: [8, 32]}}", "unknown key; did you mean choice?"),
        ("space: {dropout: {min: 0, max: 0.2}}", "did you mean uniform? (uniform: [low, high])"),
        ("parameters: {dropout: [0, 0.1]}", "unknown key; did you mean space?"),
        ("sampler: bayes\nspace: {dropout: [0, 0.1]}", "did you mean tpe?"),
        ("scheduler: {asha: {grace_period: 10}}\nspace: {dropout: [0]}", "did you mean first_rung? (in tokens)"),
        ("scheduler: hyperband\nspace: {dropout: [0]}", "expected none or {asha: {first_rung: 1M}}"),
        ("num_samples: 10\nspace: {dropout: [0]}", "did you mean budget? (budget: {trials: 64})"),
    ],
)
def test_a_spec_is_answered(tmp_path: Path, text: str, answer: str) -> None:
    assert answer in str(refusal(lambda: specs.read(tmp_path, f"{text}\n")))


def test_a_plain_list_is_a_choice(tmp_path: Path) -> None:
    text = "space: {n_layer: [1, 2], width: [{n_embd: 64, n_head: 2}, {n_embd: 96, n_head: 3}]}\n"
    spec, _, _ = specs.read(tmp_path, text)
    assert spec.space["n_layer"] == Parameter(choice=[1, 2])
    assert spec.space["width"].linked
    assert load_spec(specs.write(tmp_path, spec_text(spec)))[0].space == spec.space


def spec_text(spec: StudySpec) -> str:
    """The space of a spec as its folder's spec.yaml has it."""
    import yaml

    return yaml.safe_dump({"space": spec.model_dump(mode="json", exclude_unset=True)["space"]})
