"""One spec at several sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.run.prepare import prepare
from search.spec.load import load_spec, with_options
from search.spec.study_spec import Budget
from search.study.study import Study
from tests import specs
from tests.refusals import facts, key_refusal, place, refusal

TEXT = """set: {dropout: 0.1, max_tokens: 1M}
space:
  learning_rate: {log: [1e-4, 1e-2]}
  n_layer: {choice: [8, 12]}
scheduler: {asha: {first_rung: 100k}}
scales:
  tiny:
    set: {max_tokens: 50k}
    space: {n_layer: {choice: [1, 2]}}
    scheduler: none
    budget: {trials: 2}
"""


def test_a_scale_replaces_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    whole, base, _ = load_spec(specs.write(tmp_path, TEXT))
    tiny, small, _ = load_spec(tmp_path / "spec.yaml", scale="tiny")
    assert (whole.study, tiny.study) == ("s", "s-tiny")
    assert (base.max_tokens, small.max_tokens) == (1_000_000, 50_000)
    assert small.dropout == base.dropout == 0.1
    assert tiny.space["n_layer"].choice == [1, 2]
    assert tiny.space["learning_rate"] == whole.space["learning_rate"]
    assert tiny.scheduler is None
    assert (whole.budget.trials, tiny.budget.trials) == (4, 2)
    assert whole.scales == tiny.scales == {}


def test_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    _, base, _ = load_spec(specs.write(tmp_path, TEXT), ["max_tokens=70k"], "tiny")
    assert base.max_tokens == 70_000


def test_each_limit_of_the_command_line_replaces_the_budgets_and_leaves_the_others(tmp_path: Path) -> None:
    path = specs.write(tmp_path, TEXT)
    limits = {"trials": "8", "tokens": "2M", "hours": "0.5"}
    whole = with_options(path, [], None, None, None)[0]
    each = {key: with_options(path, [], "tiny", "n", None, {key: text})[0].budget for key, text in limits.items()}
    assert each == {
        "trials": Budget(trials=8),
        "tokens": Budget(trials=2, tokens=2_000_000),
        "hours": Budget(trials=2, hours=0.5),
    }
    written = with_options(path, [], None, None, None, {**limits, "hours": None})[0]
    assert written.model_dump(exclude_unset=True)["budget"] == {"trials": 8, "tokens": 2_000_000}
    assert written.model_copy(update={"budget": whole.budget}) == whole


@pytest.mark.parametrize(
    ("key", "text"),
    [("trials", "eight"), ("trials", "0"), ("trials", "2.5"), ("tokens", "-1"), ("tokens", ""), ("hours", "nan"),
     ("hours", "1h"), ("hours", "["), ("hours", "{}: 1"), ("tokens", "null")],
)  # fmt: skip
def test_a_limit_that_is_none_is_refused_by_its_option(tmp_path: Path, key: str, text: str) -> None:
    path = specs.write(tmp_path, TEXT)
    error = key_refusal(lambda: with_options(path, [], None, None, None, {key: text}))
    assert error.keys == (key,)
    assert error.head == f"--{key} {text}"


@pytest.mark.parametrize(
    ("text", "scale", "line", "kind", "keys"),
    [
        (TEXT, "tinny", None, "unknown", ("tinny",)),
        ("space: {dropout: {uniform: [0, 1]}}\n", "tiny", None, "unknown", ("tiny",)),
        (TEXT.replace("budget: {trials: 2}", "budgett: {trials: 2}"), None, 14, "extra_forbidden", ("scales",)),
        (TEXT.replace("max_tokens: 50k", "max_token: 50k"), "tiny", 11, "unknown", ("max_token",)),
        (
            TEXT.replace("[1, 2]", "[1, 1]"),
            None,
            12,
            "twice",
            ("scales",),
        ),
    ],
)
def test_a_mistake_in_a_scale_is_refused_with_its_line(
    tmp_path: Path, text: str, scale: str | None, line: int | None, kind: str, keys: tuple[str, ...]
) -> None:
    error = refusal(lambda: load_spec(specs.write(tmp_path, text), scale=scale))
    assert facts(error) == (kind, keys, line)


@pytest.mark.parametrize(
    ("text", "scale", "problem"),
    [
        (TEXT, "tinny", "no scale tinny; did you mean tiny?"),
        ("space: {dropout: {uniform: [0, 1]}}\n", "tiny", "no scale tiny; the spec has no scales"),
    ],
)
def test_an_unknown_scale_is_answered_with_the_nearest(tmp_path: Path, text: str, scale: str, problem: str) -> None:
    error = refusal(lambda: load_spec(specs.write(tmp_path, text), scale=scale))
    assert str(error) == f"{tmp_path / 'spec.yaml'}: {problem}"


@pytest.mark.parametrize(
    ("base", "kind"),
    [("~nobody-of-this-name/x", "no_user"), ("x" * 5000, "too_long")],
)
def test_a_base_that_can_be_no_path_is_a_mistake_on_its_line(tmp_path: Path, base: str, kind: str) -> None:
    head = specs.HEAD.replace("base.yaml", base)
    path = specs.write(tmp_path, "space: {dropout: {uniform: [0, 0.5]}}\n", head=head)
    error = key_refusal(lambda: load_spec(path))
    assert (place(error), error.kind) == ("2: base", kind)


SEARCH = "space:\n  learning_rate: {log: [1e-4, 1e-2]}\n  position: {choice: [learned, rope]}\n"


@pytest.mark.parametrize(
    ("text", "base", "overrides", "head"),
    [
        ("set: {n_head: 3}\n", "", (), "spec.yaml:4"),
        ("set: {n_head: 3}\n", "", ("n_head=5",), "--set n_head=5"),
        ("set: {n_head: 8}\n", "", ("n_embd=100",), "--set n_embd=100"),
        ("set: {dropout: 2}\n", "", (), "spec.yaml:4: set.dropout"),
        ("set: {dropout: 2}\n", "", ("dropout=3",), "--set dropout=3"),
        ("", "eval_stride: 8\n", (), "base.yaml:5"),
        ("", "", ("eval_stride=8",), "--set eval_stride=8"),
        ("", "", ("drop=1",), "--set drop=1"),
        ("", "", ("n_layer=[",), "--set n_layer=["),
        ("", "", ("learning_rate=1",), "--set learning_rate=1"),
        ("set: {learning_rate: 1}\n", "", (), "spec.yaml:4: set.learning_rate"),
    ],
)
def test_a_mistake_names_where_its_value_was_set_last(
    tmp_path: Path, text: str, base: str, overrides: tuple[str, ...], head: str
) -> None:
    error = refusal(lambda: specs.read(tmp_path, text + SEARCH, specs.BASE + base, list(overrides)))
    assert str(error).replace(f"{tmp_path}/", "").startswith(f"{head}: ")


@pytest.mark.parametrize(
    ("option", "values"), [("--name", {"name": "a/b"}), ("--storage", {"storage": "s3://x"})], ids=["name", "storage"]
)
def test_so_does_one_in_another_option(tmp_path: Path, option: str, values: dict[str, str]) -> None:
    path = specs.write(tmp_path, SEARCH)
    error = refusal(lambda: with_options(path, (), None, values.get("name"), values.get("storage")))
    assert str(error).startswith(f"{option} {next(iter(values.values()))}: ")


@pytest.mark.parametrize(
    ("text", "base", "overrides", "head"),
    [
        ("", "corpus: text:nove.txt\n", (), "base.yaml:5: corpus: text:nove.txt"),
        ("set: {corpus: text:nove.txt}\n", "", (), "spec.yaml:4: set.corpus: text:nove.txt"),
        ("", "", ("corpus=text:nove.txt",), "--set corpus=text:nove.txt"),
        ("", "corpus: text:corpus.txt\ntokenizer: bpe:12\n", (), "base.yaml:6: tokenizer: bpe:12"),
        ("", "corpus: text:corpus.txt\n", ("tokenizer=bpe:9000",), "--set tokenizer=bpe:9000"),
        ("", "corpus: text:corpus.txt\nblock_size: 20000\n", (), "base.yaml:6: block_size"),
        ("", "corpus: my:Texts\n", (), "base.yaml:5: corpus: my:Texts"),
        ("", "corpus: text:corpus.txt\nloss: my:L\n", (), "base.yaml:6: loss: my:L"),
        ("", "corpus: text:corpus.txt\nmodel: my:M\n", (), "base.yaml:6: model: my:M"),
        ("set: {corpus: text:corpus.txt, optimizer: 'my:O'}\n", "", (), "spec.yaml:4: set.optimizer: my:O"),
        ("", "corpus: text:corpus.txt\n", ("loss=my:L",), "--set loss=my:L"),
    ],
)
def test_so_does_what_only_data_or_code_can_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, base: str, overrides: tuple[str, ...], head: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tmp_path / "cache"))
    Path("corpus.txt").write_text("the cat sat on the mat. " * 400)
    loaded = specs.read(tmp_path, text + SEARCH, specs.BASE + base, list(overrides))
    error = key_refusal(lambda: prepare(*loaded, Study(), allow_code=True))
    assert str(error).replace(f"{tmp_path}/", "").startswith(f"{head}: ")


def test_so_does_own_code_and_a_tokenizer_among_the_choices_of_the_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tmp_path / "cache"))
    Path("corpus.txt").write_text("the cat sat on the mat. " * 400)
    base = specs.BASE + "corpus: text:corpus.txt\n"
    for choice, line in (("loss: {choice: [brier, 'my:L']}", 6), ("tokenizer: {choice: [char, 'bpe:12']}", 6)):
        text = f"objective: val_bits_per_byte\nspace:\n  {choice}\n"
        loaded = specs.read(tmp_path, text, base)
        error = key_refusal(lambda loaded=loaded: prepare(*loaded, Study(), allow_code=True))
        name = choice.partition(":")[0]
        assert place(error) == f"{line}: space.{name}.choice[1]"


def test_a_config_given_as_a_spec_is_answered_by_its_kind(tmp_path: Path) -> None:
    specs.write(tmp_path, SEARCH)
    error = refusal(lambda: load_spec(tmp_path / "base.yaml"))
    assert error.kind == "config"
    assert str(error).endswith(f"use: nanosweep train {tmp_path / 'base.yaml'}")


@pytest.mark.parametrize(
    ("base", "near"),
    [("bas.yaml", "did you mean base.yaml?"), ("storis.yaml", "did you mean trainer/configs/stories.yaml?")],
)
def test_a_base_that_is_not_there_is_answered_with_the_nearest_and_each_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, near: str
) -> None:
    monkeypatch.chdir(tmp_path)
    specs.write(tmp_path, SEARCH, head=specs.HEAD.replace("base.yaml", base))
    error = key_refusal(lambda: load_spec(Path("spec.yaml")))
    assert (place(error), error.kind) == ("2: base", "missing")
    assert near in str(error)
    assert str(error).count(str(tmp_path)) == 1
