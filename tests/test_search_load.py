"""One spec at several sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.spec.load import load_spec, with_options
from search.spec.study_spec import Budget
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
