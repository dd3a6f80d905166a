"""Tokenizers: what goes in comes out, whatever it is, and a tokenizer is the same in every process."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import bpe
from data.bpe import RANKS_URL, load_gpt2, train_bpe
from data.bpe_training import LONGEST_WORD
from data.documents import pieces
from data.stories import generate
from data.tokenizers import BpeTokenizer, CharTokenizer, Tokenizer, characters_of, check_name, load
from tests.refusals import facts, refusal
from tests.waiting import CEILING, until

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = [
    "",
    "plain words, it's 2024's",
    "emoji 🐈‍⬛ 👩‍👩‍👧 🇩🇪",
    "mojibake â€œWowâ€\x9d ï»¿",
    "CRLF\r\nlone\rCR\n\r\n\r",
    "NUL\x00\x00 and \x1c\x7f\x85\xa0\u2028\u3000 controls",
    "a literal <|endoftext|> inside\n<|endoftext|>\nit",
    "é vs e\u0301, ﬁ, Ω, 字典, עברית, \U0010ffff\ue000",
    "word" * 3000,
    " " * 3000 + "x\n" + "\n" * 3000 + "\t \t",
]


@cache
def trained() -> BpeTokenizer:
    return train_bpe((generate(0, i) for i in range(50)), 400, "stories")


def tokenizer_for(kind: str, text: str) -> Tokenizer:
    return CharTokenizer(characters_of([text, "a"]), ends=True) if kind == "char" else trained()


@pytest.fixture
def gpt2(sample_data: Path, tmp_path: Path) -> BpeTokenizer:
    return load_gpt2(f"gpt2:{sample_data}/gpt2/gpt2.tiktoken", tmp_path)


def check_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.eot not in ids  # whatever a document says, it does not end it
    assert tokenizer.token_bytes[ids].sum() == len(text.encode("utf-8"))
    assert len(ids) == 0 or ids.max() < tokenizer.n_classes


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:12].encode("unicode_escape").decode() for text in HOSTILE])
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_hostile_text_comes_back_unchanged(kind: str, text: str) -> None:
    check_round_trip(tokenizer_for(kind, text), text)


@given(st.text())
@example("\r\n")
@settings(max_examples=300, deadline=None)
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_any_unicode_comes_back_unchanged(kind: str, text: str) -> None:
    check_round_trip(tokenizer_for(kind, text), text)


def test_gpt2_is_gpt2(gpt2: BpeTokenizer) -> None:
    assert gpt2.encode("hello world").tolist() == [31373, 995]
    assert (gpt2.n_classes, gpt2.eot, gpt2.name) == (50257, 50256, "gpt2")
    assert gpt2.decode([31373, 50256]) == "hello<|endoftext|>"
    for text in HOSTILE:
        check_round_trip(gpt2, text)


@pytest.mark.parametrize("kind", ["char", "bpe"])
@pytest.mark.parametrize("text", ["abc\ud83d", "abc\udc00def"])
def test_half_a_character_is_refused_with_its_place(kind: str, text: str) -> None:
    error = refusal(lambda: tokenizer_for(kind, "abc").encode(text))
    assert error.kind == "surrogate"
    assert str(error).startswith(f"text: lone surrogate U+{ord(text[3]):04X} at character 3 ")


def test_a_prompt_with_a_character_the_corpus_lacks_is_refused_by_name() -> None:
    tokenizer = CharTokenizer("abc", ends=False)
    for prompt in ("ab€", "ab!"):
        error = refusal(lambda: tokenizer.encode(prompt))  # noqa: B023
        assert facts(error) == ("unknown", (prompt[2],), None)
        assert str(error) == (
            f"character '{prompt[2]}' (U+{ord(prompt[2]):04X}) at position 2 is not in the vocabulary of this corpus, "
            "which has 3 characters: 'abc'"
        )


def test_char_has_nanogpts_65_classes(sample_data: Path) -> None:
    text = (sample_data / "shakespeare" / "input.txt").read_text()
    tokenizer = CharTokenizer(characters_of([text]), ends=False)
    assert tokenizer.n_classes == 65
    assert list(tokenizer.characters) == sorted(set(text))
    assert tokenizer.eot is None


@pytest.mark.parametrize("n_classes", [257 + 1, 300, 400])
def test_bpe_has_the_classes_it_was_asked_for(n_classes: int) -> None:
    tokenizer = train_bpe((generate(0, i) for i in range(50)), n_classes, "stories")
    assert tokenizer.n_classes == n_classes == len(tokenizer.token_bytes)
    assert tokenizer.eot == n_classes - 1
    assert (tokenizer.token_bytes == 0).sum() == 1
    assert sorted(tokenizer.ranks.values()) == list(range(n_classes - 1))


def test_bpe_that_a_text_is_too_short_for_names_what_it_yields() -> None:
    error = refusal(lambda: train_bpe(["a short text, a short text"], 5000, "tiny"))
    assert facts(error) == ("too_short", ("bpe:5000",), None)
    n_classes = re.findall(r"bpe:(\d+)", str(error))[1]
    assert train_bpe(["a short text, a short text"], int(n_classes), "tiny").n_classes == int(n_classes)
    assert str(error) == (
        f"tiny: too short a text for bpe:5000: its training split yields {n_classes} classes; use bpe:{n_classes} or "
        "fewer, or char"
    )


def test_tiktoken_encodes_as_the_library_that_trained(sample_data: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    text = (sample_data / "tinystories" / "sample.txt").read_text()[:60_000]
    text += "".join(part[:LONGEST_WORD] for part in HOSTILE)  # longer words are cut, see below
    other = Tokenizer(models.BPE())
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    other.train_from_iterator([text], trainers.BpeTrainer(vocab_size=899, initial_alphabet=alphabet))
    assert train_bpe([text], 900, "sample").encode(text).tolist() == other.encode(text).ids


TRAIN = """
import hashlib
from data.bpe import train_bpe
from data.stories import generate
from data.tokenizers import dump_ranks
print(hashlib.sha256(dump_ranks(train_bpe((generate(0, i) for i in range(300)), 900, "stories").ranks)).hexdigest())
"""


def test_the_same_text_trains_the_same_bpe_in_every_process() -> None:
    digests = set()
    for threads in ("1", "2"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        command = [sys.executable, "-c", TRAIN]
        digests.add(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert len(digests) == 1


def test_text_without_spaces_trains_in_seconds_and_long_words_are_learned_whole() -> None:
    started = time.monotonic()
    tokenizer = train_bpe(["a" * 400_000], 258, "no spaces")
    assert time.monotonic() - started < 60  # it took 140 s for one merge: the trainer is quadratic in a word's length
    assert tokenizer.decode([256]) == "aa"
    longest = train_bpe(["x" * 1000] * 3 + ["y" * 1000] * 3, 276, "long words").ranks
    assert b"x" * 512 in longest  # nothing that a language writes is cut


def test_words_of_any_language_are_not_cut(sample_data: Path) -> None:
    text = (sample_data / "shakespeare" / "input.txt").read_text()[:300_000]
    longest = max(len(word.encode()) for word in re.findall(r"\S+", text))
    assert 40 * longest < LONGEST_WORD


INTERRUPTED = """
import random
from data.bpe import train_bpe
text = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=3_000_000))  # half a minute of merges
try:
    train_bpe([text], 300_000, "noise", progress=True)
