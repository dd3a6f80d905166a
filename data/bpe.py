"""The ranks of a BPE tokenizer: trained on a corpus, or GPT-2's from a file, a cache or, at last, the network."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from data.bpe_training import LENGTH
from data.download import download
from data.encode import bar
from data.errors import UserError
from data.paths import at_home, entry
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


def train_bpe(texts: Iterable[str], n_classes: int, name: str, progress: bool = False) -> BpeTokenizer:
    """Byte-level BPE with n_classes classes, the EOT included, trained on texts; the same texts give the same ranks.

    Words are cut at `LONGEST_WORD` bytes, so that a text without spaces does not take hours. Trained in a process of
    its own, which Ctrl-C ends. name: the corpus, for the UserError when its text has too few pairs for that many
    classes.
    """
    ranks = parse_ranks(_train(texts, n_classes, progress))
    if len(ranks) != n_classes - 1:
        raise UserError(
            f"{name}: too short a text for bpe:{n_classes}: its training split yields {len(ranks) + 1} classes; "
            f"use bpe:{len(ranks) + 1} or fewer, or char",
            kind="too_short",
            keys=f"bpe:{n_classes}",
        )
    return BpeTokenizer(f"bpe:{n_classes}", ranks)


def _train(texts: Iterable[str], n_classes: int, progress: bool) -> bytes:
    """The output of `python -m data.bpe_training`."""
    command = [sys.executable, "-m", "data.bpe_training", f"{n_classes - 1}", f"{int(progress)}"]
    root = Path(__file__).resolve().parents[1]
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.PIPE) as child,
    ):
        assert child.stdin is not None
        assert child.stderr is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended; its exit status and last words follow
                for text in texts:
                    encoded = text.encode("utf-8")
                    child.stdin.write(LENGTH.pack(len(encoded)) + encoded)
                child.stdin.close()
            problem = _follow(child.stderr, f"merging bpe:{n_classes}", progress)
            status = child.wait()
        finally:
            child.kill()  # for Ctrl-C and whatever else ends this block early
        if status == -signal.SIGKILL:
            problem = f"bpe:{n_classes}: its training was killed, most likely as the memory was full; take less text"
            raise UserError(problem, kind="killed", keys=f"bpe:{n_classes}")
        if status:
            raise RuntimeError(f"python -m data.bpe_training ended with exit status {status}: {problem}")
        output.seek(0)
        return output.read()


def _follow(stream: IO[bytes], label: str, progress: bool) -> str:
    """Show the lines of progress until the stream ends. Returns the last line that is none."""
    last, done = "", 0
    with contextlib.ExitStack() as stack:
        advance: Callable[[int], None] | None = None
        for line in stream:
            try:
                measured = json.loads(line)
                current, total = measured["current"], measured["total"]
            except (ValueError, TypeError, KeyError):
                last = line.decode(errors="replace").strip() or last
                continue
            if measured["stage"] == "Compute merges":  # the stages before it take a moment
                advance = advance or stack.enter_context(bar(label, total, progress))
                advance(current - done)
                done = current
    return last


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
        there = entry(path)
        if there not in ("file", ""):
            raise UserError(f"{source}: {path} is a {there}, not a file; {_INSTEAD}", kind="no_file")
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
