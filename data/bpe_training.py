"""Train the ranks of a BPE tokenizer; `data.bpe` feeds texts to this program and shows its progress.

Run: python -m data.bpe_training CLASSES SHOW < texts > ranks
reads texts (each an unsigned 64-bit length, little-endian, then so many bytes of UTF-8) and writes tiktoken's ranks.
SHOW 1: progress as lines of JSON on stderr. It is a program of its own, as the library does not listen to Ctrl-C while
it merges: a process can be ended.
"""

from __future__ import annotations

import signal
import struct
import sys
from collections.abc import Iterator
from typing import IO

from data.tokenizers import dump_ranks

# Bytes. The trainer's time is quadratic in the length of a word, and text without spaces is one word. No word of a
# language comes near this, nor a sentence of one that is written without spaces.
LONGEST_WORD = 4096
LENGTH = struct.Struct("<Q")


def main(n_ranks: int, show: bool) -> None:
    """Train n_ranks ranks (fewer where the texts have too few pairs) on the texts from stdin."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches the whole process group: end, without a traceback
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.FixedLength(LONGEST_WORD)])
    trainer = trainers.BpeTrainer(
        vocab_size=n_ranks,
        special_tokens=[],  # without special tokens the ids are the order of the merges, without gaps
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # all 256 bytes: any text can be encoded
        show_progress=show,
        progress_format="json",
    )
    tokenizer.train_from_iterator(_texts(sys.stdin.buffer), trainer)
    byte_of = _bytes_of_characters()
    ranks = {bytes(byte_of[c] for c in token): rank for token, rank in tokenizer.get_vocab().items()}
    sys.stdout.buffer.write(dump_ranks(ranks))


def _texts(stream: IO[bytes]) -> Iterator[str]:
    while head := stream.read(LENGTH.size):
        yield stream.read(*LENGTH.unpack(head)).decode("utf-8")


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's alphabet of 256 visible characters -> the byte each stands for (openai/gpt-2, encoder.py)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "1")
