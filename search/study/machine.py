"""The CPU cores and GPUs of a machine that a process may use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Node:
    name: str
    cpus: float
    gpus: float


def this_machine() -> Node:
    """This machine's cores (those that we may use: affinity, container quota) and GPUs."""
    return Node("this machine", cpus(), gpus())


def cpus() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return available if quota == "max" else max(1, min(available, int(quota) // int(period)))
    except (OSError, ValueError):
        return available


def gpus() -> int:
    if not any(Path("/dev").glob(name) for name in ("nvidia[0-9]*", "kfd", "dxg")):
        return 0  # no GPU driver; spares the import of torch (2 s)
    import torch

    return torch.cuda.device_count()
