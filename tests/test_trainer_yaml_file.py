"""Reading configs and specs: strict, and errors that name file, line, key and what to do."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tests.refusals import facts, refusal
from trainer import config, lengths, yaml_file
from trainer.config import TrainConfig
from trainer.yaml_file import RefusedError


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("010", 10), ("1_000", 1000), ("on", "on"), ("true", True), ("2026-01-01", "2026-01-01")],
)
def test_scalars_are_read_as_people_mean_them(text: str, value: object) -> None:
    assert yaml_file.scalar(text) == value


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        ("a: 1\na: 2", "twice", 2),
        ("a: [1,", "yaml", 1),
        ("- 1", "yaml", None),
        ("", "yaml", None),
        ("a: !!python/object/apply:os.system [true]", "tag", 1),
        ("a: &x [1]\nb: *x", "yaml", 1),
        ("a: " + "[" * 5000, "yaml", None),
        ("a: \x00", "yaml", None),
        ("a: 1\nb: " + "9" * 5000, "digits", 2),  # Python refuses to read it
        ('a: "b\\0c"', "text", 1),
        ('a: "\\ud800"', "text", 1),  # half of a pair: no file can be written with it
        ('a:\n  "\\ud800": 1', "text", 2),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(text: str, kind: str, line: int | None) -> None:
    error = refusal(lambda: yaml_file.parse(text, "t.yaml"))
    assert (error.kind, error.line) == (kind, line)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "t.yaml:2: a is given twice; keep one"),
        ("a: [1,", "t.yaml:1: not valid YAML: expected the node content, but found '<stream end>'"),
        ("- 1", "t.yaml: expected `key: value` lines, got a list"),
        ("", "t.yaml: expected `key: value` lines, got an empty file"),
        ("a: !x 1", "t.yaml:1: tag !x is not read; plain values only"),
        ("a: &x [1]\nb: *x", "t.yaml:1: not valid YAML: anchors and aliases are not read"),
        ("a: " + "[" * 5000, "t.yaml: nested too deeply"),
        ("a: 1\nb: " + "9" * 5000, "t.yaml:2: a number of 5000 digits is none of ours"),
        ('a: "b\\0c"', r"t.yaml:1: 'b\x00c' is no text that a file can hold"),
    ],
)
def test_what_a_refusal_of_yaml_says(text: str, message: str) -> None:
    assert str(refusal(lambda: yaml_file.parse(text, "t.yaml"))) == message


@pytest.mark.parametrize(
    ("text", "line", "kind", "keys"),
    [
        ("learning_rte: 1e-3", 2, "extra_forbidden", ("learning_rte",)),
        ("n_layer: 2.5", 2, "int_type", ("n_layer",)),
        ("n_layer: true", 2, "int_type", ("n_layer",)),
        ("dropout: '0.1'", 2, "float_type", ("dropout",)),
        ("learning_rate: .nan", 2, "finite_number", ("learning_rate",)),
        ("n_embd: 130", 2, "conflict", ("n_embd", "n_head")),
        ("max_tokens: 12 apples", 2, "value_error", ("max_tokens",)),
        ("eval_every: 0", 2, "value_error", ("eval_every",)),
        ("squentropy_lambda: 1.0", 2, "unused", ("squentropy_lambda", "loss")),
        ("readout: inverse", 2, "conflict", ("readout", "loss")),
        ("loss: hinge", 2, "unknown", ("loss",)),
        ("schedule: wsd\nwarmup_frac: 0.9", 3, "conflict", ("warmup_frac", "decay_frac")),
    ],
)
def test_a_bad_config_is_refused_with_its_place(
    tmp_path: Path, text: str, line: int, kind: str, keys: tuple[str, ...]
) -> None:
    (tmp_path / "c.yaml").write_text(f"corpus: stories\n{text}\n")
    assert facts(refusal(lambda: config.load(tmp_path / "c.yaml"))) == (kind, keys, line)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rte: 1e-3", "c.yaml:2: learning_rte: unknown key; did you mean learning_rate?"),
        ("n_layer: 2.5", "c.yaml:2: n_layer: expected a whole number, got 2.5"),
        ("n_layer: 2.5\ndropout: 7", "c.yaml:2: n_layer: expected a whole number, got 2.5 (and 1 more)"),
        ("n_embd: 130", "c.yaml:2: n_embd (130) is not divisible by n_head (4); try n_embd: 128, or n_head: 2 or 5"),
        (
            "max_tokens: 12 apples",
            "c.yaml:2: max_tokens: expected tokens (500k, 20M, 2B) or epochs (`7 epochs`), got '12 apples'",
        ),
        ("eval_every: 0", "c.yaml:2: eval_every: expected a whole number of tokens from 1 to 1e16, got 0"),
        (
            "squentropy_lambda: 1.0",
            "c.yaml:2: squentropy_lambda belongs to loss: squentropy, but loss is cross_entropy; remove one of them",
        ),
        (
            "readout: inverse",
            "c.yaml:2: readout: inverse does not exist for loss: cross_entropy; allowed: auto, softmax",
        ),
        ("schedule: wsd\nwarmup_frac: 0.9", "c.yaml:3: warmup_frac (0.9) + decay_frac (0.2) exceed 1"),
    ],
)
def test_what_a_refusal_of_a_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(f"corpus: stories\n{text}\n")
    assert str(refusal(lambda: config.load(Path("c.yaml")))) == message


def test_a_refusal_comes_whole_from_another_process(tmp_path: Path) -> None:
    """Ray sends exceptions pickled."""
    (tmp_path / "c.yaml").write_text("n_embd: 130\n")
    error = refusal(lambda: config.load(tmp_path / "c.yaml"))
    assert isinstance(error, RefusedError)
    sent = pickle.loads(pickle.dumps(error))
    assert isinstance(sent, RefusedError)
    assert (str(sent), facts(sent), sent.place, sent.problem) == (str(error), facts(error), error.place, error.problem)


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
    error = refusal(lambda: config.load(tmp_path / "c.yaml", ["lr=1"]))
    assert facts(error) == ("unknown", ("lr",), None)
    assert str(error).startswith("--set lr=1: unknown key lr; ")
    error = refusal(lambda: config.load(tmp_path / "c.yaml", ["n_layer=0"]))
    assert (error.kind, error.keys) == ("greater_than_equal", ("n_layer",))


@pytest.mark.parametrize(
    "value",
    [
        "text:my #1.txt",
        "text:a: b",
        '"text:quoted"',
        "'text:x'",
        "- x",
        "-x",
        "null",
        "true",
        "[a",
        "",
        "text:é…",
        "1e3",
    ],
)
def test_an_override_of_a_text_is_taken_as_it_is(tmp_path: Path, value: str) -> None:
    (tmp_path / "c.yaml").write_text("n_layer: 2\n")
    assert config.load(tmp_path / "c.yaml", [f"corpus={value}"]).corpus == value


def test_an_override_that_is_null_removes_a_text_that_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("n_layer: 2\ntokenizer: gpt2\ninit_from: /a/folder\n")
    assert config.load(tmp_path / "c.yaml", ["init_from=null"]).init_from is None


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("n_layer=0", "expected at least 1, got 0"),
        ("bias=True", "expected true or false, got 'True'; write true"),
        ("n_layer=[1,", "not valid YAML: expected the node content, but found '<stream end>'"),
        ("n_layer=1\nn_head: 2", "expected one value on one line"),
        ("n_layer=!x 1", "tag !x is not read; plain values only"),
        ("n_layer", "expected KEY=VALUE"),
        ("schedule=cosin", "expected cosine, linear, wsd or constant, got 'cosin'; did you mean cosine?"),
        (
            "loss_params.gamma=2",
            "loss_params belongs to an own loss (loss: module:Name), but loss is cross_entropy, whose parameters are "
            "keys: none; remove one of them",
        ),
        ("n_head=3", "n_embd (128) is not divisible by n_head (3); try n_embd: 129, or n_head: 2 or 4"),
        (
            "eval_context=256",
            "eval_context (256) exceeds block_size (128), which is all that the model sees; lower "
            "eval_context or raise block_size",
        ),
    ],
)
def test_a_message_on_an_override_names_it_and_no_line_of_the_file(tmp_path: Path, override: str, problem: str) -> None:
    (tmp_path / "c.yaml").write_text("n_layer: 2\nn_head: 4\nn_embd: 128\nblock_size: 128\nbias: false\n")
    error = refusal(lambda: config.load(tmp_path / "c.yaml", [override]))
    shown = override.replace("\n", "\\n")
    assert (str(error), error.line) == (f"--set {shown}: {problem}", None)


def test_of_a_conflict_the_value_that_was_set_last_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("n_head: 3\n")
    assert str(refusal(lambda: config.load(tmp_path / "c.yaml"))).startswith(f"{tmp_path / 'c.yaml'}:1: n_embd (128)")
    error = refusal(lambda: config.load(tmp_path / "c.yaml", ["n_embd=64", "n_embd=100"]))
    assert str(error).startswith("--set n_embd=100: n_embd (100) is not divisible by n_head (3)")


def test_a_spec_given_as_a_config_is_answered_by_its_kind(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("study: s\nbase: b.yaml\nspace: {}\n")
    error = refusal(lambda: config.load(tmp_path / "s.yaml"))
    assert (error.kind, error.line) == ("spec", 2)
    assert str(error).endswith(f"use: nanosweep run {tmp_path / 's.yaml'}")


def test_a_binary_file_is_not_a_config(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    error = refusal(lambda: config.load(tmp_path / "c.yaml"))
    assert error.kind == "text"
    assert str(error) == f"{tmp_path / 'c.yaml'}: not a text file (byte 0 is not UTF-8)"


def test_a_shape_of_any_size_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("n_embd: 9_999_991\nn_head: 1_000_000\n")
    assert refusal(lambda: config.load(tmp_path / "c.yaml")).kind == "conflict"
