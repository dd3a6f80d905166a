"""One precision for all trials of a study on CPUs, decided once and recorded."""

from __future__ import annotations

import json
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.results import export
from search.run.prepare import Prepared, prepare
from search.run.resources import Share
from search.run.settle_dtype import settle
from search.spec.load import load_spec
from search.study import header
from search.study.ledger import Ledger
from search.study.study import Study
from search.study.study_record import Header, read_header
from tests import journals, tiny
from trainer.config import TrainConfig

SPEC = """
study: shapes
base: base.yaml
space:
  shape: {choice: [{n_embd: 64, n_head: 2}, {n_embd: 128, n_head: 4}, {n_embd: 96, n_head: 2}]}
sampler: random
scheduler: none
budget: {trials: 2}
"""
CPU = Share(1.0, 0.0, 2)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tmp_path / "cache"))
    config = tiny.config().model_dump(mode="json", exclude_none=True)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "spec.yaml").write_text(f"{SPEC}storage: {tmp_path / 'runs'}\n")
    return load_spec(tmp_path / "spec.yaml")


@pytest.fixture
def prepared(files: Any) -> Prepared:
    return prepare(*files, Study())


def recorded(prepared: Prepared) -> Header:
    """The header that a driver writes."""
    fields = header.fields(prepared.spec, prepared.base, prepared.data, [])
    return read_header({"record": "study", "time": 0, **fields, "precision": dict(prepared.precision)})


def test_the_widest_shape_is_measured_and_all_trials_have_the_result(
    prepared: Prepared, files: Any, tmp_path: Path
) -> None:
    settled = settle(prepared, CPU, Header(), elsewhere=False)
    assert settled.base.dtype == settled.precision["dtype"] in ("float32", "bfloat16")
    assert settled.precision["speedup"] > 0
    (kept,) = (tmp_path / "cache" / "precision").iterdir()
    # another driver, on a machine that decides otherwise: what the journal says stands, and the spec is the same
    other = {"float32": "bfloat16", "bfloat16": "float32"}[settled.base.dtype]
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "dtype": other}))
    again = settle(prepared, CPU, recorded(settled), elsewhere=False)
    assert (again.base, again.precision) == (settled.base, settled.precision)
    header.check_same(files[0], files[1], recorded(settled))
    assert settle(prepared, CPU, Header(), elsewhere=False).base.dtype == other


def test_trials_on_gpus_and_a_precision_of_the_spec_are_left_alone(prepared: Prepared) -> None:
    assert settle(prepared, Share(1.0, 1.0, 1), Header(), elsewhere=False) is prepared
    said = changed(prepared, base=prepared.base.model_copy(update={"dtype": "bfloat16"}))
    assert settle(said, CPU, Header(), elsewhere=False) is said
    # begun by a release that left it to each worker: it stays so
    earlier = settle(prepared, CPU, recorded(prepared), elsewhere=False)
    assert (earlier.base.dtype, dict(earlier.precision)) == ("auto", {})


def test_an_export_says_what_auto_was_and_leaves_the_choice_to_the_full_run(tmp_path: Path) -> None:
    precision = {"dtype": "bfloat16", "speedup": 1.31, "machine": "a CPU"}
    ledger = Ledger(tmp_path / "study")
    base = TrainConfig(max_tokens=journals.LENGTH, dtype="bfloat16").model_dump()
    ledger.write("study", **journals.header(base=base, precision=precision))
    journals.complete(ledger, 0, 5.0, learning_rate=1e-3, dtype="bfloat16")
    exported = yaml.safe_load(export.text(ledger.study))
    assert exported["dtype"] == "auto"
    assert exported["provenance"]["dtype"] == "bfloat16"
