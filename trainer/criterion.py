"""Build the criterion of a config: a declared loss or the user's own, with its parameters and read-out.

    criterion = build(config, allow_code=True)
    training_loss(criterion.loss, criterion.parameters, hidden, weight, targets, n_classes)

Only this module imports an own loss. It is tested on a few logits before anything is trained or written.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from data.corpora import kind_of
from data.errors import UserError
from data.kind_own import KIND
from data.own_code import is_reference, load, source_hash
from models.loss import Criterion, Loss, fill_parameters, find_readout
from models.losses import LOSSES
from trainer.blame import blamed
from trainer.config import TrainConfig

_ROWS, _CLASSES = 3, 5  # of the test logits


def build(config: TrainConfig, allow_code: bool = False, code_dir: Path | None = None) -> Criterion:
    """The config's loss with its parameters and read-out.

    allow_code: whether an own loss may be imported; code_dir: from where, default the working directory.
    Raises UserError where it may not, and for one that is no `Loss`, cannot be imported, lacks a parameter or
    read-out that the config names, or fails on the first logits.
    """
    if not is_reference(config.loss):
        loss = LOSSES[config.loss]
        return Criterion(loss, config.loss_parameters, find_readout(loss, config.readout))
    loss = _own(config.loss, allow_code, code_dir)
    try:
        parameters = fill_parameters(loss, config.loss_parameters)
        criterion = Criterion(loss, parameters, find_readout(loss, config.readout))
    except ValueError as error:
        raise UserError(f"loss: {config.loss}: {error}") from None
    _try(config.loss, criterion)
    return criterion


def own_code(
    config: TrainConfig, code_dir: Path | None = None, keys: Collection[str] = ("loss", "optimizer", "model")
) -> dict[str, str]:
    """The sha256 of the source of each own piece of code that the config names. Imports nothing. Raises UserError."""
    named = {getattr(config, key): key for key in keys}
    return {text: source_hash(text, kind=key, directory=code_dir) for text, key in named.items() if is_reference(text)}


def names_own_code(config: TrainConfig) -> bool:
    """Whether training with a config needs the permission to import own code. Imports nothing."""
    named = any(is_reference(getattr(config, key)) for key in ("loss", "optimizer", "model"))
    return named or kind_of(config.corpus) is KIND


def _own(reference: str, allow_code: bool, code_dir: Path | None) -> Loss:
    loss = load(reference, allow_code=allow_code, kind="loss", directory=code_dir)
    if not isinstance(loss, Loss):
        raise UserError(f"loss: {reference} is a {type(loss).__name__}; it must be a models.loss.Loss")
    return loss


def _try(reference: str, criterion: Criterion) -> None:
    """Loss, gradient and read-outs on a few logits. Raises UserError that says what is wrong with the own code."""
    import torch

    from models.head import per_token_loss, training_loss
    from models.readouts import log_probs

    loss, parameters = criterion.loss, criterion.parameters
    targets = torch.arange(_ROWS)
    hidden = torch.linspace(-1, 1, _ROWS * 2).view(_ROWS, 2).requires_grad_()
    weight = torch.linspace(1, -2, _CLASSES * 2).view(_CLASSES, 2).requires_grad_()  # C > d: a large head
    logits = hidden @ weight.T
    with blamed(f"loss: {reference}: its formula"):
        values = per_token_loss(loss, parameters, logits, targets)
        if not torch.is_tensor(values) or values.shape != targets.shape or not values.requires_grad:
            raise TypeError("it must give one value for each target, made of the logits by torch's functions")
        dense = torch.autograd.grad(values.mean(), (hidden, weight), retain_graph=True)
    with blamed(f"loss: {reference}: {'its with_gradient' if loss.with_gradient else 'its formula'}"):
        chunked = training_loss(loss, parameters, hidden, weight, targets, _CLASSES)
        pairs = zip((values.mean(), *dense), (chunked, *torch.autograd.grad(chunked, (hidden, weight))), strict=True)
        if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True) for a, b in pairs):
            raise ValueError("value or gradient differ from those of per_token")
    for readout in loss.readouts:
        with blamed(f"loss: {reference}: its read-out {readout.name}"):
            if log_probs(loss, parameters, logits, readout).shape != logits.shape:
                raise TypeError("it must give a weight for each class, (N, C)")
