"""What `nanosweep plan` says of the points that a search begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import UserError
from search.run.plan import describe
from search.run.prepare import prepare
from search.spec.load import load_spec
from search.strategy.warm_start import take_over
from search.study import header
from search.study.ledger import Ledger
from search.study.study import Study
from tests import journals, specs
from tests.refusals import key_refusal, place

BASE = """
corpus: "text:corpus.txt"
n_layer: 1
n_head: 2
n_embd: 16
block_size: 16
batch_size: 2
max_tokens: 8k
eval_tokens: 256
"""
SPEC = """
space:
  learning_rate: {log: [1e-4, 1e-2]}
  loss: {choice: [cross_entropy, squentropy]}
  squentropy_lambda: {log: [1e-3, 1], when: {loss: squentropy}}
sampler: gp
start: [{learning_rate: 3e-3, loss: squentropy}, {learning_rate: 1e-3}]
warm_start: before
"""


def test_plan_names_the_start_points_and_counts_what_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tmp_path / "cache"))
    Path("corpus.txt").write_text("the cat sat on the mat. " * 400)
    loaded = load_spec(specs.write(tmp_path, SPEC, BASE))
    with pytest.raises(UserError, match=r"spec.yaml:11: warm_start: before: no such study"):
        describe(*loaded)
    spec, base, file = loaded
    plan = prepare(spec.model_copy(update={"warm_start": None}), base, file, Study())
    known = journals.write_study(
        Path("runs/before"), data=plan.data, base=header.plain(plan.base.model_copy(update={"n_layer": 3}))
    )
    text = describe(*loaded)
    assert "first lr=3e-3 squentropy; lr=1e-3" in text
    summary = "before: 6 trials: 2 complete, 2 cut short, 2 broken; gp does not learn from those cut short"
    assert f"{summary} (its base config is another: n_layer was 3, is 1)" in text
    # once begun, the journal says it, whatever has become of the earlier study
    ledger = Ledger(spec.folder)
    ledger.write("study", **header.fields(spec, plan.base, plan.data, []))
    ledger.write("prior", trials=take_over(spec, plan.data, plan.length)[:4])
    ledger.close()
    known.journal.path.unlink()
    assert "before: 4 trials: 2 complete, 1 cut short, 1 broken" in describe(*loaded)


def test_plan_shows_the_lengths_that_are_searched_and_counts_with_the_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tmp_path / "cache"))
    Path("corpus.txt").write_text("the cat sat on the mat. " * 400)
    space = "space: {max_tokens: {choice: [20k, 2 epochs, 4M]}, early_stop: {choice: [2, null]}}\nfinalists: {top: 2}\n"
    loaded = load_spec(specs.write(tmp_path, space, BASE.replace("eval_tokens: 256\n", "")))
    lines = dict(line.split("  ", 1) for line in describe(*loaded).splitlines() if line[:5] != "note:")
    assert "17.3k to 4M tokens" in lines["trial"]
    assert lines["space"].strip() == "2 parameters, by tpe, 6 distinct configurations"
    ledger = Ledger(loaded[0].folder)
    ledger.write(
        "study", **header.fields(loaded[0], prepare(*loaded, Study()).base, prepare(*loaded, Study()).data, [])
    )
    for number, length in enumerate([20_000, "2 epochs", 4_000_000]):
        for early_stop in (2, None):
            point = {"max_tokens": length, "early_stop": early_stop}
            ledger.write("point", trial=2 * number + (early_stop is None), point=point, config={})
    ledger.close()
    assert "6 distinct configurations, 0 of them left" in describe(*loaded)
    assert "at most 16M tokens" in lines["budget"]
    assert "(24M tokens)" in lines["finalists"]
    assert "early_stop  2, null" in describe(*loaded)
    plan = prepare(*loaded, Study())
    assert plan.base.eval_tokens == 2048  # as for the shortest: scoring stays a small part of every trial


@pytest.mark.parametrize(
    ("scheduler", "line"),
    [
        ("none", "none: every trial runs to its end"),
        (
            "{asha: {first_rung: 1k, mode: promote, brackets: 2}}",
            "1k, 4k; the best 1/4 of each loss continue, the others pause, 2 brackets, 5% of trials are exempt",
        ),
        (
            "{median: {first_rung: 2k, every: 3k, exempt: 0}}",
            "2k, 5k; trials worse than the median of the others of the same loss end, once 4 others have come",
        ),
    ],
)
def test_plan_says_at_which_rungs_and_by_which_rule_trials_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tmp_path / "cache"))
    Path("corpus.txt").write_text("the cat sat on the mat. " * 400)
    space = "space: {loss: {choice: [cross_entropy, brier]}}\ncompare: loss\n"
    loaded = load_spec(specs.write(tmp_path, f"{space}scheduler: {scheduler}\n", BASE))
    lines = dict(line.split("  ", 1) for line in describe(*loaded).splitlines() if line[:5] != "note:")
    assert lines["rungs"].strip() == line


def test_a_warm_start_that_leaves_no_configuration_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tmp_path / "cache"))
    Path("corpus.txt").write_text("the cat sat on the mat. " * 400)
    space = "space: {loss: {choice: [cross_entropy, brier]}}\n"
    earlier = load_spec(specs.write(tmp_path, space, BASE))[0].model_copy(update={"study": "before"})
    loaded = load_spec(specs.write(tmp_path, f"{space}warm_start: before\n", BASE))
    prepared = prepare(loaded[0].model_copy(update={"warm_start": None}), *loaded[1:], Study())
    ledger = Ledger(earlier.folder)
    ledger.write("study", **header.fields(earlier, prepared.base, prepared.data, []))
    lines = []
    for number, loss in enumerate(["cross_entropy", "brier"]):
        config = prepared.base.model_copy(update={"loss": loss}).model_dump(mode="json")
        ledger.write("point", trial=number, point={"loss": loss}, config=config)
        journals.start(ledger, number)
        journals.report(ledger, number, prepared.length, 4.0)
        journals.end(ledger, number, "completed")
        lines += [describe(*loaded)] if number == 0 else []
    assert "2 distinct configurations, 1 of them left" in lines[0]
    error = key_refusal(lambda: describe(*loaded))
    assert (place(error), error.kind) == ("5: warm_start", "exhausted")
    assert not loaded[0].folder.exists()
    again = load_spec(specs.write(tmp_path, f"{space}warm_start: before\nstart: [{{loss: brier}}]\n", BASE))
    assert "2 distinct configurations, 0 of them left" in describe(*again)
