"""Every ready search can be planned at full size and at each of its scales, on text that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.run.plan import describe
from search.spec import check, space
from search.spec.load import load_spec
from search.spec.points import fields
from tests import made_up
from trainer import yaml_file

SPECS = sorted((Path(__file__).resolve().parent.parent / "search" / "specs").glob("*.yaml"))


def scales() -> list[tuple[Path, str | None]]:
    return [(path, scale) for path in SPECS for scale in (None, *(yaml_file.read(path).value.get("scales") or ()))]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Titles, one on each line: documents, or one document, as the split wants it."""
    folder = tmp_path_factory.mktemp("text")
    titles = made_up.titles(4000)
    (folder / "lines.txt").write_text("\n".join(titles))
    (folder / "documents.txt").write_text("\n<|endoftext|>\n".join(titles))
    return folder


@pytest.mark.parametrize(("path", "scale"), scales(), ids=lambda value: getattr(value, "stem", str(value)))
def test_a_ready_search_can_be_planned(
    path: Path, scale: str | None, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where its studies would be
    monkeypatch.setenv("NANOSWEEP_CACHE", str(corpus / "cache"))
    monkeypatch.setattr(check, "_MAX_COMBINATIONS", 300)  # combinations; thousands take seconds
    _, base, _ = load_spec(path, scale=scale)
    text = corpus / ("documents.txt" if base.split == "documents" else "lines.txt")
    # no network, no GPU, no GPT-2 ranks here: what is left is the search
    loaded = load_spec(path, [f"corpus=text:{text}", "tokenizer=char", "device=cpu"], scale)
    planned = describe(*loaded)
    assert loaded[0].study in planned
    assert "at most" in planned
    searched = {field for name, parameter in loaded[0].space.items() for field in fields(name, parameter)}
    assert (" to " in planned.split("\ntrial ")[1].split(" tokens")[0]) == ("max_tokens" in searched)


def test_a_search_over_optimizers_gives_each_its_own_learning_rate() -> None:
    spec, base, _ = load_spec(next(path for path in SPECS if path.stem == "mainrun"))
    rates = {"sgd": "lr_sgd", "adamw": "lr_adamw", "muon": "lr_beside_muon"}
    for optimizer, rate in rates.items():
        config = space.configure(base, spec.space, {"optimizer": optimizer, rate: 0.01})
        assert (config.optimizer, config.learning_rate) == (optimizer, 0.01)
    assert (base.max_tokens, base.seed, base.split, base.data_order) == ("7 epochs", 1337, "mainrun", "sequential")
    fixed = {"max_tokens", "seed", "corpus", "split", "data_order", "tokenizer", "loss"}
    assert not fixed & {field for name, parameter in spec.space.items() for field in fields(name, parameter)}
