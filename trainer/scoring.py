"""One pass of a model over a split: a few numbers for each target, with few logits in memory at once.

The caller (trainer.evaluate) computes the numbers from logits; this file handles windows, batches, ranks and memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from data import tokens
from data.dataset import Split
from models.own_model import Model
from trainer.device import Machine
from trainer.distributed import Ranks
from trainer.memory import MicroBatch

# logits in memory at once. On a CPU they should fit into the cache: 4 MiB of float32 is 1.5 times as fast as 16 MiB,
# but with fewer than CPU_ROWS rows the matrix product loses more (at C = 50,257). A GPU needs few launches: 256 MiB
CPU_CHUNK, CPU_ROWS, GPU_CHUNK = 2**20, 96, 2**26

# logits (n, C) and targets (n,) -> (R, n), R numbers for each target
Rows = Callable[[Tensor, Tensor], Tensor]


class Scoring:
    """One model and one split; each call is a pass that computes some numbers from the logits of every wanted
    target."""

    def __init__(
        self,
        model: Model,
        split: Split,
        rule: tuple[int, int],
        n_classes: int,
        machine: Machine,
        ranks: Ranks,
        batch: MicroBatch,
    ) -> None:
        self.split = split
        self._model, self._rule, self._n_classes = model, rule, n_classes
        self._machine, self._ranks, self._batch = machine, ranks, batch

    def __call__(self, wanted: np.ndarray, n_rows: int, rows: Rows) -> np.ndarray:
        """wanted (N,) bool, M of them True; rows gives n_rows numbers for each -> (n_rows, M), on every rank."""
        context, stride = self._rule
        values = np.zeros((n_rows, int(wanted.sum())))
        column = np.cumsum(wanted) - 1

        def fill(batch_size: int) -> None:
            batches = tokens.eval_batches(self.split, context, batch_size, stride, wanted)
            for number, (x, y, at) in enumerate(batches):
                if number % self._ranks.size != self._ranks.rank:
                    continue
                with self._machine.autocast():
                    hidden = self._model(self._machine.put(x))[:, -y.shape[1] :].flatten(0, 1)  # (B·S, D)
                keep = np.flatnonzero(wanted[at])
                hidden = hidden if len(keep) == y.size else hidden[self._machine.put(keep)]
                targets = self._machine.put(y.ravel()[keep])
                values[:, column[at.ravel()[keep]]] = self._in_chunks(hidden, targets, rows)

        self._batch.attempt(fill, undo=_nothing)
        return self._ranks.sum(values, self._machine.device)

    def _in_chunks(self, hidden: Tensor, targets: Tensor, rows: Rows) -> np.ndarray:
        """`rows` of hidden (N, D) and targets (N,), chunk by chunk -> (R, N)."""
        weight = self._model.head_weight.float()[: self._n_classes]
        chunk = max(CPU_ROWS, (GPU_CHUNK if hidden.is_cuda else CPU_CHUNK) // self._n_classes)
        parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
        # float32: read-outs divide small numbers by small numbers
        return torch.cat([rows(h.float() @ weight.T, target) for h, target in parts], 1).cpu().numpy()


def _nothing() -> None:
    """Partial results need no undo: the repeated pass overwrites them."""


@contextlib.contextmanager
def evaluation_mode(model: Model) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