except KeyboardInterrupt:
    print("interrupted")
else:
    print("trained to its end")
"""


def test_ctrl_c_ends_the_training_of_a_bpe_and_its_process(tmp_path: Path) -> None:
    with (tmp_path / "shown").open("wb") as shown:
        command, environment = [sys.executable, "-c", INTERRUPTED], {**os.environ, "FORCE_COLOR": "1"}  # as a terminal
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=shown) as child:
            until(lambda: "merging bpe:300000" in (tmp_path / "shown").read_text(), "the bar of the merges")
            children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
            child.send_signal(signal.SIGINT)
            assert child.communicate(timeout=CEILING)[0] == b"interrupted\n"
    assert len(children) == 1
    assert not Path(f"/proc/{children[0]}").exists()


@pytest.mark.parametrize("tokenizer", [CharTokenizer('a"é\x00🐈\r', ends=True), trained()], ids=["char", "bpe"])
def test_what_is_saved_loads_as_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    assert load(tmp_path) == tokenizer
    assert {file.suffix for file in tmp_path.iterdir()} <= {".json", ".tiktoken"}


@pytest.mark.parametrize(
    ("name", "kept"),
    [("char", "char"), ("gpt2", "gpt2"), ("gpt2:/some/file", "gpt2"), ("bpe:0512", "bpe:512"), ("bpe:258", "bpe:258")],
)
def test_a_tokenizer_is_known_by_name(name: str, kept: str) -> None:
    assert check_name(name) == kept


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("chars", "unknown"),
        ("gpt-2", "unknown"),
        ("bpe:", "form"),
        ("bpe:1k", "form"),
        ("bpe:257", "form"),
        ("bpe:1048577", "form"),
        ("bpe:" + "9" * 5000, "form"),  # more digits than Python reads
        ("char:x", "unknown"),
    ],
)
def test_an_unknown_tokenizer_is_refused(name: str, kind: str) -> None:
    assert facts(refusal(lambda: check_name(name))) == (kind, (name,), None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chars", "tokenizer chars is not known; did you mean char?"),
        ("bpe:1k", "tokenizer bpe:1k: write bpe:N with N classes, 258 <= N <= 1,048,576 (256 are the bytes)"),
    ],
)
def test_what_the_refusal_of_a_tokenizer_says(name: str, message: str) -> None:
    assert str(refusal(lambda: check_name(name))) == message


# --- GPT-2's ranks without a network ---


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "RANKS_URL", "http://127.0.0.1:9/r50k_base.tiktoken")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    monkeypatch.delenv("NANOSWEEP_GPT2_RANKS", raising=False)


@pytest.mark.usefixtures("no_network")
def test_gpt2_comes_from_the_variable(sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOSWEEP_GPT2_RANKS", f"{sample_data}/gpt2/gpt2.tiktoken")
    assert load_gpt2("gpt2", tmp_path).n_classes == 50257


def test_gpt2_comes_from_tiktokens_cache(sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NANOSWEEP_GPT2_RANKS", raising=False)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    shutil.copy(sample_data / "gpt2" / "gpt2.tiktoken", tmp_path / hashlib.sha1(RANKS_URL.encode()).hexdigest())
    assert load_gpt2("gpt2", tmp_path / "cache").n_classes == 50257
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("content", "kind", "problem"),
    [
        (None, "cannot_read", "cannot read {}: No such file"),
        (b"not a ranks file", "unreadable", "{} is not a tiktoken ranks file ("),
        (b"\x80\xff \xfe", "unreadable", "{} is not a tiktoken ranks file ("),
        (b"IQ== 0\nIg== 1\n", "other_ranks", "{} holds 2 ranks that are not GPT-2's; "),
    ],
)
def test_a_wrong_ranks_file_is_refused(content: bytes | None, kind: str, problem: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "ranks").write_bytes(content)
    error = refusal(lambda: load_gpt2(f"gpt2:{tmp_path}/ranks", tmp_path))
    assert error.kind == kind
    assert problem.format(tmp_path / "ranks") in str(error)


@pytest.mark.usefixtures("no_network")
def test_ranks_that_are_no_file_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ranks")  # reading it would wait for a writer for ever
    assert refusal(lambda: load_gpt2(f"gpt2:{tmp_path}/ranks", tmp_path)).kind == "no_file"
    assert refusal(lambda: load_gpt2(f"gpt2:{tmp_path}", tmp_path)).kind == "no_file"


@pytest.mark.usefixtures("no_network")
def test_gpt2_without_a_network_names_the_file_to_give(tmp_path: Path) -> None:
    error = refusal(lambda: load_gpt2("gpt2", tmp_path))
    assert error.kind == "no_network"
    assert "gpt2:PATH or in NANOSWEEP_GPT2_RANKS" in str(error)


# --- long documents are tokenised in pieces ---


@given(st.text(alphabet=st.one_of(st.sampled_from(" \n\t\r'sa.字\u3000"), st.characters(codec="utf-8")), min_size=1))
@settings(max_examples=400, deadline=None)
def test_the_pieces_of_a_document_have_the_documents_tokens(text: str) -> None:
    blob = np.frombuffer(text.encode(), dtype=np.uint8)
    cuts = list(pieces(blob, 0, len(blob), size=8))
    assert [cuts[0][0], *(stop for _, stop in cuts)] == [*(start for start, _ in cuts), len(blob)]
    parts = [blob[start:stop].tobytes().decode() for start, stop in cuts]
    assert np.concatenate([trained().encode(part) for part in parts]).tolist() == trained().encode(text).tolist()


def test_a_long_document_is_cut_and_nothing_changes() -> None:
    text = " ".join(HOSTILE) * 10 + "字 典é\n " * 40_000
    blob = np.frombuffer(text.encode(), dtype=np.uint8)
    parts = [blob[start:stop].tobytes().decode() for start, stop in pieces(blob, 0, len(blob), size=70_001)]
    assert len(parts) > 5
    assert np.concatenate([trained().encode(part) for part in parts]).tolist() == trained().encode(text).tolist()
