"""The spec by itself: what is read, and the one line that answers each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from search.spec.load import load_spec
from search.spec.study_spec import StudySpec
from tests.refusals import key_refusal, place
from tests.specs import BASE, HEAD, space, write
from trainer.complaints import dotted

SPACE = "space:\n  n_layer: {choice: [1, 2]}\n"


@pytest.mark.parametrize(
    ("text", "where", "kind"),
    [
        ("spce:\n  n_layer: {choice: [1, 2]}\n", "4: spce", "extra_forbidden"),
        ("scheduler: {asha: {first_rung: 1M, facter: 3}}\n" + SPACE, "4: scheduler.asha.facter", "extra_forbidden"),
        ("scheduler: asha\n" + SPACE, "4: scheduler", "form"),
        ("scheduler: {asha: {first_rung: soon}}\n" + SPACE, "4: scheduler.asha.first_rung", "value_error"),
        ("scheduler: {asha: {first_rung: 1M, factor: 1}}\n" + SPACE, "4: scheduler.asha.factor", "greater_than_equal"),
        ("sampler: bayes\n" + SPACE, "4: sampler", "literal_error"),
        ("objective: loss\n" + SPACE, "4: objective", "value_error"),
        ("resources: all\n" + SPACE, "4: resources", "form"),
        ("resources: {gpus: 2}\n" + SPACE, "4: resources", "too_large"),
        ("resources: {cpus: 0}\n" + SPACE, "4: resources.cpus", "greater_than_equal"),
        ("resources: {cpus: .nan}\n" + SPACE, "4: resources.cpus", "finite_number"),
        ("resources: {gpus: 1e-300}\n" + SPACE, "4: resources", "too_small"),
        ("storage: ~nobody-of-this-name/x\n" + SPACE, "4: storage", "no_user"),
        ("storage: " + "x" * 5000 + "\n" + SPACE, "4: storage", "too_long"),
        ("storage: s3://bucket/x\n" + SPACE, "4: storage", "no_folder"),
        ("storage: ' '\n" + SPACE, "4: storage", "empty"),
        ("seed: -1\n" + SPACE, "4: seed", "greater_than_equal"),
        ("space: {}\n", "4: space", "too_short"),
        ("space:\n  n_layer: {choise: [1, 2]}\n", "5: space.n_layer.choise", "extra_forbidden"),
        ("space:\n  n_layer: 2\n", "5: space.n_layer", "form"),
        ("space:\n  n_layer: [1, 1]\n", "5: space.n_layer", "twice"),
        ("space:\n  n_layer: []\n", "5: space.n_layer", "too_short"),
        ("space:\n  n_layer: {choice: [1], log: [1, 2]}\n", "5: space.n_layer", "not_one"),
        ("space:\n  n_layer: {when: {loss: mse}}\n", "5: space.n_layer", "not_one"),
        ("space:\n  n_layer: {choice: []}\n", "5: space.n_layer.choice", "too_short"),
        ("space:\n  n_layer: {choice: [1, 1]}\n", "5: space.n_layer", "twice"),
        ("space:\n  n_layer: {choice: [1, {n_layer: 2}]}\n", "5: space.n_layer", "mixed"),
        ("space:\n  dropout: {uniform: [0.2, 0.2]}\n", "5: space.dropout", "empty"),
        ("space:\n  dropout: {uniform: [0.3, 0.2]}\n", "5: space.dropout", "empty"),
        ("space:\n  dropout: {uniform: [0, .nan]}\n", "5: space.dropout", "not_finite"),
        ("space:\n  dropout: {uniform: [0, .inf]}\n", "5: space.dropout", "not_finite"),
        (
            "space:\n  dropout: {uniform: [low, high]}\n",
            "5: space.dropout.uniform[0]",
            "value_error",
        ),
        ("space:\n  dropout: {uniform: [true, 2]}\n", "5: space.dropout.uniform[0]", "float_type"),
        ("space:\n  dropout: {uniform: [0.1]}\n", "5: space.dropout.uniform", "too_short"),
        ("space:\n  learning_rate:\n    log: [0, 1e-2]\n", "5: space.learning_rate", "not_positive"),
        ("space:\n  learning_rate: {log: [-1, 1e-2]}\n", "5: space.learning_rate", "not_positive"),
        ("set: {n_layers: 3}\n" + SPACE, "4: set.n_layers", "unknown"),
        ("set:\n  n_embd: 100\n  n_head: 3\n" + SPACE, "5: ", "conflict"),
        ("set:\n  dropout: high\n" + SPACE, "5: dropout", "float_type"),
    ],
)
def test_a_mistake_is_refused_with_its_place(tmp_path: Path, text: str, where: str, kind: str) -> None:
    error = key_refusal(lambda: load_spec(write(tmp_path, text)))
    assert (place(error), error.kind) == (where, kind)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("spce: 3\n", "unknown key; did you mean space?"),
        ("scheduler: {asha: {first_rung: 1M, facter: 3}}\n", "unknown key; did you mean factor?"),
        ("scheduler: asha\n", "expected none or {asha: {first_rung: 1M}} (rules: asha, median), got 'asha'"),
        ("sampler: bayes\n", "expected grid, random, tpe or gp, got 'bayes'; did you mean tpe?"),
        ("objective: loss\n", "expected val_perplexity or val_bits_per_byte, got 'loss'; did you mean val_perplexity?"),
        ("resources: all\n", "expected auto or {cpus: 2, gpus: 0.25}, got 'all'"),
        (
            "resources: {gpus: 2}\n",
            "gpus: 2 per trial: a trial trains in one process on one GPU; use at most 1 (several GPUs serve several "
            "trials at once; a full run uses them all: torchrun -m trainer)",
        ),
        ("resources: {gpus: 1e-300}\n", "gpus: 1e-300 per trial: a hundredth is the least; or 0"),
        ("storage: ~nobody-of-this-name/x\n", "~nobody-of-this-name/x: there is no user nobody-of-this-name here"),
        (
            "storage: s3://bucket/x\n",
            "'s3://bucket/x': the journal is appended to, so it needs a folder; mount the bucket on every node",
        ),
        ("storage: ' '\n", "an empty path; give a folder, like ./runs"),
        ("set: {n_layers: 3}\n", "unknown key; did you mean n_layer?"),
        ("budget: {}\n", "give at least one of trials, tokens, hours"),
        (
            "study: ../up\n",
            "'../up' must be a safe folder name: letters, digits, `.`, `_`, `-`, at most 63, beginning with a letter "
            "or digit",
        ),
    ],
)
def test_what_a_refusal_of_a_key_says(tmp_path: Path, text: str, problem: str) -> None:
    key = text.partition(":")[0]
    head = "".join(line for line in HEAD.splitlines(keepends=True) if not line.startswith(key))
    assert key_refusal(lambda: load_spec(write(tmp_path, SPACE + text, head=head))).problem == problem


@pytest.mark.parametrize(
    ("parameter", "problem"),
    [
        (
            "2",
            "expected {log: [low, high]}, {uniform: [low, high]} or {choice: [...]} (a fixed value belongs under set), "
            "got 2",
        ),
        ("{choice: [1], log: [1, 2]}", "give exactly one of log, uniform, choice; got log and choice"),
        ("{when: {loss: mse}}", "give exactly one of log, uniform, choice; got none"),
        ("{choice: [1, 1]}", "choice names a value twice: [1, 1]"),
        ("{choice: [1, {n_layer: 2}]}", "choice mixes mappings and plain values; use one kind"),
        ("{uniform: [0.3, 0.2]}", "uniform: [0.3, 0.2] is an empty range; the first end must be the smaller"),
        ("{uniform: [0, .nan]}", "uniform: [0, nan] has no end; use finite numbers"),
        ("{log: [-1, 1e-2]}", "log: [-1, 0.01] touches zero; use a positive lower end, or uniform"),
        ("{log: [low, high]}", "expected a number, got 'low' (and 1 more)"),
    ],
)
def test_what_a_refusal_of_a_parameter_says(tmp_path: Path, parameter: str, problem: str) -> None:
    error = key_refusal(lambda: load_spec(write(tmp_path, f"space:\n  dropout: {parameter}\n")))
    assert error.problem == problem
    assert str(error) == f"{tmp_path / 'spec.yaml'}:5: {dotted(error.place)}: {problem}"


@pytest.mark.parametrize(
    ("head", "where", "kind"),
    [
        ("base: base.yaml\nbudget: {trials: 4}\n", "1: ", "missing"),
        ("study: s\nbase: base.yaml\n", "1: ", "missing"),
        ("study: s\nbase: base.yaml\nbudget: {}\n", "3: budget", "missing"),
        ("study: s\nbase: base.yaml\nbudget: {trials: 0}\n", "3: budget.trials", "greater_than_equal"),
        ("study: s\nbase: base.yaml\nbudget: {tokens: lots}\n", "3: budget.tokens", "value_error"),
        ("study: s\nbase: base.yaml\nbudget: {hours: .inf}\n", "3: budget.hours", "finite_number"),
        ("study: ../up\nbase: base.yaml\nbudget: {trials: 4}\n", "1: study", "unsafe"),
        ("study: a b\nbase: base.yaml\nbudget: {trials: 4}\n", "1: study", "unsafe"),
        ("study: s\nbase: no.yaml\nbudget: {trials: 4}\n", "2: base", "missing"),
    ],
)
def test_a_wrong_head_is_refused_with_its_place(tmp_path: Path, head: str, where: str, kind: str) -> None:
    error = key_refusal(lambda: load_spec(write(tmp_path, SPACE, head=head)))
    assert (place(error), error.kind) == (where, kind)


@pytest.mark.parametrize("key", ["study", "base", "space", "budget"])
def test_a_key_without_a_default_that_is_missing_is_named(tmp_path: Path, key: str) -> None:
    text = "".join(f"{line}\n" for line in f"{HEAD}space: {{n_layer: {{choice: [1]}}}}".splitlines() if key not in line)
    error = key_refusal(lambda: load_spec(write(tmp_path, text, head="")))
    assert (error.kind, error.keys) == ("missing", (key,))
    assert error.problem.startswith(f"{key} is missing; for example {key}: ")


def test_a_mistake_in_the_base_names_the_base(tmp_path: Path) -> None:
    error = key_refusal(lambda: load_spec(write(tmp_path, SPACE, BASE + "n_layerr: 2\n")))
    assert (error.head, error.kind) == (f"{tmp_path / 'base.yaml'}:5: n_layerr", "extra_forbidden")


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


@pytest.mark.parametrize(("override", "kind", "keys"), [("dropout", "form", ()), ("drop=1", "unknown", ("drop",))])
def test_a_wrong_override_is_answered(tmp_path: Path, override: str, kind: str, keys: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        load_spec(write(tmp_path, SPACE), [override])
    assert (caught.value.kind, caught.value.keys) == (kind, keys)


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
