"""Data-parallel training in several processes: `torchrun --nproc_per_node=2 -m trainer CONFIG`.

The config describes the whole step (batch_size x gradient_accumulation_steps rows); the ranks share its rows. So
the same config gives the same loss curve on one process and on eight, up to the order of sums.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from data.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """The rank of this process and the number of processes in the run. Default: rank 0 of 1."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def share(self, rows: int) -> tuple[int, int]:
        """(first, count) of this rank's part of a step's rows. Raises UserError where they do not divide."""
        if rows % self.size:
            raise UserError(
                f"a step of {rows} rows (batch_size x gradient_accumulation_steps) cannot be shared equally by "
                f"{self.size} processes; make it a multiple of {self.size}"
            )
        count = rows // self.size
        return self.rank * count, count

    def sum(self, array: np.ndarray, device: torch.device) -> np.ndarray:
        """The sum of every rank's array, on every rank, in the array's own precision."""
        if self.size == 1:
            return array
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(device if device.type == "cuda" else "cpu")
        dist.all_reduce(tensor)
        return tensor.cpu().numpy()

    def add(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over the ranks, without waiting for a GPU."""
        if self.size > 1:
            dist.all_reduce(tensor)


@contextlib.contextmanager
def joined(kind: str) -> Iterator[Ranks]:
    """Join torchrun's process group for the duration of the block, if there are several processes; yields the ranks.

    kind: of the device; `cuda` uses nccl, all others gloo. An existing process group is used and not destroyed.
    """
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
        return
    ranks = from_environment()
    if ranks.size == 1:
        yield ranks
        return
    backend = "nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend)
    try:
        yield ranks
        # A gloo thread needs the GIL to free the tensors of the last collective. DDP's Reducer, freeing the group,
        # joins that thread with the GIL held: a deadlock, seen in 1 of 4 runs, unless the GIL is released in between.
        if backend == "gloo":
            dist.barrier()
            time.sleep(0.05)
    finally:
        dist.destroy_process_group()


def from_environment() -> Ranks:
    """Read the ranks from torchrun's environment variables; rank 0 of 1 without them."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # RANK alone may be left over from another launcher
        return Ranks()
    return Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
