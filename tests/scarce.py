"""A GPU with little memory, as near as a machine without one comes to it: torch says that it ran out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from models.gpt import Block


@dataclass
class Memory:
    """How many sequences fit, and the passes (number of sequences) for which it did not suffice."""

    training: int = 10**9
    evaluating: int = 10**9
    backward: bool = False  # whether the training pass gets as far as its backward half
    refused: list[int] = field(default_factory=list)


@contextmanager
def memory(**room: Any) -> Iterator[Memory]:
    """A `Memory` for the time of the block, which may change it on the way."""
    limits = Memory(**room)

    def refuse(size: int) -> None:
        limits.refused.append(size)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def after(module: torch.nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if not isinstance(module, Block) or len(output) <= (limits.training if module.training else limits.evaluating):
            return
        if module.training and limits.backward:
            size = len(output)
            output.register_hook(lambda _: refuse(size))
        else:
            refuse(len(output))

    handle = register_module_forward_hook(after)
    try:
        yield limits
    finally:
        handle.remove()
