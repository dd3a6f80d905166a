"""Out of memory: recognise it, release the failed pass, and repeat the work with smaller micro-batches."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from typing import TypeVar

import torch

from data.errors import UserError
from trainer.device import Machine

T = TypeVar("T")
# in messages of plain RuntimeErrors of torch: of CUDA's runtime and MPS, cuBLAS and cuDNN, the CPU's allocator
SHORTAGE = ("out of memory", "STATUS_ALLOC_FAILED", "DefaultCPUAllocator")


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that memory did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SHORTAGE)


class MicroBatch:
    """The number of sequences per forward pass, halved for good whenever memory does not suffice.

    size: the present number. fits: the same once it was limited or halved, else None.
    """

    def __init__(self, size: int, block_size: int, machine: Machine, n_ranks: int, advice: str) -> None:
        """advice: what the error recommends in a run of several processes, where one cannot repeat its pass alone."""
        self.size = size
        self.fits: int | None = None
        self._block_size, self._machine, self._n_ranks, self._advice = block_size, machine, n_ranks, advice

    def limit(self, fits: int | None) -> None:
        """Take at most `fits` sequences, as many as fit into memory; None changes nothing. Raises UserError below 1."""
        if fits is None:
            return
        if fits < 1:
            raise UserError(f"micro_batch: {fits}, but a pass takes at least 1 sequence")
        self.size = self.fits = min(self.size, fits)

    def attempt(self, work: Callable[[int], T], undo: Callable[[], None]) -> T:
        """Call work(size). While memory does not suffice, call undo() and repeat with half the size (rounded up).

        Raises torch.OutOfMemoryError where a single sequence does not fit, or where other processes wait for this one.
        """
        while True:
            try:
                return work(self.size)
            except Exception as error:
                if not ran_out(error):
                    raise
                traceback.clear_frames(error.__traceback__)  # the frames hold the tensors of the failed pass
                if self.size == 1 or self._n_ranks > 1:
                    raise torch.OutOfMemoryError(f"{self._why_not_smaller()} ({error})") from error
            # outside the except block: the exception, which held the tensors of the failed pass, is released
            undo()
            self.size = self.fits = -(-self.size // 2)
            gc.collect()
            self._machine.empty_cache()

    def _why_not_smaller(self) -> str:
        if self.size == 1:
            return f"not even one sequence of block_size {self._block_size} fits into memory"
        return (
            f"{self.size} sequences of block_size {self._block_size} in one pass do not fit into memory, and one of "
            f"{self._n_ranks} processes cannot go back alone: {self._advice}"
        )
