"""The spec by itself: what is read, and the one line that answers each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from search.spec.load import load_spec
from search.spec.study_spec import StudySpec
from tests.specs import BASE, space, write

SPACE = "space:\n  n_layer: {choice: [1, 2]}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spce:\n  n_layer: {choice: [1, 2]}\n", r"spec.yaml:4: spce: unknown key; did you mean space\?"),
        ("scheduler: {asha: {first_rung: 1M, facter: 3}}\n" + SPACE, r":4: scheduler.asha.facter: .*mean factor\?"),
        ("scheduler: asha\n" + SPACE, r":4: scheduler: expected none or \{asha: .*got 'asha'"),
        ("scheduler: {asha: {first_rung: soon}}\n" + SPACE, r":4: scheduler.asha.first_rung: .*got 'soon'"),
        ("scheduler: {asha: {first_rung: 1M, factor: 1}}\n" + SPACE, r":4: scheduler.asha.factor: .*2.*got 1"),
        ("sampler: bayes\n" + SPACE, r":4: sampler: .*'grid', 'random', 'tpe' or 'gp', got 'bayes'"),
        ("objective: loss\n" + SPACE, r":4: objective: .*val_perplexity.*got 'loss'"),
        ("resources: all\n" + SPACE, r":4: resources: expected auto or .*got 'all'"),
        ("resources: {gpus: 2}\n" + SPACE, r":4: resources: gpus: 2 per trial: .*torchrun"),
        ("resources: {cpus: 0}\n" + SPACE, r":4: resources.cpus: .*greater than or equal to 0.01"),
        ("resources: {cpus: .nan}\n" + SPACE, r":4: resources.cpus: .*finite"),
        ("resources: {gpus: 1e-300}\n" + SPACE, r":4: resources: gpus: 1e-300 per trial: a hundredth is the least"),
        ("storage: ~nobody-of-this-name/x\n" + SPACE, r":4: storage: .*no user nobody-of-this-name here"),
        ("storage: " + "x" * 5000 + "\n" + SPACE, r":4: storage: .*5000 characters are too long"),
        ("storage: s3://bucket/x\n" + SPACE, r":4: storage: .*needs a folder"),
        ("storage: ' '\n" + SPACE, r":4: storage: an empty path"),
        ("seed: -1\n" + SPACE, r":4: seed: .*got -1"),
        ("space: {}\n", r":4: space: "),
        ("space:\n  n_layer: {choise: [1, 2]}\n", r":5: space.n_layer.choise: .*mean choice\?"),
        ("space:\n  n_layer: [1, 2]\n", r":5: space.n_layer: expected \{log: .*got \[1, 2\]"),
        ("space:\n  n_layer: {choice: [1], log: [1, 2]}\n", r":5: space.n_layer: .*exactly one.*got log and choice"),
        ("space:\n  n_layer: {when: {loss: mse}}\n", r":5: space.n_layer: .*got none"),
        ("space:\n  n_layer: {choice: []}\n", r":5: space.n_layer.choice: "),
        ("space:\n  n_layer: {choice: [1, 1]}\n", r":5: space.n_layer: choice names a value twice"),
        ("space:\n  n_layer: {choice: [1, {n_layer: 2}]}\n", r":5: space.n_layer: choice mixes"),
        ("space:\n  dropout: {uniform: [0.2, 0.2]}\n", r":5: space.dropout: .*empty range"),
        ("space:\n  dropout: {uniform: [0.3, 0.2]}\n", r":5: space.dropout: .*empty range"),
        ("space:\n  dropout: {uniform: [0, .nan]}\n", r":5: space.dropout: .*no end"),
        ("space:\n  dropout: {uniform: [0, .inf]}\n", r":5: space.dropout: .*no end"),
        (
            "space:\n  dropout: {uniform: [low, high]}\n",
            r":5: space.dropout.uniform\[0\]: expected a number, got 'low'",
        ),
        ("space:\n  dropout: {uniform: [true, 2]}\n", r":5: space.dropout.uniform\[0\]: "),
        ("space:\n  dropout: {uniform: [0.1]}\n", r":5: space.dropout.uniform: "),
        ("space:\n  learning_rate:\n    log: [0, 1e-2]\n", r":5: space.learning_rate: .*touches zero"),
        ("space:\n  learning_rate: {log: [-1, 1e-2]}\n", r":5: space.learning_rate: .*touches zero"),
        ("set: {n_layers: 3}\n" + SPACE, r":4: set.n_layers: unknown key; did you mean n_layer\?"),
        ("set:\n  n_embd: 100\n  n_head: 3\n" + SPACE, r"n_embd \(100\) is not divisible by n_head \(3\)"),
        ("set:\n  dropout: high\n" + SPACE, r"spec.yaml:5: dropout: .*got 'high'"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_spec(write(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("base: base.yaml\nbudget: {trials: 4}\n", r"study is missing"),
        ("study: s\nbase: base.yaml\n", r"budget is missing"),
        ("study: s\nbase: base.yaml\nbudget: {}\n", r":3: budget: give at least one of trials, tokens, hours"),
        ("study: s\nbase: base.yaml\nbudget: {trials: 0}\n", r":3: budget.trials: .*got 0"),
        ("study: s\nbase: base.yaml\nbudget: {tokens: lots}\n", r":3: budget.tokens: .*got 'lots'"),
        ("study: s\nbase: base.yaml\nbudget: {hours: .inf}\n", r":3: budget.hours: .*finite"),
        ("study: ../up\nbase: base.yaml\nbudget: {trials: 4}\n", r":1: study: '../up' must be a safe folder name"),
        ("study: a b\nbase: base.yaml\nbudget: {trials: 4}\n", r":1: study: .*safe folder name"),
        ("study: s\nbase: no.yaml\nbudget: {trials: 4}\n", r":2: base: no such file: no.yaml \(looked in "),
    ],
)
def test_a_wrong_head_is_one_line_with_its_place(tmp_path: Path, head: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_spec(write(tmp_path, SPACE, head=head))


def test_a_mistake_in_the_base_names_the_base(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"base.yaml:5: n_layerr: unknown key; did you mean n_layer\?"):
        load_spec(write(tmp_path, SPACE, BASE + "n_layerr: 2\n"))


def test_words_for_nothing_and_tokens_with_units_are_read(tmp_path: Path) -> None:
    text = "scheduler: none\nresources: auto\nspace:\n  max_tokens: {log: [500k, 2M]}\n"
    head = "study: s\nbase: base.yaml\nbudget: {tokens: 2B, hours: 12}\n"
    spec, base, _ = load_spec(write(tmp_path, text, head=head))
    assert spec.scheduler is None
    assert spec.resources is None
    assert spec.budget.tokens == 2 * 10**9
    assert spec.space["max_tokens"].log == [500_000, 2_000_000]
    assert base.max_tokens == 2_000_000


def test_set_and_overrides_change_the_base_in_that_order(tmp_path: Path) -> None:
    path = write(tmp_path, "set: {dropout: 0.1, n_head: 2}\n" + SPACE)
    spec, base, _ = load_spec(path, ["dropout=0.2", "max_tokens=7 epochs"])
    assert (base.dropout, base.n_head, base.max_tokens) == (0.2, 2, "7 epochs")
    assert spec.set == {"dropout": 0.2, "n_head": 2, "max_tokens": "7 epochs"}


@pytest.mark.parametrize(("override", "message"), [("dropout", "expected key=value"), ("drop=1", "unknown key")])
def test_a_wrong_override_is_answered(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_spec(write(tmp_path, SPACE), [override])


def test_a_base_is_found_from_the_working_directory_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, SPACE)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "base.yaml").write_text(BASE.replace("n_layer: 2", "n_layer: 5"))
    assert load_spec(path)[1].n_layer == 2
    monkeypatch.chdir(elsewhere)
    assert load_spec(path)[1].n_layer == 5


@given(first=st.integers(1, 10**6), factor=st.integers(2, 10), whole=st.integers(1, 10**8))
def test_rungs_are_a_geometric_series_below_the_end(first: int, factor: int, whole: int) -> None:
    spec = space(n_layer={"choice": [1]}).model_dump() | {
        "scheduler": {"asha": {"first_rung": first, "factor": factor}}
    }
    rungs = StudySpec.model_validate(spec).rungs(whole)
    assert rungs == [first * factor**i for i in range(len(rungs))]
    assert all(rung < whole for rung in rungs)
    assert first * factor ** len(rungs) >= whole


def test_without_a_scheduler_there_are_no_rungs() -> None:
    assert space(n_layer={"choice": [1]}).rungs(10**9) == []
