"""When memory does not suffice: recognise it, let go of what was begun, do the same work again in smaller pieces."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from typing import TypeVar

import torch

from data.errors import UserError
from trainer.device import Machine

T = TypeVar("T")
# in what torch raises as a plain RuntimeError: CUDA's runtime and MPS, cuBLAS and cuDNN, the allocator of the CPU
SHORTAGE = ("out of memory", "STATUS_ALLOC_FAILED", "DefaultCPUAllocator")


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that memory did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SHORTAGE)


class MicroBatch:
    """How many sequences go through the model in one pass: fewer, from then on, whenever memory does not suffice.

    size: at present. known: the same, but None while none was given and nothing had to be halved.
    """

    def __init__(self, size: int, block_size: int, machine: Machine, n_ranks: int, advice: str) -> None:
        """advice: what one of several processes, which cannot go back alone, is told to change."""
        self.size = size
        self.fits: int | None = None
        self._block_size, self._machine, self._n_ranks, self._advice = block_size, machine, n_ranks, advice

    def limit(self, fits: int | None) -> None:
        """Take at most `fits` sequences, which are known to fit; None says nothing. Raises UserError below 1."""
        if fits is None:
            return
        if fits < 1:
            raise UserError(f"micro_batch: {fits}, but a pass takes at least 1 sequence")
        self.size = self.fits = min(self.size, fits)

    def attempt(self, work: Callable[[int], T], undo: Callable[[], None]) -> T:
        """work(size), undone and begun again with half as many sequences (rounded up) until memory suffices.

        Raises torch.OutOfMemoryError where a single sequence is too much, or where other processes wait for this one.
        """
        while True:
            try:
                return work(self.size)
            except Exception as error:
                if not ran_out(error):
                    raise
                traceback.clear_frames(error.__traceback__)  # they hold the pass that did not fit
                if self.size == 1 or self._n_ranks > 1:
                    raise torch.OutOfMemoryError(f"{self._why_not_smaller()} ({error})") from error
            # out here the exception is gone, and with it the last that held the pass
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
