"""The model card of a full run: its numbers are the run's, and what nobody knows is not in it."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from data.corpora import KINDS
from data.corpus_kind import UNKNOWN_LICENCE, CorpusKind
from data.licences import terms
from tests import tiny
from trainer import card, config, scores
from trainer.__main__ import main
from trainer.report import Report
from trainer.run_folder import CARD

HEADER = """\
# nanosweep: best of study quick, trial 7 (lr=1e-3); 26k parameters
# objective: val_perplexity 8.03 on the full validation split, after 400,000 tokens
# data: stories:120, hash {hash}
#
# train it longer:  nanosweep train THIS_FILE --set max_tokens=100M

"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an exported config, from the command line."""
    tiny.run(tiny.config(max_tokens=64))  # prepares the corpus
    folder = tmp_path_factory.mktemp("card")
    (folder / "best.yaml").write_text(HEADER.format(hash=tiny.stories().hash) + config.dump(tiny.config()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOSWEEP_CACHE", str(tiny.stories().path.parent))
        assert main([str(folder / "best.yaml"), "--set", "seed=3", "--out", str(folder / "run")]) == 0
    return folder / "run"


def rows(text: str) -> dict[str, list[str]]:
    """The table of scores: name -> value, interval."""
    return {name: rest.split(" | ") for name, rest in re.findall(r"^\|[^|]*\| `(\w+)` \| (.*) \|$", text, re.M)}


def test_every_score_is_that_of_the_last_report(run: Path) -> None:
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    found = rows((run / CARD).read_text())
    assert {"val_perplexity", "val_loss", "val_bits_per_byte", "val_accuracy", "val_ece"} <= found.keys()
    for name, (value, *_) in found.items():
        assert float(value) == pytest.approx(last["metrics"][name], rel=1e-5), name


def test_intervals_hold_their_value_and_are_of_the_documents(run: Path) -> None:
    measured, found = scores.load(run / "scores.npz"), rows((run / CARD).read_text())
    ends = {name: [float(end) for end in span.split(" to ")] for name, (_, span) in found.items() if " to " in span}
    assert ends.keys() == {"val_perplexity", "val_loss", "val_bits_per_byte"}
    for name, (low, high) in ends.items():
        assert low < float(found[name][0]) < high
    assert np.log(ends["val_perplexity"]) == pytest.approx(ends["val_loss"], rel=1e-5)
    # the bootstrap's width is that of the ratio's own standard error
    off = measured.nll - measured.tokens * measured.nll.sum() / measured.tokens.sum()
    error = math.sqrt(np.sum(off**2)) / measured.tokens.sum()
    assert ends["val_loss"][1] - ends["val_loss"][0] == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_the_rest_is_the_runs_own_too(run: Path) -> None:
    text, data = (run / CARD).read_text(), tiny.stories()
    reports = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert "2,560 tokens in 40 steps, seed 3" in text
    assert f"{reports[-1]['metrics']['seconds']:.1f} s of wall clock" in text
    assert f"the whole validation split ({data.val.n_targets:,} tokens, ends of documents included)" in text
    assert f"train {data.train.n_docs} documents, " in text
    assert f", {data.train.n_targets:,} tokens; val {data.val.n_docs} documents" in text
    assert data.val.floor_nll is not None
    assert f"| {data.val.floor_nll.sum() / data.val.n_targets:.6g} |" in text
    (yaml,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    assert yaml == config.dump(config.load(run / "config.yaml"))
    assert re.search(r"^# parameters: ([\d,]+)$", (run / "config.yaml").read_text(), re.M)[1] in text  # type: ignore[index]
    assert KINDS["stories"].licence in text
    assert "over-fitting" in text


def test_a_model_hub_reads_the_cards_metadata(run: Path) -> None:
    loaded = ModelCard.load(run / CARD)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["metrics"]
    results = {result.metric_type: result for result in loaded.data.eval_results or []}
    assert results["perplexity"].metric_value == last["val_perplexity"]
    assert {(result.dataset_name, result.dataset_split) for result in results.values()} == {
        (tiny.config().corpus, "validation")
    }
    assert loaded.text.lstrip().startswith(f"# {run.name}")


def test_where_the_config_comes_from_reaches_the_card_and_how_to_use_the_file_does_not(run: Path) -> None:
    text = (run / CARD).read_text()
    header = HEADER.format(hash=tiny.stories().hash).splitlines()
    assert "```text\n" + "\n".join(line.removeprefix("# ") for line in header[:3]) + "\n```" in text
    assert "THIS_FILE" not in text
    assert "Changed on the command line: `seed=3`." in text
    assert "chosen by scores on the same validation text" in text


def test_a_config_that_says_nothing_of_its_origin_is_given_none(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# my config\n" + config.dump(tiny.config()))
    text = card.text(run, tiny.stories(), "completed", tmp_path / "mine.yaml", [], "here")
    assert "`mine.yaml`, which does not say where it comes from." in text
    assert "my config" not in text
    assert "chosen by scores" not in text
    other = HEADER.format(hash="of another text") + config.dump(tiny.config())
    (tmp_path / "mine.yaml").write_text(other)
    assert "chosen by scores" not in card.text(run, tiny.stories(), "completed", tmp_path / "mine.yaml", [], "here")


def test_without_results_by_document_there_are_no_intervals(run: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", "metrics.jsonl"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    text = card.text(tmp_path, tiny.stories(), "completed", run / "config.yaml", [], "here")
    assert "No intervals" in text
    assert all(not span.strip() for _, span in rows(text).values())


def test_early_stopped_weights_are_named(tmp_path: Path) -> None:
    result, _ = tiny.run(tiny.config(early_stop=2, **tiny.RUINOUS), out_dir=tmp_path / "run")
    text = card.text(tmp_path / "run", tiny.stories(), result.status, tmp_path / "run/config.yaml", [], "here")
    assert f"stopped early, the scores are of the weights at {result.best['tokens']:,} tokens" in text


def test_a_card_goes_when_its_run_goes_on_and_stays_when_there_is_nothing_left_to_do(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    tiny.run(tiny.config(seed=3), resume=folder, out_dir=folder)
    assert (folder / CARD).exists()

    def stop(report: Report) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.run(tiny.config(seed=3, max_tokens=4096), resume=folder, out_dir=folder, report=stop)
    assert not (folder / CARD).exists()


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_corpus_has_a_licence_or_is_said_to_have_an_unknown_one(kind: CorpusKind) -> None:
    found = terms(kind.example, {})
    assert (found.text, found.licence) == (kind.text, kind.licence)
    # what the user brings has the user's licence; what we name has one that we looked up
    assert (found.licence == UNKNOWN_LICENCE) == (bool(kind.argument) and not kind.optional)


def test_what_the_hubs_page_named_is_quoted_as_such() -> None:
    facts = {"licence": "mit", "revision": "abc"}
    assert terms("hf:some/thing#text", facts).licence == "its page on the hub named mit (revision abc)"
    assert terms("tinystories", facts).licence.startswith("CDLA-Sharing-1.0; its page on the hub named mit")
    assert UNKNOWN_LICENCE in terms("nothing-known", {}).licence
