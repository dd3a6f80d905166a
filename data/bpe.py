"""The ranks of a BPE tokenizer: trained on a corpus, or GPT-2's from a file, a cache or, at last, the network."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from data.download import download
from data.errors import UserError
from data.paths import at_home
from data.tokenizers import BpeTokenizer, dump_ranks, parse_ranks

# tiktoken's r50k_base file: GPT-2's ranks (tiktoken_ext/openai_public.py gives both the same pattern and size)
RANKS_URL = "https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken"
RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
RANKS_VARIABLE = "NANOSWEEP_GPT2_RANKS"
_INSTEAD = f"name a GPT-2 ranks file as tokenizer gpt2:PATH or in {RANKS_VARIABLE}"

# the files of tiktoken.get_encoding("gpt2") and their sha256
_GPT2_FILES = {
    "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe": (
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    ),
    "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/encoder.json": (
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    ),
}


def train_bpe(texts: Iterable[str], n_classes: int, name: str) -> BpeTokenizer:
    """Byte-level BPE with n_classes classes, the EOT included, trained on texts; the same texts give the same ranks.

    name: the corpus, for the UserError when its text has too few pairs for that many classes.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=n_classes - 1,
        special_tokens=[],  # without special tokens the ids are the order of the merges, without gaps
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # all 256 bytes: any text can be encoded
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    byte_of = _bytes_of_characters()
    ranks = {bytes(byte_of[c] for c in token): rank for token, rank in tokenizer.get_vocab().items()}
    if len(ranks) != n_classes - 1:
        raise UserError(
            f"{name}: too short a text for bpe:{n_classes}: its training split yields {len(ranks) + 1} classes; "
            f"use bpe:{len(ranks) + 1} or fewer, or char",
            kind="too_short",
            keys=f"bpe:{n_classes}",
        )
    return BpeTokenizer(f"bpe:{n_classes}", ranks)


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's alphabet of 256 visible characters -> the byte each stands for (openai/gpt-2, encoder.py)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def load_gpt2(name: str, cache: Path) -> BpeTokenizer:
    """GPT-2's tokenizer from `gpt2:PATH`, $NANOSWEEP_GPT2_RANKS, tiktoken's cache, or downloaded once."""
    path = name.partition(":")[2]
    source = f"tokenizer {name}"
    if not path and (path := os.environ.get(RANKS_VARIABLE, "")):
        source = RANKS_VARIABLE
    if path:
        return BpeTokenizer("gpt2", _read_ranks(at_home(path), source))
    if cached := _tiktoken_cached(RANKS_URL, RANKS_SHA256):
        return BpeTokenizer("gpt2", parse_ranks(cached.read_bytes()))
    if all(_tiktoken_cached(url, sha256) for url, sha256 in _GPT2_FILES.items()):
        import tiktoken

        return BpeTokenizer("gpt2", tiktoken.get_encoding("gpt2")._mergeable_ranks)
    file = download(RANKS_URL, RANKS_SHA256, cache / "downloads" / "gpt2.tiktoken", _INSTEAD)
    return BpeTokenizer("gpt2", parse_ranks(file.read_bytes()))


def _read_ranks(path: Path, source: str) -> dict[bytes, int]:
    try:
        content = path.read_bytes()
    except OSError as error:
        problem = f"{source}: cannot read {path}: {error.strerror}; {_INSTEAD}"
        raise UserError(problem, kind="cannot_read") from None
    try:
        ranks = parse_ranks(content)
    except ValueError as error:
        problem = f"{source}: {path} is not a tiktoken ranks file ({error}); {_INSTEAD}"
        raise UserError(problem, kind="unreadable") from None
    if hashlib.sha256(dump_ranks(ranks)).hexdigest() != RANKS_SHA256:
        problem = f"{source}: {path} holds {len(ranks):,} ranks that are not GPT-2's; {_INSTEAD}"
        raise UserError(problem, kind="other_ranks")
    return ranks


def _tiktoken_cached(url: str, sha256: str) -> Path | None:
    """The file in tiktoken's own cache (its rule: sha1 of the URL), if it is there and whole."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        folder = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    path = Path(folder) / hashlib.sha1(url.encode()).hexdigest()
    if not folder or not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        return None
    return path
