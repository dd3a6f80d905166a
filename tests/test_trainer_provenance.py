"""The block `provenance:` of an exported config: read back as written, and taken for nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.refusals import key_refusal, place, refusal
from trainer import config, provenance, yaml_file
from trainer.provenance import Provenance

# as an earlier release exported it
COMMENTS = """\
# nanosweep: best of study quick, trial 7 (lr=1e-3); 26k parameters
# objective: val_perplexity 8.03 on the full validation split, after 400,000 tokens
# commit: 0123456789abcdef
# data: stories:120, hash abc123
#
# train it longer:  nanosweep train THIS_FILE --set max_tokens=100M

"""
WHOLE = Provenance(
    study="quick",
    trial=7,
    name="lr=1e-3 ☃",
    point={"learning_rate": 1e-5, "width": {"n_embd": 384, "n_head": 6}, "init_from": None, "loss": "mse"},
    objective="val_perplexity",
    value=4.25,
    how_sure="one seed: another may place it elsewhere",
    data_hash="abc123",
    dirty=False,
)


def written(folder: Path, head: str) -> Path:
    path = folder / "best.yaml"
    path.write_text(head + config.dump(tiny.config()), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"study": "1e3", "commit": "1234567e10", "data_hash": "007", "corpus": "true"},
        {"study": "a: b # c", "name": "x\nlearning_rate: 99", "how_sure": "'\"\\ \u2028 😀 null"},
        {"name": "- no\n", "status": "~", "trained": "2026-01-02 03:04:05 UTC", "corpus": ".5"},
    ],
)
def test_a_block_is_read_back_as_it_was_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    one = WHOLE.model_copy(update=changes)
    path = written(tmp_path, provenance.dump(one))
    assert provenance.read(path) == one
    assert config.load(path) == tiny.config()


def test_the_block_is_read_and_not_the_comments_above_it(tmp_path: Path) -> None:
    path = written(tmp_path, COMMENTS + provenance.dump(WHOLE.model_copy(update={"study": "other"})))
    source = provenance.read(path)
    assert source is not None
    assert source.study == "other"


def test_what_an_earlier_release_exported_still_comes_from_its_study(tmp_path: Path) -> None:
    path = written(tmp_path, COMMENTS)
    assert provenance.read(path) == Provenance(study="quick", trial=7, corpus="stories:120", data_hash="abc123")
    assert provenance.facts(path)[1].startswith("objective: val_perplexity 8.03")
    assert config.load(path) == tiny.config()


def test_a_config_of_no_study_has_none(tmp_path: Path) -> None:
    path = written(tmp_path, "# mine: study quick, trial 3 (best)\n")
    assert provenance.read(path) is None
    assert provenance.facts(path) == []


@pytest.mark.parametrize(
    ("block", "where", "kind"),
    [
        ("provenance: quick\n", "1: provenance", "model_type"),
        ("provenance:\n  study: quick\n", "1: provenance", "missing"),
        ("provenance:\n  study: quick\n  trial: seven\n", "3: provenance.trial", "int_type"),
        ("provenance:\n  study: quick\n  trial: 7\n  studdy: x\n", "4: provenance.studdy", "extra_forbidden"),
    ],
)
def test_a_damaged_block_is_refused_with_its_place(tmp_path: Path, block: str, where: str, kind: str) -> None:
    path = written(tmp_path, block)
    for error in (key_refusal(lambda: provenance.read(path)), key_refusal(lambda: config.load(path))):
        assert (place(error), error.kind) == (where, kind)
        assert error.problem.endswith("; export the config again, or remove its block provenance")


def test_the_block_is_no_key_of_a_config(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    error = refusal(lambda: config.load(path, ["provenance=1"]))
    assert (error.kind, error.keys) == ("unknown", ("provenance",))
    assert yaml_file.read(path).value.keys() == config.load(path).model_dump(exclude_none=True).keys()


def test_what_was_edited_since_the_export_is_known_by_key(tmp_path: Path) -> None:
    exported = WHOLE.model_copy(update={"config": config.plain(tiny.config())})
    path = written(tmp_path, provenance.dump(exported))
    assert provenance.edits(path) == {}
    assert provenance.describe_edits(path) == ""
    text = path.read_text().replace("\nseed: 1337\n", "\nearly_stop: 3\n").replace("\nn_layer: 2\n", "\nn_layer: 3\n")
    path.write_text(text)
    assert provenance.edits(path) == {"n_layer": (2, 3), "seed": (1337, None), "early_stop": (None, 3)}
    assert "n_layer 3 (exported: 2)" in provenance.describe_edits(path)
    assert provenance.edits(written(tmp_path, provenance.dump(WHOLE))) == {}  # an export that did not record it
    assert provenance.edits(written(tmp_path, COMMENTS)) == {}
