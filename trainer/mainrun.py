"""Nats per character of a list of titles: the Mainrun task's own number, and the number over the whole text.

The task's validation text is its titles joined by `<eos>`, with one after the last; A is its length in characters, to
which each `<eos>` adds 5. With blocks of T tokens in batches of B:

    val_nats_per_char      -(sum of log p over all tokens of the text) / A
    mainrun_nats_per_char  -(sum of log p over the tokens that the task's evaluate() scores) / A
    mainrun_coverage       the share of the text's tokens that it scores

evaluate() cuts the text into spans of B * T + 1 tokens, scores the B rows of T targets in each and drops the rest, but
divides by all of A: the larger B * T, the less is scored and the lower its "loss". The nats of `<eos>` count in both
numbers (`val_bits_per_byte` leaves them out). B is batch_size and T is block_size, whatever gradient_accumulation_steps
is; `val_nats_per_char` follows eval_context and eval_stride, as all val_* do. The task's text has no `<eos>` before the
first title, so the spans leave out ours.

Source: MaincodeHQ/mainrun, train.py, iter_full_split and evaluate.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data.dataset import Dataset, Split
from trainer.config import TrainConfig
from trainer.evaluate import Evaluation

Score = Callable[[Split, TrainConfig], Evaluation]  # evaluates the present weights by the config's rule


def metrics(val: Evaluation, data: Dataset, config: TrainConfig, score: Score) -> dict[str, float]:
    """The three metrics above; nothing unless `split: mainrun`.

    val: of the whole validation split. The task's number is left out where the split has less than one span.
    """
    if config.split != "mainrun":
        return {}
    length = data.meta["splits"]["val"]["text_length"]
    plain = config.model_copy(update={"eval_context": None, "eval_stride": None})
    parts = [score(span, plain) for span in spans(data.val, config)]
    scored = sum(part.tokens for part in parts)
    values = {"val_nats_per_char": val.nll / length, "mainrun_coverage": scored / data.val.n_targets}
    if parts:
        values["mainrun_nats_per_char"] = sum(part.nll for part in parts) / length
    return values


def spans(val: Split, config: TrainConfig) -> list[Split]:
    """The spans that evaluate() scores: batch_size * block_size targets each, without context from other spans."""
    size = config.batch_size * config.block_size + 1
    ids = val.tokens[1:]
    return [Split(ids[at : at + size], np.array([1, size])) for at in range(0, len(ids) - size + 1, size)]
