"""Scoring a model on a whole split: every target once, through the loss's own read-out, in evaluation mode.

Convention. The split is cut into windows of block_size that do not overlap, the last one short; a token is
predicted from those before it in its window (nanoGPT's mix of positions). `loss` and `perplexity` are per token,
ends of documents included: the model must say where a text stops. `bits_per_byte` leaves special tokens, which
stand for no bytes, out of its numerator and its denominator (as nanochat's evaluate_bpb), so that tokenizers with
and without them compare. Batch size changes nothing but float noise: where memory does not suffice it is halved.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data import tokens
from data.dataset import Split
from models.config import READOUTS
from models.gpt import GPT
from models.losses import per_token_loss, target_log_probs
from trainer.config import TrainConfig
from trainer.device import Machine
from trainer.distributed import Ranks
from trainer.memory import MicroBatch

# logits alive at once. On a CPU the passes over them want the cache: 4 MiB of float32 is 1.5 times as fast as 16, but
# below some rows the matrix product suffers more (at C = 50,257). A GPU wants few launches: 256 MiB
CPU_CHUNK, CPU_ROWS, GPU_CHUNK = 2**20, 96, 2**26


@dataclass(frozen=True)
class Evaluation:
    """Sums over one split; what is reported are their ratios.

    nll: nats through the chosen read-out; tokens: targets scored; correct: those that were the likeliest.
    byte_nll: nats of the tokens that stand for bytes; bytes: how many bytes they stand for.
    doc_nll, doc_tokens, doc_bytes: (D,) the same per document, for intervals by resampling documents.
    readouts: nats through each of the loss's read-outs; objective: the training loss's own value, a mean.
    """

    nll: float
    tokens: int
    correct: int
    byte_nll: float
    bytes: int
    doc_nll: np.ndarray
    doc_tokens: np.ndarray
    doc_bytes: np.ndarray
    readouts: dict[str, float]
    objective: float

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """Of tokens, pooled: exp(loss); inf where that is too large for a float."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        return self.byte_nll / math.log(2) / max(1, self.bytes)

    @property
    def accuracy(self) -> float:
        return self.correct / self.tokens


def micro_batch(config: TrainConfig, machine: Machine, ranks: Ranks) -> MicroBatch:
    """How many windows are scored in one pass, to begin with."""
    size = config.eval_batch_size or max(16, config.batch_size)
    return MicroBatch(size, config.block_size, machine, ranks.size, "lower eval_batch_size")


def evaluate(
    model: GPT,
    split: Split,
    config: TrainConfig,
    token_bytes: np.ndarray,
    machine: Machine,
    ranks: Ranks = Ranks(),  # noqa: B008 (frozen)
    batch: MicroBatch | None = None,
) -> Evaluation:
    """Score `model` on `split`, the work shared by the ranks, the result whole on each of them.

    token_bytes: (C,) of the tokenizer, which also says how many classes are real. batch: what an evaluation before
    this one used, and learned about memory. Touches neither the model's mode nor any generator. Raises
    torch.OutOfMemoryError where not even one window fits.
    """
    readouts = READOUTS[config.loss]
    # one row per readout (nats), then whether the chosen one was right, then the training loss
    scores = np.zeros((len(readouts) + 2, split.n_targets))

    def fill(batch_size: int) -> None:
        for number, (x, y, first) in enumerate(tokens.eval_batches(split, config.block_size, batch_size)):
            if number % ranks.size != ranks.rank:
                continue
            with machine.autocast():
                hidden = model(machine.put(x)).flatten(0, 1)  # (B·T, D)
            out = scores[:, first - 1 : first - 1 + y.size]
            _score(model, hidden, machine.put(y).flatten(), config, len(token_bytes), out)

    with torch.no_grad(), _evaluation_mode(model):
        (batch or micro_batch(config, machine, ranks)).attempt(fill, undo=_nothing)
    scores = ranks.sum(scores, machine.device)

    starts = split.doc_starts[:-1] - 1  # documents among targets
    sizes = token_bytes[split.tokens[1:]]  # (N,) bytes of each target
    nll = scores[readouts.index(config.chosen_readout)]  # (N,)
    return Evaluation(
        nll=float(nll.sum()),
        tokens=split.n_targets,
        correct=round(scores[-2].sum()),
        byte_nll=float(nll[sizes > 0].sum()),
        bytes=int(sizes.sum()),
        doc_nll=np.add.reduceat(nll, starts),
        doc_tokens=np.diff(split.doc_starts),
        doc_bytes=np.add.reduceat(sizes, starts),
        readouts={name: float(row.sum()) for name, row in zip(readouts, scores, strict=False)},
        objective=float(scores[-1].mean()),
    )


def _nothing() -> None:
    """Scores that were begun need no undoing: they are written again."""


def _score(model: GPT, hidden: Tensor, targets: Tensor, config: TrainConfig, n_classes: int, out: np.ndarray) -> None:
    """Fill out (read-outs + 2, N), see `evaluate`, for hidden (N, D) and targets (N,)."""
    weight, parameters = model.head_weight.float(), config.loss_parameters
    chunk = max(CPU_ROWS, (GPU_CHUNK if hidden.is_cuda else CPU_CHUNK) // n_classes)
    parts = []
    for h, target in zip(hidden.split(chunk), targets.split(chunk), strict=True):
        logits = h.float() @ weight[:n_classes].T  # (n, C), float32: read-outs divide small numbers by small numbers
        rows = [-target_log_probs(config.loss, parameters, logits, target, name) for name in READOUTS[config.loss]]
        rows.append((logits.argmax(1) == target).float())  # every read-out rises with the logit
        rows.append(per_token_loss(config.loss, parameters, logits, target))
        parts.append(torch.stack(rows))
    out[:] = torch.cat(parts, 1).cpu().numpy()


@contextlib.contextmanager
def _evaluation_mode(model: GPT) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def metrics(result: Evaluation, config: TrainConfig) -> dict[str, float]:
    """The val_* metrics of a report."""
    others = {
        f"val_loss_{name}": nll / result.tokens
        for name, nll in result.readouts.items()
        if name != config.chosen_readout
    }
    return {
        "val_loss": result.loss,
        "val_perplexity": result.perplexity,
        "val_bits_per_byte": result.bits_per_byte,
        "val_accuracy": result.accuracy,
        "val_objective_loss": result.objective,
        **others,
    }
