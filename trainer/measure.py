"""The evaluations of a report: always the same text, by one rule. trainer.loop decides when, and has the weights.

Reports during training evaluate a fixed subset of the validation split's documents, the final one the whole split. Each
also evaluates a smaller subset of the training split, which shows the generalisation gap and decides nothing.
"""

from __future__ import annotations

from data import tokens
from data.dataset import Dataset, Split
from models.loss import Criterion
from models.own_model import Model
from trainer import evaluate, mainrun
from trainer.config import TrainConfig
from trainer.device import Machine
from trainer.distributed import Ranks
from trainer.evaluate import Evaluation


class Measure:
    """The evaluation subsets of one run, and the micro-batch of its evaluations."""

    def __init__(
        self, config: TrainConfig, data: Dataset, machine: Machine, ranks: Ranks, criterion: Criterion
    ) -> None:
        self._config, self._data, self._machine, self._ranks = config, data, machine, ranks
        self._criterion = criterion
        n_val = config.eval_tokens or default_eval_tokens(config.length(data.train.n_targets))
        # the same text at every report and in every trial, so that trials are comparable
        self.val_subset = tokens.subset(data.val, n_val)
        self._train_subset = tokens.subset(data.train, -(-n_val // 4))
        self._batch = evaluate.micro_batch(config, machine, ranks)

    def score_subsets(self, model: Model, last: bool) -> tuple[Evaluation, dict[str, float]]:
        """Evaluate both subsets; returns the validation subset's evaluation and the training subset's metrics.

        last: a final report, whose evaluation is a final one where the subset is all of the split.
        """
        val = self._evaluate(model, self.val_subset, final=last and self._subset_is_all)
        train = self._evaluate(model, self._train_subset)
        return val, {"train_loss": train.loss, "train_objective_loss": train.objective}

    def score_whole(self, model: Model, val: Evaluation, last: bool) -> tuple[Evaluation, dict[str, float]]:
        """Evaluate the whole validation split; returns the evaluation, and the additional metrics of `split: mainrun`.

        val: what `score_subsets` returned with the same `last`; it is reused if the subset is the whole split.
        """
        evaluation = val if last and self._subset_is_all else self._evaluate(model, self._data.val, final=True)
        score: mainrun.Score = lambda split, rule: self._evaluate(model, split, rule)
        return evaluation, mainrun.metrics(evaluation, self._data, self._config, score)

    @property
    def _subset_is_all(self) -> bool:
        return self.val_subset is self._data.val

    def _evaluate(self, model: Model, split: Split, rule: TrainConfig | None = None, final: bool = False) -> Evaluation:
        config, sizes, batch = rule or self._config, self._data.token_bytes, self._batch
        return evaluate.evaluate(model, split, config, sizes, self._machine, self._ranks, batch, final, self._criterion)


def default_eval_tokens(length: int) -> int:
    """Tokens of the fixed subset for a run of `length`: with 10 reports, and a few rungs, under 3 % of the run."""
    return min(max(length // 250, 2048), 2**20)
