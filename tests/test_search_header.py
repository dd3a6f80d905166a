"""The study record: what is compared when a study continues, and what is known of its data."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from search.spec.study_spec import MAY_CHANGE, StudySpec
from search.study import header
from search.study.study_record import Header, read_header
from tests import specs, tiny
from tests.refusals import facts, refusal
from trainer.config import TrainConfig
from trainer.measure import default_eval_tokens

SPACE = "space: {learning_rate: {log: [1e-4, 1e-2]}}\nsampler: random\n"


def begun(folder: Path, base: str = specs.BASE) -> tuple[StudySpec, TrainConfig, Header]:
    """A spec, its base, and the header that its driver wrote."""
    spec, config, _ = specs.read(folder, SPACE, base)
    pinned = header.pin_eval_tokens(config, 2_000_000)
    record = header.fields(spec, pinned, {"hash": "abc", "corpus": "stories"}, [])
    return spec, config, read_header({"record": "study", "time": 1.0, **record})


def test_the_same_spec_goes_on(tmp_path: Path) -> None:
    spec, base, written = begun(tmp_path)
    header.check_same(spec, base, written)


@pytest.mark.parametrize("change", ["budget: {trials: 9}", "resources: {cpus: 2}", "storage: elsewhere"])
def test_budget_resources_and_storage_may_change(tmp_path: Path, change: str) -> None:
    _, base, written = begun(tmp_path)
    head = (
        "study: s\nbase: base.yaml\nbudget: {trials: 4}\n" if "budget" not in change else "study: s\nbase: base.yaml\n"
    )
    spec, _, _ = specs.read(tmp_path, SPACE + change + "\n", head=head)
    header.check_same(spec, base, written)


def test_a_copy_of_the_base_elsewhere_is_the_same_base(tmp_path: Path) -> None:
    _, _, written = begun(tmp_path)
    (tmp_path / "copy.yaml").write_text(specs.BASE)
    spec, base, _ = specs.read(tmp_path, SPACE, head="study: s\nbase: copy.yaml\nbudget: {trials: 4}\n")
    header.check_same(spec, base, written)


@pytest.mark.parametrize(
    ("text", "base", "key"),
    [
        ("space: {learning_rate: {log: [1e-4, 1e-1]}}\nsampler: random\n", specs.BASE, "space.learning_rate.log"),
        ("space: {dropout: {uniform: [0, 0.5]}}\nsampler: random\n", specs.BASE, "space.learning_rate"),
        (SPACE + "seed: 3\n", specs.BASE, "seed"),
        (SPACE, specs.BASE + "dropout: 0.5\n", "base config: dropout"),
        (SPACE + "set: {beta2: 0.95}\n", specs.BASE, "base config: beta2"),
    ],
)
def test_another_spec_under_the_same_name_is_refused_with_its_key(
    tmp_path: Path, text: str, base: str, key: str
) -> None:
    _, _, written = begun(tmp_path)
    spec, config, _ = specs.read(tmp_path, text, base)
    error = refusal(lambda: header.check_same(spec, config, written))
    assert facts(error) == ("changed", (key,), None)


def test_what_the_refusal_of_another_spec_says(tmp_path: Path) -> None:
    _, base, written = begun(tmp_path)
    spec, _, _ = specs.read(tmp_path, SPACE + "seed: 3\n")
    assert str(refusal(lambda: header.check_same(spec, base, written))) == (
        f"study s exists in {spec.folder} with another spec: seed was 1337, is now 3. Only {', '.join(MAY_CHANGE)} may "
        "change. To resume it put seed back; to begin another give it another name (study:)"
    )


def test_changed_text_is_refused(tmp_path: Path) -> None:
    _, _, written = begun(tmp_path)
    error = refusal(lambda: header.check_same_data({"hash": "def", "corpus": "stories"}, written))
    assert facts(error) == ("other_data", ("corpus",), None)
    assert str(error).startswith("stories has changed since the study began (hash abc, is now def)")


def test_the_subset_has_one_size_for_trials_of_every_length() -> None:
    pinned = header.pin_eval_tokens(tiny.config(eval_tokens=None), 4_000_000)
    assert pinned.eval_tokens == default_eval_tokens(4_000_000)
    assert header.pin_eval_tokens(tiny.config(eval_tokens=77), 4_000_000).eval_tokens == 77


def test_data_are_described_in_bytes_documents_and_their_floor() -> None:
    data = tiny.stories()
    about = header.describe({"char": data}, tiny.config())
    only = about["tokenizers"]["char"]
    assert about["hash"] == only["hash"] == data.hash
    assert only["val_docs"] == data.meta["splits"]["val"]["documents"]
    assert only["val_bytes"] == data.meta["splits"]["val"]["bytes"]
    assert only["eval_tokens"] <= 1500
    floor = about["floor"]
    nats = data.meta["splits"]["val"]["floor_nats"]
    assert math.isclose(floor["val_loss"], nats / only["val_tokens"])
    assert math.isclose(floor["val_perplexity"], math.exp(floor["val_loss"]))
    assert math.isclose(floor["val_bits_per_byte"], nats / math.log(2) / only["val_bytes"])


def test_tokenizers_share_a_hash_and_have_each_its_own_facts() -> None:
    both = {"char": tiny.stories(), "bpe:300": tiny.stories(tokenizer="bpe:300")}
    about = header.describe(both, tiny.config())
    assert about["tokenizer"] == "char, bpe:300"
    assert about["hash"] not in (both["char"].hash, both["bpe:300"].hash)
    one, other = (about["tokenizers"][name] for name in both)
    assert one["val_bytes"] == other["val_bytes"]
    assert one["val_tokens"] > other["val_tokens"]
    assert math.isclose(one["floor"]["val_bits_per_byte"], other["floor"]["val_bits_per_byte"])


def test_the_source_of_an_own_corpus_is_noted_beside_its_hash() -> None:
    data = tiny.stories()
    own = replace(data, meta={**data.meta, "source_sha256": "ab" * 32})
    assert "source_sha256" not in header.describe({"char": data}, header.pin_eval_tokens(tiny.config(), 1000))
    described = header.describe({"char": own}, header.pin_eval_tokens(tiny.config(), 1000))
    assert described["source_sha256"] == "ab" * 32
