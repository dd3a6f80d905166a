"""Tokenizers `char`, `gpt2` and `bpe:N`: text to ids and back. They are saved as JSON and tiktoken ranks, not pickled.

A tokenizer has C real classes (`n_classes`) and the bytes of each (`token_bytes`), which turn nats per token into bits
per byte. No special token is parsed from text: a literal `<|endoftext|>` in a document does not end it. `encode` raises
UserError for text that `decode` could not give back unchanged.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.documents import encode_utf8
from data.errors import UserError, nearest

if TYPE_CHECKING:
    import tiktoken

END_OF_TEXT = "<|endoftext|>"  # how decoded text shows the end of a document, which is a class of its own
RANKS_FILE = "ranks.tiktoken"
JSON_FILE = "tokenizer.json"
MOST_CLASSES = 1 << 20  # of bpe:N, several times as many as any model has; the trainer reserves memory for all of them

# GPT-2's pre-tokens (openai/gpt-2, encoder.py), in tiktoken's form without backtracking
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


@dataclass(frozen=True)
class CharTokenizer:
    """One class per character of the corpus, sorted as nanoGPT does; then one for the end of a document.

    characters: in order of their code points. ends: whether the corpus has several documents, hence an EOT class.
    """

    characters: str
    ends: bool
    name: str = "char"

    @property
    def n_classes(self) -> int:
        return len(self.characters) + self.ends

    @property
    def eot(self) -> int | None:
        return len(self.characters) if self.ends else None

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """(C,) int64: UTF-8 bytes of each class, 0 for EOT."""
        sizes = [len(character.encode("utf-8")) for character in self.characters]
        return np.array(sizes + [0] * self.ends, dtype=np.int64)

    @cached_property
    def _ids(self) -> np.ndarray:
        """(highest code point + 2,) int32: the id of each code point, -1 for those outside the vocabulary."""
        table = np.full(max(map(ord, self.characters)) + 2, -1, dtype=np.int32)
        table[[ord(character) for character in self.characters]] = np.arange(len(self.characters))
        return table

    def encode(self, text: str) -> np.ndarray:
        """(n,) uint32. UserError for a character that the vocabulary lacks."""
        points = _code_points(text)
        ids = self._ids[np.minimum(points, len(self._ids) - 1)]
        if len(ids) and ids.min() < 0:
            at = int(np.argmax(ids < 0))
            shown = self.characters if len(self.characters) <= 100 else f"{self.characters[:100]}..."
            raise UserError(
                f"character {text[at]!r} (U+{ord(text[at]):04X}) at position {at} is not in the vocabulary of this "
                f"corpus, which has {len(self.characters)} characters: {shown!r}",
                kind="unknown",
                keys=text[at],
            )
        return ids.astype(np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; EOT is shown as <|endoftext|>."""
        words = [*self.characters, END_OF_TEXT] if self.ends else list(self.characters)
        return "".join(words[int(i)] for i in ids)

    def save(self, folder: Path) -> None:
        content = {"kind": "char", "name": self.name, "characters": self.characters, "ends": self.ends}
        (folder / JSON_FILE).write_text(json.dumps(content), encoding="utf-8")


@dataclass(frozen=True)
class BpeTokenizer:
    """Byte-level BPE with GPT-2's pre-tokens, encoded by tiktoken; the last class is EOT.

    ranks: bytes of a token -> id, which is also the order of the merges (Sennrich et al. 2016, as in GPT-2).
    """

    name: str
    ranks: dict[bytes, int]

    @property
    def n_classes(self) -> int:
        return len(self.ranks) + 1

    @property
    def eot(self) -> int:
        return len(self.ranks)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """(C,) int64: bytes of each class, 0 for EOT."""
        sizes = np.zeros(self.n_classes, dtype=np.int64)
        for token, rank in self.ranks.items():
            sizes[rank] = len(token)
        return sizes

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        import tiktoken

        return tiktoken.Encoding(
            self.name,
            pat_str=GPT2_PATTERN,
            mergeable_ranks=self.ranks,
            special_tokens={END_OF_TEXT: self.eot},
            explicit_n_vocab=self.n_classes,
        )

    def encode(self, text: str) -> np.ndarray:
        """(n,) uint32. UserError for lone surrogates."""
        encode_utf8(text, "text")  # tiktoken would replace them silently
        return np.array(self._encoding.encode_ordinary(text), dtype=np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; EOT is shown as <|endoftext|>, bytes that are not UTF-8 (cut characters) as U+FFFD."""
        return self._encoding.decode([int(i) for i in ids], errors="replace")

    def save(self, folder: Path) -> None:
        (folder / JSON_FILE).write_text(json.dumps({"kind": "bpe", "name": self.name}), encoding="utf-8")
        (folder / RANKS_FILE).write_bytes(dump_ranks(self.ranks))


Tokenizer = CharTokenizer | BpeTokenizer


def load(folder: Path) -> Tokenizer:
    """The tokenizer that was saved in a folder. Raises UserError where there is none, or a file of it is damaged."""
    file = folder / JSON_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["kind"] == "char":
            return CharTokenizer(content["characters"], content["ends"], content["name"])
        file = folder / RANKS_FILE
        return BpeTokenizer(content["name"], parse_ranks(file.read_bytes()))
    except FileNotFoundError:
        raise UserError(f"{folder} has no tokenizer ({file.name} is missing)", kind="missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{file} is cut or damaged ({type(error).__name__}); restore a copy"
        raise UserError(problem, kind="damaged") from None


def check_name(name: str) -> str:
    """The tokenizer's name as the cache records it (`gpt2` for `gpt2:PATH`). UserError for an unknown one."""
    kind, _, rest = name.partition(":")
    if name == "char" or kind == "gpt2":
        return kind
    if kind == "bpe":
        # 256 bytes, at least one merge, EOT
        if rest.isdecimal() and len(rest) < 10 and 258 <= int(rest) <= MOST_CLASSES:
            return f"bpe:{int(rest)}"
        problem = f"tokenizer {name}: write bpe:N with N classes, 258 <= N <= {MOST_CLASSES:,} (256 are the bytes)"
        raise UserError(problem, kind="form", keys=name)
    hint = nearest(name, ("char", "gpt2", "gpt2:PATH", "bpe:N"))
    raise UserError(f"tokenizer {name} is not known; {hint}", kind="unknown", keys=name)


def split_path(name: str) -> tuple[str, str, str]:
    """A tokenizer's name as what stands before its path, the path on this machine (empty: none), and what follows.

    >>> split_path("gpt2:a/ranks"), split_path("bpe:512")
    (('gpt2:', 'a/ranks', ''), ('', '', ''))
    """
    kind, colon, path = name.partition(":")
    return (f"{kind}{colon}", path, "") if kind == "gpt2" and path else ("", "", "")


def dump_ranks(ranks: dict[bytes, int]) -> bytes:
    """tiktoken's file format: a line `base64(token) rank` per token, in order of rank."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ordered)


def parse_ranks(content: bytes) -> dict[bytes, int]:
    """The inverse of `dump_ranks`; ValueError for anything else."""
    pairs = (line.split() for line in content.splitlines() if line)
    return {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}


def _code_points(text: str) -> np.ndarray:
    """(n,) uint32. UserError for lone surrogates."""
    try:
        return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    except UnicodeEncodeError:
        encode_utf8(text, "text")
        raise


def characters_of(texts: Iterable[str]) -> str:
    """All characters of the texts, sorted by code point."""
    seen = np.zeros(0x110000, dtype=bool)
    for text in texts:
        seen[_code_points(text)] = True
    return "".join(map(chr, np.flatnonzero(seen)))
