"""The finalists on the test split, and a trial story by story: of trials really trained, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from data.prepare import load_test, prepare
from search.results import finalize
from search.results.documents import describe
from search.study import header
from search.study.folder import trial_folder
from search.study.journal import NAME
from search.study.ledger import Ledger
from search.study.study import read_study
from tests import journals, tiny
from trainer.config import replace
from trainer.rescore import rescore

CONFIG = tiny.config(max_tokens=1280, eval_every=640)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOSWEEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def train(ledger: Ledger, folder: Path, number: int, seed: int, **more: Any) -> None:
    config = replace(CONFIG, seed=seed, learning_rate=1e-3 * (1 + number % 2))
    data = prepare(config.corpus, config.tokenizer)
    about = {"point": {"learning_rate": config.learning_rate}, "config": config.model_dump(), "name": f"t{number}"}
    ledger.write("point", trial=number, **about, **more)
    journals.start(ledger, number)
    _, reports = tiny.run(config, data=data, out_dir=trial_folder(folder, number))
    for report in reports:
        fields = {key: getattr(report, key) for key in ("step", "tokens", "rung", "final", "metrics")}
        ledger.write("report", trial=number, **fields, checkpoint=None)
    journals.end(ledger, number, "completed")


def study(folder: Path, again: bool = True) -> Path:
    """Two trials, and each again with two fresh seeds."""
    data = prepare(CONFIG.corpus, CONFIG.tokenizer)
    ledger = Ledger(folder)
    about = header.describe({CONFIG.tokenizer: data}, CONFIG)
    ledger.write("study", **journals.header("s", data=about))
    for number in (0, 1):
        train(ledger, folder, number, seed=1)
    for number in range(2, 6) if again else ():
        train(ledger, folder, number, seed=10 + number // 2, of=number % 2, round=number // 2)
    ledger.close()
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(tmp_path_factory.mktemp("study"))


def test_finalists_are_scored_once_on_text_that_nothing_was_chosen_by(finished: Path) -> None:
    before = read_study(finished)
    found = finalize.finalize(finished)
    data = prepare(CONFIG.corpus, CONFIG.tokenizer)
    test = load_test(data.path)
    scored = {number: trial.test for number, trial in found.trials.items() if trial.test is not None}
    assert sorted(scored) == [2, 3, 4, 5]
    for number, metrics in scored.items():
        expected = rescore(trial_folder(finished, number), data, test)
        assert metrics["test_perplexity"] == pytest.approx(expected.perplexity, rel=1e-9)
        assert metrics["test_bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-9)
    journal = (finished / NAME).read_bytes()
    assert finalize.finalize(finished).trials[2].test == scored[2]
    assert (finished / NAME).read_bytes() == journal
    text = finalize.render(found)
    order = [line.split()[1] for line in text.splitlines() if line.startswith("trial")]
    assert sorted(order) == ["0", "1"]
    assert "2 seeds" in text
    assert [trial.status for trial in before.trials.values()] == [trial.status for trial in found.trials.values()]


def test_a_study_without_finalists_is_told_how_to_have_some(tmp_path: Path) -> None:
    folder = study(tmp_path, again=False)
    before = (folder / NAME).read_bytes()
    with pytest.raises(UserError, match=r"no finalists: put `finalists: \{top: 4, seeds: 3\}` into its spec"):
        finalize.finalize(folder)
    assert (folder / NAME).read_bytes() == before


def test_a_study_whose_finalists_never_ran_is_not_told_to_ask_for_them(tmp_path: Path) -> None:
    fields = journals.header("s")
    fields["spec"]["finalists"] = {"top": 2, "seeds": 2}
    ledger = Ledger(tmp_path)
    ledger.write("study", **fields)
    ledger.close()
    with pytest.raises(UserError, match="no run of a finalist reached full length"):
        finalize.finalize(tmp_path)


def test_other_text_than_the_studys_is_refused(finished: Path, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    about = read_study(finished).header.record["data"]
    about = {**about, "tokenizers": {"char": {**about["tokenizers"]["char"], "hash": "0" * 64}}}
    ledger.write("study", **journals.header("s", data=about))
    for number, more in ((0, {}), (1, {"of": 0, "round": 1})):
        train(ledger, tmp_path, number, seed=number, **more)
    ledger.close()
    with pytest.raises(UserError, match="has changed since the study ran"):
        finalize.finalize(tmp_path)


def test_a_trial_is_shown_story_by_story(finished: Path) -> None:
    text = describe(finished, trial=0, worst=2)
    data = prepare(CONFIG.corpus, CONFIG.tokenizer)
    pooled = rescore(trial_folder(finished, 0), data, data.val).perplexity
    assert f"pooled (the objective) {pooled:.2f}" in text
    assert f"over {data.val.n_docs:,} documents" in text
    assert "expected calibration error" in text
    assert "the worst 2:" in text
    assert "once" in text.lower()  # a story's own words


def test_a_relative_path_is_the_drivers_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
        text = "\n<|endoftext|>\n".join(f"A text of {name}, number {n}." for n in range(60))
        (tmp_path / name / "docs.txt").write_text(text)
    config = replace(CONFIG, corpus="text:docs.txt", tokenizer="char")
    monkeypatch.chdir(tmp_path / "there")
    about = header.describe({"char": prepare(config.corpus, "char")}, config)
    ledger = Ledger(tmp_path / "s")
    ledger.write("study", **journals.header("s", data=about, directory=str(tmp_path / "there")))
    monkeypatch.chdir(tmp_path / "here")
    assert finalize.dataset_of(ledger.study, config).hash == about["hash"]
