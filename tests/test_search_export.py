"""A config that leaves a study is the trial's own, whole, and says where it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import UserError
from search.results import export
from search.study.study import Study
from tests import journals
from tests.refusals import facts, refusal
from trainer import provenance
from trainer.config import TrainConfig, load, plain


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return journals.write_study(tmp_path / "quick").study


def test_an_exported_config_is_read_back_equal_to_the_trials(study: Study, tmp_path: Path) -> None:
    for number in study.trials:
        export.write(study, tmp_path / "best.yaml", number)
        assert load(tmp_path / "best.yaml") == TrainConfig.model_validate(study.trials[number].config)


def test_a_relative_path_means_the_same_file_from_everywhere(tmp_path: Path) -> None:
    ledger = journals.Ledger(tmp_path / "quick")
    ledger.write("study", **journals.header(directory=str(tmp_path / "there")))
    for path in ("a/b.jsonl", "ranks"):
        (tmp_path / "there" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "there" / path).touch()
    relative = {"corpus": "jsonl:a/b.jsonl#story", "tokenizer": "gpt2:ranks", "init_from": "weights"}
    absolute = {"corpus": "text:/a b/c.txt", "tokenizer": "gpt2"}
    for number, paths in enumerate((relative, absolute)):
        journals.point(ledger, number, **paths)
    first, second = (export.best_config(ledger.study, number) for number in (0, 1))
    assert first.corpus == f"jsonl:{tmp_path}/there/a/b.jsonl#story"
    assert first.tokenizer == f"gpt2:{tmp_path}/there/ranks"
    assert first.init_from == "weights"  # not there: all may have been moved, and is looked for as before
    assert second == TrainConfig.model_validate(ledger.study.trials[1].config)
    export.write(ledger.study, tmp_path / "best.yaml", 0)
    assert load(tmp_path / "best.yaml") == first
    assert provenance.edits(tmp_path / "best.yaml") == {}


def test_the_data_of_a_trial_are_those_of_its_own_tokenizer(tmp_path: Path) -> None:
    ledger = journals.Ledger(tmp_path / "quick")
    header = journals.header()
    both = {"char": {"hash": "of char"}, "bpe:300": {"hash": "of bpe"}}
    ledger.write("study", **{**header, "data": {**header["data"], "hash": "of both", "tokenizers": both}})
    for number, name in enumerate(both):
        journals.point(ledger, number, tokenizer=name)
    sources = [export.provenance_of(ledger.study, ledger.study.trials[number], []) for number in (0, 1)]
    assert [(source.data_hash, source.text_hash) for source in sources] == [
        ("of both", "of char"),
        ("of both", "of bpe"),
    ]


def test_the_best_is_exported_by_default(study: Study, tmp_path: Path) -> None:
    export.write(study, tmp_path / "best.yaml")
    assert load(tmp_path / "best.yaml") == export.best_config(study) == export.best_config(study, 1)
    assert export.best_config(study).loss == "squentropy"


def test_provenance_is_complete(study: Study, tmp_path: Path) -> None:
    export.write(study, tmp_path / "best.yaml")
    text = (tmp_path / "best.yaml").read_text()
    head = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert "best of study quick, trial 1 (lr=0.002 squentropy); 810k parameters" in head
    assert "nanosweep train THIS_FILE" in head
    source = provenance.read(tmp_path / "best.yaml")
    assert source is not None
    assert source.config == plain(load(tmp_path / "best.yaml"))
    assert source.model_copy(update={"config": {}}) == export.provenance_of(study, study.trials[1])
    assert (source.study, source.trial, source.leads, source.point) == ("quick", 1, True, study.trials[1].point)
    assert (source.objective, source.value, source.tokens) == ("val_perplexity", 4.0, 8000)
    assert (source.corpus, source.data_hash) == ("stories", "abc123")
    assert (source.commit, source.dirty) == ("0123456789abcdef", True)
    assert source.how_sure.startswith("one seed")
    assert source.trained.endswith(" UTC")


def test_a_trial_that_was_stopped_says_that_it_has_no_objective(study: Study) -> None:
    source = export.provenance_of(study, study.trials[2])
    assert (source.value, source.status, source.tokens, source.leads) == (None, "pruned", 1000, False)
    assert "objective: none: pruned after 1,000 tokens" in provenance.describe(source)


def test_a_name_cannot_break_out_of_its_comment(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "quick")
    config = ledger.study.trials[0].config
    ledger.write("point", trial=7, point={}, config=config, name="x\nlearning_rate: 99", sampler="random")
    export.write(ledger.study, tmp_path / "best.yaml", 7)
    assert load(tmp_path / "best.yaml").learning_rate == 1e-3


def test_a_trial_that_does_not_exist_names_those_that_do(study: Study) -> None:
    error = refusal(lambda: export.text(study, 99))
    assert facts(error) == ("unknown", ("99",), None)
    assert str(error) == "study quick has no trial 99; its trials are 0 to 6"


def test_a_study_without_a_finished_trial_has_no_best(tmp_path: Path) -> None:
    ledger = journals.Ledger(tmp_path / "young")
    ledger.write("study", **journals.header("young"))
    advice = "let it continue (nanosweep run), or choose one with --trial"
    error = refusal(lambda: export.text(ledger.study))
    assert (error.kind, str(error)) == ("no_best", f"study young has no best trial yet (no trials); {advice}")
    journals.point(ledger, 0)
    error = refusal(lambda: export.best_config(ledger.study))
    progress = "1 trial, none of which has ended at full length"
    assert (error.kind, str(error)) == ("no_best", f"study young has no best trial yet ({progress}); {advice}")
    assert export.write_best(ledger.study, tmp_path / "young") is None
    assert not (tmp_path / "young" / "best.yaml").exists()


def test_a_file_that_cannot_be_written_is_one_line_and_leaves_nothing(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    with pytest.raises(UserError, match="cannot be written"):
        export.write(study, tmp_path / "file" / "best.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        export.write(study, tmp_path / "folder.yaml")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_config_of_another_release_is_said(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "quick")
    config = {**ledger.study.trials[0].config, "flux": 1}
    ledger.write("point", trial=7, point={}, config=config, name="x", sampler="random")
    error = refusal(lambda: export.text(ledger.study, 7))
    assert facts(error) == ("other_release", ("flux",), None)
    assert str(error).startswith("trial 7: its config is not one of this release: flux: ")


def test_best_yaml_is_written_into_the_folder(study: Study, tmp_path: Path) -> None:
    assert export.write_best(study, tmp_path) == tmp_path / "best.yaml"
    assert load(tmp_path / "best.yaml") == export.best_config(study)
