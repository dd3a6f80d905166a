"""Evaluate a model on a whole split: every target once, through the loss's read-out, in evaluation mode.

Windows. A target is predicted from the text before it in its window. By default windows have block_size tokens and do
not overlap, and the last one is shorter (nanoGPT's mix of positions); trials of different block_size then see different
amounts of context. With `eval_context` and `eval_stride`, windows of eval_context tokens begin every eval_stride
targets, and each scores the targets that the window before it did not: a target has at least min(its position,
eval_context - eval_stride) tokens before the one that it follows, whatever the block_size, so that trials are
comparable. All evaluations of a run follow one rule.

Metrics. `loss` and `perplexity` are per token, ends of documents included. `bits_per_byte` leaves special tokens, which
encode no bytes, out of its numerator and its denominator (as nanochat's evaluate_bpb), so that tokenizers with and
without them are comparable. The batch size changes only the rounding; it is halved where memory does not suffice. A
final evaluation also measures calibration (trainer.calibration), which changes no other number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.dataset import Split
from models.head import per_token_loss
from models.loss import Criterion
from models.own_model import Model
from models.readouts import log_probs, target_log_probs
from trainer import calibration
from trainer import criterion as criteria
from trainer.calibration import Calibration
from trainer.config import TrainConfig
from trainer.device import Machine
from trainer.distributed import Ranks
from trainer.memory import MicroBatch
from trainer.scores import Scores, unit_starts
from trainer.scoring import Rows, Scoring, evaluation_mode


@dataclass(frozen=True)
class Evaluation:
    """Sums over one split; reports contain their ratios.

    scores: nats, targets and bytes by document, and of a final evaluation the reliability bins.
    correct: targets that were the likeliest class. readouts: nats through each of the loss's read-outs; readout: the
    name of the chosen one.
    objective: the mean value of the training loss.
    calibration: of a final evaluation, if the split is large enough to be divided.
    """

    scores: Scores
    correct: int
    readouts: dict[str, float]
    readout: str
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
        """Bytes of text that the targets encode; special tokens encode none."""
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
    """(context, stride) of the windows in tokens. Only evaluations with the same rule are comparable."""
    context = config.eval_context or config.block_size
    return context, config.eval_stride or context


def micro_batch(config: TrainConfig, machine: Machine, ranks: Ranks) -> MicroBatch:
    """The initial number of windows in one forward pass."""
    size = config.eval_batch_size or max(16, config.batch_size)
    return MicroBatch(size, config.block_size, machine, ranks.size, "lower eval_batch_size")


def evaluate(
    model: Model,
    split: Split,
    config: TrainConfig,
    token_bytes: np.ndarray,
    machine: Machine,
    ranks: Ranks = Ranks(),  # noqa: B008 (frozen)
    batch: MicroBatch | None = None,
    final: bool = False,
    criterion: Criterion | None = None,
) -> Evaluation:
    """Evaluate `model` on `split`. The ranks share the work, and each has the whole result.

    token_bytes: (C,) of the tokenizer; C is the number of classes. batch: the MicroBatch of an earlier
    evaluation, already reduced if memory did not suffice. final: also measure reliability bins and calibration, which
    takes somewhat longer.
    criterion: of the config; default: built from it, which raises UserError for an own loss.
    Changes neither the model's train/eval mode nor any random state. Raises torch.OutOfMemoryError where not even one
    window fits.
    """
    batch, criterion = batch or micro_batch(config, machine, ranks), criterion or criteria.build(config)
    scoring = Scoring(model, split, rule(config), len(token_bytes), machine, ranks, batch)
    with torch.no_grad(), evaluation_mode(model):
        rows, temperature = (
            _score_with_temperature(scoring, criterion) if final else (_score_plain(scoring, criterion), None)
        )
    readouts = criterion.loss.readouts
    nll = rows[readouts.index(criterion.readout)]  # (N,)
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
        readouts={readout.name: float(row.sum()) for readout, row in zip(readouts, rows, strict=False)},
        readout=criterion.readout.name,
        objective=float(objective.mean()),
        calibration=calibrated,
    )


def _score_plain(scoring: Scoring, criterion: Criterion) -> np.ndarray:
    """Score all N targets, (R, N): nats by read-out, whether the likeliest class was right, the training loss."""
    everything = np.ones(scoring.split.n_targets, dtype=np.bool_)
    n_rows = len(criterion.loss.readouts) + 2
    return scoring(everything, n_rows, lambda logits, y: _plain_rows(logits, y, criterion))


def _score_with_temperature(scoring: Scoring, criterion: Criterion) -> tuple[np.ndarray, float | None]:
    """Fit the temperature and score all N targets. Returns rows (R + 3, N), and the temperature or None.

    The rows: those of `_score_plain`; the probability of the likeliest class; nats, and that probability, with the
    temperature (0 where it was fitted).

    The part to fit on is scored first, so that the temperature is available for the rest; only windows with targets of
    both parts go through the model twice. The temperature is None where there is nothing to fit on.
    """
    fitting = calibration.part(unit_starts(scoring.split))
    n_rows = len(criterion.loss.readouts) + 3  # without those that need a temperature
    rows = np.zeros((n_rows + 2, scoring.split.n_targets))

    def score(wanted: np.ndarray, n_more: int, more: Rows) -> np.ndarray:
        def scored(logits: Tensor, y: Tensor) -> Tensor:
            log_p = log_probs(criterion.loss, criterion.parameters, logits, criterion.readout)
            confidence = log_p.amax(-1).exp()[None]
            return torch.cat((_plain_rows(logits, y, criterion, log_p), confidence, more(log_p, y)))

        values = scoring(wanted, n_rows + n_more, scored)
        rows[:n_rows, wanted] = values[:n_rows]
        return values[n_rows:]

    def measure(powers: np.ndarray) -> np.ndarray:
        return score(fitting, 2 * len(powers), lambda log_p, y: calibration.slopes(log_p, y, powers)).sum(1)

    temperature = calibration.fit(measure) if fitting.any() else None
    rows[-2:, ~fitting] = score(~fitting, 2, lambda log_p, y: calibration.tempered(log_p, y, temperature or 1.0))
    return rows, temperature


def _plain_rows(logits: Tensor, targets: Tensor, criterion: Criterion, log_p: Tensor | None = None) -> Tensor:
    """The rows of `_score_plain` for logits (n, C). log_p: (n, C) of the chosen read-out, if computed already."""
    loss, parameters, chosen = criterion.loss, criterion.parameters, criterion.readout
    if log_p is None and not chosen.monotone:
        log_p = log_probs(loss, parameters, logits, chosen)
    rows = []
    for readout in loss.readouts:
        if log_p is not None and readout is chosen:
            rows.append(-log_p.gather(-1, targets[:, None]).squeeze(-1))
        else:
            rows.append(-target_log_probs(loss, parameters, logits, targets, readout))
    likeliest = logits if log_p is None or chosen.monotone else log_p
    rows.append((likeliest.argmax(1) == targets).float())
    rows.append(per_token_loss(loss, parameters, logits, targets))
    return torch.stack(rows)


def metrics(result: Evaluation) -> dict[str, float]:
    """The val_* metrics of a report."""
    others = {
        f"val_loss_{name}": nll / result.tokens for name, nll in result.readouts.items() if name != result.readout
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
    """The metrics that only a final evaluation has."""
    values = {"val_ece": result.scores.ece} if result.scores.bin_count.size else {}
    if (fitted := result.calibration) is not None:
        values["val_temperature"] = fitted.temperature
        values["val_perplexity_calibrated"] = _exp(fitted.calibrated / fitted.tokens)
        values["val_perplexity_uncalibrated"] = _exp(fitted.raw / fitted.tokens)
    return values
