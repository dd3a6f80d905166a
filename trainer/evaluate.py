"""Scoring a model on a whole split: every target once, through the loss's own read-out, in evaluation mode.

Convention. A target is predicted from the text before it in its window. By default windows are of block_size and do
not overlap, the last one short (nanoGPT's mix of positions): trials of different block_size then see different
context. With `eval_context` and `eval_stride` windows of eval_context begin every eval_stride targets, and each scores
those that the one before it did not: a target has at least min(its position, eval_context - eval_stride) tokens before
the one that it follows, whatever the block_size, and trials compare. One rule holds for all evaluations of a run.

`loss` and `perplexity` are per token, ends of documents included: the model must say where a text stops.
`bits_per_byte` leaves special tokens, which stand for no bytes, out of its numerator and its denominator (as
nanochat's evaluate_bpb), so that tokenizers with and without them compare. Batch size changes nothing but float noise:
where memory does not suffice it is halved. A final evaluation also says how far probabilities can be believed
(trainer.calibration); no other number changes by it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data import tokens
from data.dataset import Split
from models.config import READOUTS
from models.gpt import GPT
from models.losses import log_probs, per_token_loss, target_log_probs
from trainer import calibration
from trainer.calibration import Calibration
from trainer.config import TrainConfig
from trainer.device import Machine
from trainer.distributed import Ranks
from trainer.memory import MicroBatch
from trainer.scores import Scores, unit_starts

# logits alive at once. On a CPU the passes over them want the cache: 4 MiB of float32 is 1.5 times as fast as 16, but
# below some rows the matrix product suffers more (at C = 50,257). A GPU wants few launches: 256 MiB
CPU_CHUNK, CPU_ROWS, GPU_CHUNK = 2**20, 96, 2**26

# logits (n, C) and targets (n,) -> (R, n), R numbers for each target
Rows = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Sums over one split; what is reported are their ratios.

    scores: nats, targets and bytes by document, and of a final evaluation the reliability bins.
    correct: targets that were the likeliest class. readouts: nats through each of the loss's read-outs.
    objective: the training loss's own value, a mean.
    calibration: of a final evaluation, where the split is large enough to be parted.
    """

    scores: Scores
    correct: int
    readouts: dict[str, float]
    objective: float
    calibration: Calibration | None = None

    @property
    def nll(self) -> float:
        """Nats through the chosen read-out."""
        return float(self.scores.nll.sum())

    @property
    def tokens(self) -> int:
        """Targets scored."""
        return int(self.scores.tokens.sum())

    @property
    def bytes(self) -> int:
        """What the targets stand for; special tokens stand for none."""
        return int(self.scores.bytes.sum())

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """Of tokens, pooled: exp(loss); inf where that is too large for a float."""
        return _exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        return float(self.scores.byte_nll.sum()) / math.log(2) / max(1, self.bytes)

    @property
    def accuracy(self) -> float:
        return self.correct / self.tokens


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def rule(config: TrainConfig) -> tuple[int, int]:
    """Size of the windows, and targets from one to the next. Evaluations of one rule compare."""
    context = config.eval_context or config.block_size
    return context, config.eval_stride or context


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
    final: bool = False,
) -> Evaluation:
    """Score `model` on `split`, the work shared by the ranks, the result whole on each of them.

    token_bytes: (C,) of the tokenizer, which also says how many classes are real. batch: what an evaluation before
    this one used, and learned about memory. final: with reliability bins and calibration, for somewhat more time.
    Touches neither the model's mode nor any generator. Raises torch.OutOfMemoryError where not even one window fits.
    """
    batch = batch or micro_batch(config, machine, ranks)
    sweep = _Sweep(model, split, rule(config), len(token_bytes), machine, ranks, batch)
    with torch.no_grad(), _evaluation_mode(model):
        rows, temperature = _with_temperature(sweep, config) if final else (_plain(sweep, config), None)
    readouts = READOUTS[config.loss]
    nll = rows[readouts.index(config.chosen_readout)]  # (N,)
    correct, objective, *more = rows[len(readouts) :]
    starts = unit_starts(split)
    sizes = token_bytes[split.tokens[1:]]  # (N,) bytes of each target
    bins: tuple[np.ndarray, ...] = calibration.reliability(more[0], correct) if final else ()
    calibrated = None
    if temperature is not None:
        other = ~calibration.part(starts)
        raw, tempered = float(nll[other].sum()), float(more[1][other].sum())
        bins += calibration.reliability(more[2][other], correct[other])
        calibrated = Calibration(temperature, int(other.sum()), raw, tempered)
    return Evaluation(
        scores=Scores(
            np.add.reduceat(nll, starts[:-1]),
            np.add.reduceat(np.where(sizes > 0, nll, 0.0), starts[:-1]),
            np.diff(starts),
            np.add.reduceat(sizes.astype(np.int64), starts[:-1]),
            split.n_docs == 1,
            *bins,
        ),
        correct=round(correct.sum()),
        readouts={name: float(row.sum()) for name, row in zip(readouts, rows, strict=False)},
        objective=float(objective.mean()),
        calibration=calibrated,
    )


def _plain(sweep: _Sweep, config: TrainConfig) -> np.ndarray:
    """(R, N): nats through each read-out, then whether the likeliest class was right, then the training loss."""
    everything = np.ones(sweep.split.n_targets, dtype=np.bool_)
    return sweep(everything, len(READOUTS[config.loss]) + 2, lambda logits, y: _plain_rows(logits, y, config))


