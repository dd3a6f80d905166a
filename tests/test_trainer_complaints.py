"""What a value of the wrong kind is answered with: our words, never pydantic's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from data.errors import UserError
from search.spec.load import load_spec
from search.spec.parameter import Parameter
from search.spec.study_spec import Budget, Finalists, Resources, Scale, StudySpec
from search.stopping.asha import AshaSettings
from search.stopping.median import MedianSettings
from search.stopping.registry import Scheduler
from tests import specs
from tests.refusals import refusal
from trainer.config import TrainConfig
from trainer.provenance import Provenance
from trainer.yaml_file import YamlFile, validate

BASES: dict[type[BaseModel], dict[str, Any]] = {
    TrainConfig: {},
    StudySpec: {"study": "s", "base": "b", "space": {"n_layer": {"choice": [1]}}, "budget": {"trials": 1}},
    Parameter: {},
    Budget: {"trials": 1},
    Finalists: {},
    Resources: {},
    Scale: {},
    Scheduler: {},
    AshaSettings: {"first_rung": 1},
    MedianSettings: {"first_rung": 1},
    Provenance: {"study": "s", "trial": 0},
}
FIELDS = [(model, name) for model in BASES for name in model.model_fields]
JUNK = [
    None,
    True,
    "soon",
    "",
    -1,
    0,
    2.5,
    10**30,
    float("nan"),
    float("inf"),
    [],
    [1, 2, 3],
    ["a"],
    {},
    {"a": 1},
    [{}],
]
PYDANTICS = re.compile(
    r"input should|valid |instance of|should have|unable to|none required|extra inputs|'str'|value error"
)


def answers(model: type[BaseModel], values: dict[str, Any]) -> str:
    """What values are refused with; empty where they are not."""
    try:
        validate(model, YamlFile("f", values, {}))
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("model", "name"), FIELDS, ids=lambda part: getattr(part, "__name__", part))
def test_a_value_of_another_kind_is_answered_in_our_words(model: type[BaseModel], name: str) -> None:
    said = [answers(model, {**BASES[model], name: value}) for value in JUNK]
    assert [line for line in said if PYDANTICS.search(line.lower())] == []
    assert any(said) or name in ("set", "choice", "when", "field", "point", "own_code")


@pytest.mark.parametrize("value", JUNK, ids=repr)
@pytest.mark.parametrize(
    "place", [("space",), ("space", "n_layer"), ("scheduler",), ("scheduler", "asha"), ("scales",)]
)
def test_so_is_one_below_a_key(place: tuple[str, ...], value: Any) -> None:
    spec: Any = value
    for part in reversed(place):
        spec = {part: spec}
    assert not PYDANTICS.search(answers(StudySpec, {**BASES[StudySpec], **spec}).lower())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("budget: 8\nspace: {dropout: [0]}\n", "expected `key: value` pairs, got 8; for example budget: {trials: 64}"),
        ("budget: {trials: 2}\n", "space is missing; for example space: {learning_rate: {log: [0.0001, 0.01]}}"),
        (
            "budget: {trials: 2}\nspace: {dropout: {uniform: [0.1]}}\n",
            "expected at least 2 items, got [0.1]; for example uniform: [0.0, 0.2]",
        ),
        ("budget: {trials: 2}\nspace: {dropout: []}\n", "expected at least 1 item, got []"),
        ("budget: {trials: 2}\nspace: {dropout: {uniform: [true, 1]}}\n", "expected a number, got True"),
        ("budget: {trials: yes}\nspace: {dropout: [0]}\n", "expected a whole number, got 'yes'"),
        (
            "budget: {trials: 2}\nspace: {dropout: [0]}\nscheduler: {median: {}}\n",
            "first_rung is missing; for example first_rung: 1M",
        ),
    ],
)
def test_a_refusal_shows_what_to_write(tmp_path: Path, text: str, problem: str) -> None:
    path = specs.write(tmp_path, text, head="study: s\nbase: base.yaml\n")
    assert str(refusal(lambda: load_spec(path))).endswith(f": {problem}")
