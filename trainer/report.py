"""The output of the training loop: reports during training and one result at the end. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# completed: reached max_tokens; early_stopped: its own `early_stop` ended it; diverged: a loss was not finite
Status = Literal["completed", "early_stopped", "diverged"]


@dataclass(frozen=True)
class Report:
    """One measurement, at a step boundary.

    tokens: true tokens trained on so far (targets), a multiple of the config's tokens_per_step.
    rung: the nominal token count of the rung that this report answers (the first step boundary at or after
        it), or None. A step that crosses several rungs answers the largest of them.
    final: the last report of a run that ended by itself; its val_* are of the full validation split, those
        of earlier reports are of the fixed subset.
    metrics: val_loss (nats per token through the read-out), val_perplexity, val_bits_per_byte, val_accuracy,
        val_loss_<readout> for the loss's other read-outs, val_objective_loss (the training loss's own value on
        val), train_loss and train_objective_loss (the same two of a fixed subset of train, in evaluation mode),
        learning_rate, gradient_norm, seconds (of the run so far) and eval_seconds (those of them spent scoring),
        tokens_per_second (of training, scoring left out), peak_memory_mb; on the final report also val_loss_subset,
        comparable with the curve, and calibration: val_ece (expected calibration error in 15 bins, full split);
        val_temperature (fitted on a fixed fifth of the validation documents), val_perplexity_calibrated and
        val_perplexity_uncalibrated (of the documents that it was not fitted on, with the temperature and without).
        val_loss and val_perplexity are always raw. With `split: mainrun` the final report also has the metrics of
        trainer.mainrun: val_nats_per_char, mainrun_nats_per_char, mainrun_coverage.
    micro_batch: sequences per forward pass in training, if it was set or memory forced a part of batch_size; else None.
    checkpoint: the checkpoint written with this report, if one was.
    """

    step: int
    tokens: int
    rung: int | None
    final: bool
    metrics: dict[str, float]
    micro_batch: int | None = None
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Result:
    """How a run ended.

    metrics: the last report's. best: step, tokens, val_loss and val_perplexity of the report with the least val_loss
    on the fixed subset: the minimum over all reports. message: why, where it diverged. bfloat16: whether it
    multiplied matrices in bfloat16.
    """

    status: Status
    step: int
    tokens: int
    metrics: dict[str, float]
    best: dict[str, float] = field(default_factory=dict)
    message: str = ""
    bfloat16: bool = False
