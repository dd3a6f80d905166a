"""Reading configs and specs: strict, and errors that name file, line, key and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import UserError
from trainer import config, lengths, yaml_file
from trainer.config import TrainConfig


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("010", 10), ("1_000", 1000), ("on", "on"), ("true", True), ("2026-01-01", "2026-01-01")],
)
def test_scalars_are_read_as_people_mean_them(text: str, value: object) -> None:
    assert yaml_file.scalar(text) == value


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: 1\na: 2", r"t.yaml:2: a is given twice"),
        ("a: [1,", r"t.yaml:1: not valid YAML"),
        ("- 1", r"expected `key: value` lines, got a list"),
        ("", r"got an empty file"),
        ("a: !!python/object/apply:os.system [true]", r"t.yaml:1: tag .* is not read; plain values only"),
        ("a: &x [1]\nb: *x", r"t.yaml:1: .*anchors and aliases are not read"),
        ("a: " + "[" * 5000, r"nested too deeply|not valid YAML"),
        ("a: \x00", r"not valid YAML"),
        ("a: 1\nb: " + "9" * 5000, r"t.yaml:2: a number of 5000 digits"),  # Python refuses to read it
        ('a: "b\\0c"', r"t.yaml:1: 'b.x00c' is no text that a file can hold"),
        ('a: "\\ud800"', r"t.yaml:1: .* is no text"),  # half of a pair: no file can be written with it
        ('a:\n  "\\ud800": 1', r"t.yaml:2: .* is no text"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(text: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        yaml_file.parse(text, "t.yaml")


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("learning_rte: 1e-3", r"c.yaml:2: learning_rte: unknown key; did you mean learning_rate\?"),
        ("n_layer: 2.5", r"c.yaml:2: n_layer: input should be a valid integer, got 2.5"),
        ("n_layer: true", r"c.yaml:2: n_layer: .*integer, got True"),
        ("dropout: '0.1'", r"c.yaml:2: dropout: .*number, got '0.1'"),
        ("learning_rate: .nan", r"c.yaml:2: learning_rate: .*finite"),
        ("n_embd: 130", r"c.yaml:2: n_embd \(130\) is not divisible by n_head \(4\); try n_embd: 128"),
        ("max_tokens: 12 apples", r"c.yaml:2: max_tokens: expected tokens .* or epochs"),
        ("eval_every: 0", r"c.yaml:2: eval_every: expected a whole number of tokens"),
        ("squentropy_lambda: 1.0", r"c.yaml:2: squentropy_lambda belongs to loss: squentropy, but loss is cross"),
        ("readout: inverse", r"c.yaml:2: readout: inverse does not exist for loss: cross_entropy; allowed: auto"),
        ("loss: hinge", r"c.yaml:2: loss: input should be 'cross_entropy'"),
        ("schedule: wsd\nwarmup_frac: 0.9", r"c.yaml:3: warmup_frac \(0.9\) \+ decay_frac"),
    ],
)
def test_a_bad_config_is_one_line_with_its_place(tmp_path: Path, monkeypatch, line: str, match: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(f"corpus: stories\n{line}\n")
    with pytest.raises(UserError, match=match) as caught:
        config.load(Path("c.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "tokens"), [("500k", 500_000), ("2B", 2 * 10**9), ("1.5M", 1_500_000), (1e6, 10**6), (7, 7)]
)
def test_token_counts_have_units(text: object, tokens: int) -> None:
    assert lengths.parse_tokens(text) == tokens


def test_a_dumped_config_is_read_back_equal(tmp_path: Path) -> None:
    odd = config.replace(
        TrainConfig(), learning_rate=1e-5, max_tokens="7 epochs", loss="squentropy", corpus="text:a:b#c"
    )
    (tmp_path / "c.yaml").write_text(config.dump(odd))
    assert config.load(tmp_path / "c.yaml") == odd


def test_overrides_are_read_like_yaml_and_checked_alike(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("n_layer: 2\n")
    assert config.load(tmp_path / "c.yaml", ["learning_rate=3e-4", "max_tokens=2M"]).max_tokens == 2_000_000
    with pytest.raises(UserError, match=r"unknown key lr"):
        config.load(tmp_path / "c.yaml", ["lr=1"])
    with pytest.raises(UserError, match=r"n_layer.*greater than or equal to 1, got 0"):
        config.load(tmp_path / "c.yaml", ["n_layer=0"])


def test_a_binary_file_is_not_a_config(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        config.load(tmp_path / "c.yaml")
