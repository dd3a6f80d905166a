"""Per-document results of a full evaluation, as a file. trainer.resampling computes intervals from them.

    run folder/scores.npz     for the weights of the final report

The results are by unit: a document of the split or, where the split is one document, a cell of 128 consecutive targets
(the last one shorter), for a moving-block bootstrap. Reads without torch.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from data.dataset import Split
from data.errors import UserError
from trainer import files

SCORES = "scores.npz"
CELL = 128  # targets


def _unmeasured() -> np.ndarray:
    return np.empty(0)


@dataclass(frozen=True)
class Scores:
    """Sums over each of U units, and the reliability bins of the whole split.

    nll: (U,) float64, nats through the chosen read-out; byte_nll: (U,) float64, those of the tokens that encode bytes;
        tokens, bytes: (U,) int64, targets and the bytes they encode. Every target of the split is in one unit, so that
        the sums over units are those of the split.
    one_document: the units are cells of one document, in the order of its text; neighbours depend on each other.
    bin_count, bin_confidence, bin_accuracy: (15,) float64 over equal-width bins of the probability of the likeliest
        class: targets, mean probability, share that was right (both 0 in an empty bin); (0,) where not measured.
    tempered_count, tempered_confidence, tempered_accuracy: the same with the one temperature, of the targets that it
        was not fitted on; (0,) where there is none.
    """

    nll: np.ndarray
    byte_nll: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    one_document: bool
    bin_count: np.ndarray = field(default_factory=_unmeasured)
    bin_confidence: np.ndarray = field(default_factory=_unmeasured)
    bin_accuracy: np.ndarray = field(default_factory=_unmeasured)
    tempered_count: np.ndarray = field(default_factory=_unmeasured)
    tempered_confidence: np.ndarray = field(default_factory=_unmeasured)
    tempered_accuracy: np.ndarray = field(default_factory=_unmeasured)

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean of |accuracy - confidence|, weighted by bin (Guo et al. 2017,
        arXiv 1706.04599). 0 to 1; NaN where not measured."""
        total = self.bin_count.sum()
        gaps = np.abs(self.bin_accuracy - self.bin_confidence)
        return float((self.bin_count * gaps).sum() / total) if total else float("nan")

    def save(self, path: Path) -> None:
        """Write the file atomically. Raises UserError when the disk is full."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        files.write(path, lambda file: np.savez_compressed(file, **content))


def load(path: Path) -> Scores:
    """Read scores from their file. Raises UserError for anything else."""
    try:
        with np.load(path, allow_pickle=False) as content:
            # earlier releases did not write tempered_*
            absent = {f.name for f in fields(Scores) if f.name.startswith("tempered_")} - {*content}
            values = {f.name: content[f.name] for f in fields(Scores) if f.name not in absent}
    except FileNotFoundError:
        raise UserError(f"{path}: no scores there", kind="missing") from None
    except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile, EOFError) as error:
        problem = f"{path}: not a readable file of scores ({type(error).__name__})"
        raise UserError(problem, kind="unreadable") from None
    return Scores(**{**values, "one_document": bool(values["one_document"])})


def unit_starts(split: Split) -> np.ndarray:
    """(U + 1,) int64 among the targets: unit u is targets [starts[u], starts[u + 1]), counted from 0."""
    if split.n_docs == 1:
        return np.append(np.arange(0, split.n_targets, CELL, dtype=np.int64), split.n_targets)
    return split.doc_starts.astype(np.int64) - 1
