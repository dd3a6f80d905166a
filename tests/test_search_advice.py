"""What is said about a search before it runs."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from search.run import study_run
from search.run.plan import describe
from search.spec.load import load_spec
from search.spec.space import lengths
from search.strategy.advice import Facts, advice
from tests import specs
from tests.refusals import refusal
from tests.test_search_specs import scales

SPACE = "space: {learning_rate: {log: [1e-4, 1e-2]}}\n"


FACTS = Facts(length=2_000_000, shortest=2_000_000, train_tokens=1_000_000, val_tokens=100_000, slots=2)
# training tokens of the corpora of the ready specs, by character where the tokenizer is that
TRAIN = {
    "stories": 2_400_000, "shakespeare": 1_003_000, "tinystories": 460_000_000, "tinystories-clean": 450_000_000,
    "hackernews": 1_100_000, "stories:2000": 240_000,
}  # fmt: skip


def said(folder: Path, text: str, base: str = specs.BASE, facts: Facts = FACTS) -> list[str]:
    spec, config, _ = specs.read(folder, text, base)
    return advice(spec, config, facts)


@pytest.mark.parametrize(("path", "scale"), scales(), ids=lambda value: getattr(value, "stem", str(value)))
def test_no_ready_spec_gets_a_false_alarm(path: Path, scale: str | None) -> None:
    spec, base, _ = load_spec(path, scale=scale)
    train = TRAIN[base.corpus]
    tokens = lengths(spec, base, train)
    notes = advice(spec, base, Facts(max(tokens), min(tokens), train, train // 20, slots=2))
    if spec.finalists is not None and base.split != "documents":  # true there: nanoGPT and Mainrun have none
        assert notes.pop(0).startswith(f"split: {base.split} has no test split")
    assert notes == []


@pytest.mark.parametrize(
    ("settings", "base", "words"),
    [
        ("{first_rung: 100k}", "schedule: cosine\n", "schedule: cosine decays over the whole trial"),
        ("{first_rung: 1M, brackets: 3}", "", r"brackets: 3, but there are 1 rungs \(1M\)"),
        ("{first_rung: 100k, exempt: 0}", "", "exempt: 0"),
    ],
)
def test_what_misleads_is_said(tmp_path: Path, settings: str, base: str, words: str) -> None:
    (line,) = said(tmp_path, f"{SPACE}scheduler: {{asha: {settings}}}\n", specs.BASE + base)
    assert re.search(words, line)


def test_a_search_with_rungs_has_a_schedule_that_makes_them_comparable_unless_one_is_named(tmp_path: Path) -> None:
    asha = f"{SPACE}scheduler: {{asha: {{first_rung: 100k}}}}\n"
    assert specs.read(tmp_path, asha)[1].schedule == "wsd"
    assert said(tmp_path, asha) == []
    assert specs.read(tmp_path, SPACE)[1].schedule == "cosine"
    assert specs.read(tmp_path, asha, specs.BASE + "schedule: linear\n")[1].schedule == "linear"
    assert specs.read(tmp_path, asha, overrides=["schedule=constant"])[1].schedule == "constant"
    searched = asha.replace("1e-2]}", "1e-2]}, schedule: {choice: [cosine, wsd]}")
    assert said(tmp_path, searched) == []


FINALISTS = "finalists: {top: 4}\n"


@pytest.mark.parametrize(
    ("key", "text", "base", "facts"),
    [
        ("learning_rate", "space: {learning_rate: {log: [1, 30]}}", "", {}),
        ("learning_rate", "space: {learning_rate: {log: [1e-3, 100]}}", "optimizer: sgd", {}),
        ("learning_rate", "space: {dropout: [0, 0.1]}", "learning_rate: 3", {}),
        ("learning_rate", "space: {learning_rate: {log: [1e-9, 1e-8]}}", "", {}),
        ("muon_learning_rate", "space: {muon_learning_rate: [0.02, 8]}", "optimizer: muon", {}),
        ("weight_decay", "space: {weight_decay: {log: [0.1, 5000]}}", "", {}),
        ("max_tokens", SPACE, "", {"train_tokens": 500}),
        ("max_tokens", SPACE, "batch_size: 2000", {}),
        ("corpus", SPACE, "", {"val_tokens": 300}),
        ("eval_every", SPACE, "eval_every: 4M", {}),
        ("eval_every", SPACE, "eval_every: 40k", {"shortest": 20_000}),
        ("early_stop", SPACE, "eval_every: 400k\nearly_stop: 5", {}),
        ("early_stop", "space: {early_stop: [2, 10]}", "", {}),
        ("split", SPACE + FINALISTS, "split: nanogpt", {}),
        ("finalists.top", SPACE + "finalists: {top: 6}", "", {}),
        ("budget.tokens", SPACE + "budget: {tokens: 1M}", "", {}),
        ("finalists.top", SPACE + FINALISTS + "budget: {tokens: 5M}", "", {}),
        ("budget.trials", SPACE, "", {"slots": 4}),
        (
            "budget.trials",
            "space: {loss: [cross_entropy, mse, brier]}\ncompare: loss\nbudget: {trials: 2}",
            "",
            {"slots": 1},
        ),
        ("scheduler.asha.first_rung", SPACE + "scheduler: {asha: {first_rung: 100k}}", "warmup_frac: 0.2", {}),
        (
            "scheduler.median.first_rung",
            SPACE + "scheduler: {median: {first_rung: 10k}}",
            "batch_size: 200\nwarmup_frac: 0",
            {},
        ),
    ],
)
def test_what_is_doubtful_is_said_once_and_first_of_all_with_its_key(
    tmp_path: Path, key: str, text: str, base: str, facts: dict[str, int]
) -> None:
    head = "study: s\nbase: base.yaml\n" + ("" if "budget" in text else "budget: {trials: 4}\n")
    spec, config, _ = specs.read(tmp_path, f"{text}\n", f"{specs.BASE}{base}\n", head=head)
    notes = advice(spec, config, replace(FACTS, **facts))
    assert [note.partition(": ")[0] for note in notes if note.startswith(f"{key}: ")] == [key]


@pytest.mark.parametrize(
    ("text", "base", "facts"),
    [
        (SPACE + FINALISTS, "", {}),
        ("space: {learning_rate: {log: [1e-3, 1]}}", "optimizer: sgd", {}),
        ("space: {muon_learning_rate: {log: [2e-3, 0.1]}}", "optimizer: muon", {}),
        (
            "space: {optimizer: [sgd, adamw], a: {field: learning_rate, log: [1e-3, 5], when: {optimizer: sgd}}}",
            "learning_rate: 1e-3",
            {},
        ),
        ("space: {dropout: {uniform: [0, 0.2]}}", "", {"train_tokens": 25_000}),
        (SPACE, "early_stop: 3", {"train_tokens": 25_000}),
        (SPACE, "split: nanogpt", {}),
        (SPACE + "sampler: random", "", {"slots": 64}),
        (SPACE, "", {"slots": None}),
        (SPACE + "scheduler: {asha: {first_rung: 200k}}", "warmup_frac: 0.1", {}),
        ("space: {learning_rate: {log: [1e-7, 1e-6]}}", "", {"length": 10**9, "train_tokens": 10**9}),
    ],
)
def test_what_is_not_doubtful_is_not_said(tmp_path: Path, text: str, base: str, facts: dict[str, int]) -> None:
    assert said(tmp_path, f"{text}\n", f"{specs.BASE}{base}\n", replace(FACTS, **facts)) == []


def test_plan_and_run_say_the_same_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run before it looks for a cluster, which is not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tmp_path / "cache"))
    Path("corpus.txt").write_text("the cat sat on the mat. " * 400)
    base = "corpus: text:corpus.txt\nn_layer: 1\nn_head: 1\nn_embd: 8\nblock_size: 8\nmax_tokens: 320k\n"
    loaded = specs.read(tmp_path, "space: {learning_rate: {log: [1, 30]}}\ntracking: none\n", base)
    planned = [line for line in describe(*loaded).splitlines() if line.startswith("note: ")]
    assert [line.split(": ")[1] for line in planned] == ["max_tokens", "corpus", "learning_rate"]
    said = StringIO()
    refusal(lambda: study_run.run(*loaded, address="127.0.0.1:1", console=Console(file=said, width=1000)))
    assert [line for line in said.getvalue().splitlines() if line.startswith("note: ")] == planned
