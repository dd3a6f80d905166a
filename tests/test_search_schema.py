"""The JSON Schema of the spec: it is current, takes what we take, and refuses the plainest mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from search.spec.load import load_spec
from search.spec.schema import schema
from tests.specs import write
from trainer import yaml_file

ROOT = Path(__file__).resolve().parent.parent
SPECS = ROOT / "search" / "specs"
FULL = """
set: {dropout: 0.1, max_tokens: 2M}
space:
  learning_rate: {log: [1e-4, 1e-2]}
  batch_size: {log: [2, 64]}
  n_layer: {choice: [8, 12]}
  width: {choice: [{n_embd: 384, n_head: 6}, {n_embd: 512, n_head: 8}]}
  loss: {choice: [cross_entropy, squentropy]}
  squentropy_lambda: {log: [1e-3, 1], when: {loss: squentropy}}
sampler: tpe
scheduler: {asha: {first_rung: 1M, factor: 4}}
objective: val_perplexity
resources: {gpus: 0.25, cpus: 2}
storage: ./runs
seed: 1337
"""


def validate(value: Any) -> None:
    jsonschema.Draft202012Validator(schema()).validate(value)


def test_the_file_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "search.spec.schema"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (SPECS / "spec.schema.json").read_text() == done.stdout, (
        "run: python -m search.spec.schema > search/specs/spec.schema.json"
    )


def test_it_is_a_schema_and_takes_a_full_spec(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    path = write(tmp_path, FULL)
    load_spec(path)
    validate(yaml_file.read(path).value)


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.name)
def test_it_takes_every_spec_that_we_ship(path: Path) -> None:
    validate(yaml_file.read(path).value)


@pytest.mark.parametrize(
    "words",
    [{"scheduler": "none"}, {"resources": "auto"}, {"budget": {"tokens": "2B"}}, {"space": {"n_layer": [1, 2]}}],
)
def test_it_takes_words(tmp_path: Path, words: dict[str, Any]) -> None:
    validate({**yaml_file.read(write(tmp_path, FULL)).value, **words})


@pytest.mark.parametrize(
    "wrong",
    [
        {"spce": {}},
        {"sampler": "bayes"},
        {"scheduler": "asha"},
        {"budget": {"trails": 3}},
        {"set": {"n_layers": 3}},
        {"set": {"dropout": 2}},
        {"space": {}},
        {"space": {"loss": {"choice": ["squentropi"]}}},
        {"space": {"learning_rate": {"log": [1e-4, 1e-2], "choice": [1]}}},
        {"space": {"learning_rate": []}},
        {"space": {"dropout": [0, 2]}},
    ],
)
def test_it_refuses_plain_mistakes(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate({**yaml_file.read(write(tmp_path, FULL)).value, **wrong})


def test_it_completes_with_the_reason_of_a_field() -> None:
    assert "peak" in json.dumps(schema()["properties"]["space"]["properties"]["learning_rate"])
    assert "corpus" not in schema()["properties"]["space"]["properties"]
