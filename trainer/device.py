"""The machine of a run: device, precision, random state and memory.

bfloat16 is used where it is faster: on every GPU that supports it natively; on a CPU trainer.precision measures.
"""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.errors import UserError
from trainer.config import TrainConfig


@dataclass(frozen=True)
class Machine:
    """The device of a run. bfloat16: matrix products under autocast; weights, sums and losses stay float32."""

    device: torch.device
    bfloat16: bool = False

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def put(self, array: np.ndarray) -> Tensor:
        """An array as a tensor on the device, without waiting for a GPU."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def randomness(self) -> list[Tensor]:
        """State of torch's default generators, from which dropout draws: the CPU's, then the device's own."""
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        elif self.device.type == "mps":
            states.append(torch.mps.get_rng_state())
        return states

    def set_randomness(self, states: list[Tensor]) -> None:
        """Restore what `randomness` returned; a GPU's state is not changed when `states` come from a CPU."""
        torch.set_rng_state(states[0].cpu())
        if len(states) > 1 and self.device.type == "cuda":
            torch.cuda.set_rng_state(states[1].cpu(), self.device)
        elif len(states) > 1 and self.device.type == "mps":
            torch.mps.set_rng_state(states[1].cpu())

    @contextlib.contextmanager
    def borrowed_randomness(self, seed: int | None = None) -> Iterator[None]:
        """Let the block draw from the default generators, seeded with `seed` if not None, and restore them
        afterwards."""
        before = self.randomness()
        try:
            if seed is not None:
                torch.default_generator.manual_seed(seed)
                if self.device.type == "cuda":
                    with torch.cuda.device(self.device):
                        torch.cuda.manual_seed(seed)
                elif self.device.type == "mps":
                    torch.mps.manual_seed(seed)
            yield
        finally:
            self.set_randomness(before)

    def empty_cache(self) -> None:
        """Return cached memory that no tensor uses to the device, for smaller allocations."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def reset_peak_memory(self) -> None:
        """Reset the peak: processes are reused, and a trial must not report the peak of the one before."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif sys.platform == "linux":
            with contextlib.suppress(OSError):  # not permitted in some containers: the peak stays the process's
                Path("/proc/self/clear_refs").write_text("5")

    def peak_memory_mb(self) -> float:
        """Most memory used since the reset, in MiB: the GPU's allocations, or the process's resident set."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        if sys.platform == "linux":
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 2**10
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def kind(config: TrainConfig) -> str:
    """`cpu`, `cuda` or `mps`, `auto` resolved. Raises UserError where the machine lacks what was asked for."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if config.device == "auto":
        return next(name for name, here in available.items() if here)
    if not available[config.device]:
        here = ", ".join(name for name, there in available.items() if there)
        raise UserError(
            f"device: {config.device}, but torch {torch.__version__} sees none on this machine; "
            f"here: {here}. Set device: auto or cpu"
        )
    return config.device


def choose(config: TrainConfig, local_rank: int = 0) -> Machine:
    """The machine for one process, with float32 for `dtype: auto` on a CPU, where trainer.precision decides.

    local_rank: the process's number among the run's processes on this host.
    Raises UserError for a device or a precision that is not there.
    """
    device = torch.device(kind(config))
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"process {local_rank + 1} on this machine has no GPU of its own ({torch.cuda.device_count()} seen): "
                f"start as many processes as there are GPUs, or set device: cpu"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        # TF32 for the products that autocast leaves in float32; torch has only this process-wide switch
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    return Machine(device, _bfloat16(config, device))


def _bfloat16(config: TrainConfig, device: torch.device) -> bool:
    if config.dtype == "float32":
        return False
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        if config.dtype == "bfloat16" and not native:
            raise UserError(f"dtype: bfloat16, but {torch.cuda.get_device_name(device)} has none; set dtype: auto")
        return native
    return config.dtype == "bfloat16"


def describe(machine: Machine, processes: int = 1) -> str:
    """Describe a machine for people: GPU or processor, number of processes, precision.

    processes: number in the run, each with its own GPU or threads.
    """
    if machine.device.type == "cuda":
        name = f"{processes} × {torch.cuda.get_device_name(machine.device)}"
    else:
        name = processor()
        threads = f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
        name += f" ({machine.device.type}), " + (f"{processes} processes of {threads}" if processes > 1 else threads)
    return f"{name}, {'bfloat16' if machine.bfloat16 else 'float32'}"


def processor() -> str:
    """The name of this machine's processor."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return name
