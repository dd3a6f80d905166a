"""A prepared corpus for training and evaluation: token streams with document offsets.

A split is one stream of token ids. Where the corpus has several documents the stream is
`EOT doc_0 EOT doc_1 EOT ... doc_n EOT`, so that every token of every document, and the end of it, is
a target exactly once; a one-document corpus has no EOT (nanoGPT's Shakespeare: N - 1 targets).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Split:
    """One of train, val, test.

    tokens: (N,) uint16 or uint32, memory-mapped or in Ray's object store, never written to.
    doc_starts: (D + 1,) int64; document d's targets are tokens[doc_starts[d]:doc_starts[d + 1]];
        doc_starts[0] == 1 (nothing predicts the first token) and doc_starts[D] == N.
    floor_nll: (D,) float64, nats: the exact negative log-likelihood of each document under the
        distribution that made it; None for real text, whose distribution is unknown.
    """

    tokens: np.ndarray
    doc_starts: np.ndarray
    floor_nll: np.ndarray | None = None

    @property
    def n_targets(self) -> int:
        return len(self.tokens) - 1

    @property
    def n_docs(self) -> int:
        return len(self.doc_starts) - 1


@dataclass(frozen=True)
class Dataset:
    """A prepared corpus. The test split stays on disk (`data.prepare.load_test`): a search never reads it.

    n_classes: C, the number of real classes; rows of the head beyond it are padding, never classes.
    token_bytes: (C,) int64: UTF-8 bytes each token stands for, 0 for special tokens.
    hash: hex digest over the content of the splits and the tokenizer: equal hash, equal numbers.
    path: the folder in the cache (meta.json, tokenizer files, *.npy).
    meta: what `prepare` recorded in meta.json (document counts, bytes, revision, licence, digest of own source).
    """

    corpus: str
    tokenizer: str
    n_classes: int
    eot: int | None
    token_bytes: np.ndarray
    train: Split
    val: Split
    hash: str
    path: Path
    meta: dict[str, Any] = field(default_factory=dict)
