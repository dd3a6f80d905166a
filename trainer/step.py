"""One training step: batch, forward, backward, gradient clipping, update. trainer.loop decides when to step.

If memory does not suffice, the step is repeated with half the sequences per forward pass (`memory.MicroBatch`): the
same rows and tokens and, without dropout, the same result up to the order of sums. The optimizer's update is not
repeated: it may have changed some weights already, and smaller passes do not reduce its memory.

Everything besides the matrix products is kept cheap: rows are gathered in one operation, AdamW is fused, and on a GPU
the host never waits for the step that it has just launched (`Watch`).
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data import tokens
from data.dataset import Dataset
from models.head import training_loss
from models.loss import Criterion
from models.own_model import Model
from trainer import build_model, optim
from trainer import criterion as criteria
from trainer.config import TrainConfig
from trainer.device import Machine
from trainer.distributed import Ranks
from trainer.memory import MicroBatch


class Objective(nn.Module):
    """The model and its training loss as one module, for torch.compile and DDP."""

    def __init__(self, model: Model, criterion: Criterion, n_classes: int) -> None:
        super().__init__()
        self.model = model
        self.loss = criterion.loss
        self.parameters_of_loss = criterion.parameters
        self.n_classes = n_classes

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y (B, T) int64 -> the mean loss over B·T targets, a scalar."""
        hidden = self.model(x).flatten(0, 1)  # (B·T, D)
        return training_loss(
            self.loss, self.parameters_of_loss, hidden, self.model.head_weight, y.flatten(), self.n_classes
        )


class Stepper:
    """The model, its optimizer and its training data.

    The rows of a step are a pure function of (seed, step); initial weights come from a generator of their own.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: Dataset,
        machine: Machine,
        ranks: Ranks,
        criterion: Criterion | None = None,
        allow_code: bool = False,
        code_dir: Path | None = None,
    ) -> None:
        """criterion: of the config; default: built from it, which an own loss refuses.

        allow_code, code_dir: as in `train`.
        """
        self.machine, self.ranks = machine, ranks
        self.rows_per_step = config.batch_size * config.gradient_accumulation_steps
        self.first_row, self.n_rows = ranks.share(self.rows_per_step)
        advice = "lower batch_size and raise gradient_accumulation_steps by as much"
        size = min(config.batch_size, self.n_rows)
        self.micro_batch = MicroBatch(size, config.block_size, machine, ranks.size, advice)
        self.grad_clip = config.grad_clip or math.inf
        order, rows = config.data_order, self.rows_per_step
        self.batches = tokens.Batches(data.train, config.block_size, order, config.seed, rows)
        generator = torch.Generator().manual_seed(config.seed)
        model = build_model.build(config, data.n_classes, generator, allow_code=allow_code, code_dir=code_dir)
        self.model = model.to(machine.device)
        self.parameters = list(self.model.parameters())
        self.optimizers = optim.build(self.model, config, allow_code=allow_code, code_dir=code_dir)
        self._objective: Any = Objective(self.model, criterion or criteria.build(config), data.n_classes)
        if config.compile:
            self._objective = torch.compile(self._objective)
        if ranks.size > 1:
            self._objective = DistributedDataParallel(self._objective)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the model's state_dict, which further steps do not change."""
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def step(self, step: int, multiplier: float) -> Tensor:
        """Train on the rows of `step` at `multiplier` times the peak rate. Returns (2,): loss, gradient norm.

        Raises torch.OutOfMemoryError, with the weights unchanged, where not even one sequence fits.
        """
        drawn = self.machine.randomness()

        def undo() -> None:
            self.optimizers.zero_grad()
            self.machine.set_randomness(drawn)

        total = self.micro_batch.attempt(lambda size: self._accumulate(step, size), undo)
        self.ranks.add(total)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.grad_clip)
        self.optimizers.scale(multiplier)
        self.optimizers.step()
        self.optimizers.zero_grad()
        return torch.stack([total, norm])

    def _accumulate(self, step: int, size: int) -> Tensor:
        """Gradients of this rank's rows of `step`, `size` sequences in one pass. Returns its part of the loss, ()."""
        at, end = self.first_row, self.first_row + self.n_rows
        total = torch.zeros((), device=self.machine.device)
        while at < end:
            count = min(size, end - at)
            x, y = self.batches.rows(step * self.rows_per_step + at, count)
            at += count
            with self._synchronised(at == end):
                with self.machine.autocast():
                    loss = self._objective(self.machine.put(x), self.machine.put(y))
                loss = loss * (count / self.rows_per_step)  # so that the sum is the mean over the step's rows
                (loss * self.ranks.size).backward()  # DDP divides the sum of gradients by the number of ranks
            total += loss.detach()
        return total

    def _synchronised(self, last: bool) -> contextlib.AbstractContextManager[object]:
        """Let the ranks exchange gradients only in the last forward pass of a step."""
        return contextlib.nullcontext() if last or self.ranks.size == 1 else self._objective.no_sync()


class Watch:
    """Checks that loss and gradient norm are finite: immediately on a CPU, one step late on a GPU.

    Reading a number from a GPU waits for everything launched before it. The copy of step k is launched behind
    step k and read after k + 1 has been launched, so that the GPU always has work.
    """

    def __init__(self, machine: Machine) -> None:
        self._gpu = machine.device.type == "cuda"
        self._pending: tuple[int, Tensor, Any] | None = None
        self.gradient_norm = math.nan

    def see(self, step: int, values: Tensor) -> int | None:
        """Check values (2,) from `Stepper.step`. Returns the first step whose values are not finite, or None."""
        bad_step = self.settle() if self._gpu else None
        copied = None
        if self._gpu:
            values = torch.empty(2, pin_memory=True).copy_(values, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._pending = (step, values, copied)
        return bad_step if self._gpu else self.settle()

    def settle(self) -> int | None:
        """Read the values that are still pending. Returns as `see`."""
        if self._pending is None:
            return None
        step, values, copied = self._pending
        self._pending = None
        if copied is not None:
            copied.synchronize()
        loss, self.gradient_norm = values.tolist()
        return None if math.isfinite(loss) and math.isfinite(self.gradient_norm) else step
