"""Evaluate a run again from its folder, on any split, with the weights of its last report."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from data.dataset import Dataset, Split
from data.errors import UserError
from trainer import build_model, checkpoint, device, evaluate, precision
from trainer import criterion as criteria
from trainer.checkpoint import Checkpoint
from trainer.distributed import Ranks
from trainer.evaluate import Evaluation


def rescore(folder: Path, data: Dataset, split: Split, allow_code: bool = False) -> Evaluation:
    """Evaluate a run that has ended. data: what it was trained on, of which `split` may be any split.

    allow_code: an own loss or model may be imported, from the working directory.
    Raises UserError where the folder holds no run that has ended, one of
    other data, or one whose own code may not be imported or has changed since.
    """
    saved = checkpoint.load(folder)
    if saved.state.ended is None:
        raise UserError(f"{folder}: its run has not ended", kind="not_ended")
    if saved.data_hash != data.hash:
        raise UserError(
            f"{folder} was trained on other data (hash {saved.data_hash[:12]}) than {data.corpus}, {data.tokenizer} "
            f"(hash {data.hash[:12]})",
            kind="other_data",
        )
    criterion = criteria.build(saved.config, allow_code)
    checkpoint.check_own_code(saved, criteria.own_code(saved.config, keys=("loss", "model")), str(folder))
    machine = precision.settle(saved.config, data.n_classes, device.choose(saved.config), Ranks(), saved.dtype)
    model = build_model.build(saved.config, data.n_classes, torch.Generator(), allow_code=allow_code)
    model.load_state_dict(scored_weights(saved))
    model.to(machine.device)
    return evaluate.evaluate(model, split, saved.config, data.token_bytes, machine, criterion=criterion)


def scored_weights(saved: Checkpoint) -> dict[str, Tensor]:
    """The weights of a run's last report: the latest, or the best where it stopped early."""
    if saved.state.ended == "early_stopped" and saved.best_model is not None:
        return saved.best_model
    return saved.model