def _with_temperature(sweep: _Sweep, config: TrainConfig) -> tuple[np.ndarray, float | None]:
    """(R + 3, N): `_plain`, probability of the likeliest class; nats and that probability with the temperature (0
    where it was fitted).

    The part to fit on is scored first, so that the temperature is known when the rest is; only windows across the
    border of the two parts go through the model twice. No temperature where there is nothing to fit on.
    """
    fitting = calibration.part(unit_starts(sweep.split))
    n_rows = len(READOUTS[config.loss]) + 3  # without those that need a temperature
    rows = np.zeros((n_rows + 2, sweep.split.n_targets))

    def score(wanted: np.ndarray, n_more: int, more: Rows) -> np.ndarray:
        def scored(logits: Tensor, y: Tensor) -> Tensor:
            log_p = log_probs(config.loss, config.loss_parameters, logits, config.chosen_readout)
            confidence = log_p.amax(-1).exp()[None]
            return torch.cat((_plain_rows(logits, y, config, log_p), confidence, more(log_p, y)))

        found = sweep(wanted, n_rows + n_more, scored)
        rows[:n_rows, wanted] = found[:n_rows]
        return found[n_rows:]

    def measure(powers: np.ndarray) -> np.ndarray:
        return score(fitting, 2 * len(powers), lambda log_p, y: calibration.slopes(log_p, y, powers)).sum(1)

    temperature = calibration.fit(measure) if fitting.any() else None
    rows[-2:, ~fitting] = score(~fitting, 2, lambda log_p, y: calibration.tempered(log_p, y, temperature or 1.0))
    return rows, temperature


def _plain_rows(logits: Tensor, targets: Tensor, config: TrainConfig, log_p: Tensor | None = None) -> Tensor:
    """The rows of `_plain` for logits (n, C). log_p: (n, C) of the chosen read-out, where it is known already."""
    rows = []
    for name in READOUTS[config.loss]:
        if log_p is not None and name == config.chosen_readout:
            rows.append(-log_p.gather(-1, targets[:, None]).squeeze(-1))
        else:
            rows.append(-target_log_probs(config.loss, config.loss_parameters, logits, targets, name))
    rows.append((logits.argmax(1) == targets).float())  # every read-out rises with the logit
    rows.append(per_token_loss(config.loss, config.loss_parameters, logits, targets))
    return torch.stack(rows)


class _Sweep:
    """One model and one split; each call is a pass that makes some numbers of the logits of every wanted target."""

    def __init__(
        self,
        model: GPT,
        split: Split,
        rule: tuple[int, int],
        n_classes: int,
        machine: Machine,
        ranks: Ranks,
        batch: MicroBatch,
    ) -> None:
        self.split = split
        self._model, self._rule, self._n_classes = model, rule, n_classes
        self._machine, self._ranks, self._batch = machine, ranks, batch

    def __call__(self, wanted: np.ndarray, n_rows: int, rows: Rows) -> np.ndarray:
        """wanted (N,) bool, M of them True; rows gives n_rows numbers for each -> (n_rows, M), on every rank."""
        context, stride = self._rule
        found = np.zeros((n_rows, int(wanted.sum())))
        column = np.cumsum(wanted) - 1

        def fill(batch_size: int) -> None:
            batches = tokens.eval_batches(self.split, context, batch_size, stride, wanted)
            for number, (x, y, at) in enumerate(batches):
                if number % self._ranks.size != self._ranks.rank:
                    continue
                with self._machine.autocast():
                    hidden = self._model(self._machine.put(x))[:, -y.shape[1] :].flatten(0, 1)  # (B·S, D)
                keep = np.flatnonzero(wanted[at])
                hidden = hidden if len(keep) == y.size else hidden[self._machine.put(keep)]
                targets = self._machine.put(y.ravel()[keep])
                found[:, column[at.ravel()[keep]]] = self._in_chunks(hidden, targets, rows)

        self._batch.attempt(fill, undo=_nothing)
        return self._ranks.sum(found, self._machine.device)

    def _in_chunks(self, hidden: Tensor, targets: Tensor, rows: Rows) -> np.ndarray:
        """`rows` of hidden (N, D) and targets (N,), never holding many logits -> (R, N)."""
        weight = self._model.head_weight.float()[: self._n_classes]
        chunk = max(CPU_ROWS, (GPU_CHUNK if hidden.is_cuda else CPU_CHUNK) // self._n_classes)
        parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
        # float32: read-outs divide small numbers by small numbers
        return torch.cat([rows(h.float() @ weight.T, target) for h, target in parts], 1).cpu().numpy()


def _nothing() -> None:
    """Scores that were begun need no undoing: they are written again."""


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
        **_calibration(result),
    }


def _calibration(result: Evaluation) -> dict[str, float]:
    """What only a final evaluation knows."""
    found = {"val_ece": result.scores.ece} if result.scores.bin_count.size else {}
    if (fitted := result.calibration) is not None:
        found["val_temperature"] = fitted.temperature
        found["val_perplexity_calibrated"] = _exp(fitted.calibrated / fitted.tokens)
        found["val_perplexity_uncalibrated"] = _exp(fitted.raw / fitted.tokens)
    return found
