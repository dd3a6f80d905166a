"""`nanosweep documents`: a trial's perplexity by document, and its calibration.

Three means are in use and differ: the pooled perplexity exp(sum of nats / sum of tokens), which is the objective; exp
of the mean of the documents' nats per token, in which each document counts once; and the mean of the documents'
perplexities, which a few unusual short documents dominate.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.errors import UserError
from search.results import export
from search.results.finalize import dataset_of
from search.study.folder import trial_folder
from search.study.study import Study, Trial, read_study
from trainer import units
from trainer.config import TrainConfig
from trainer.scores import SCORES, Scores, load

if TYPE_CHECKING:
    from data.dataset import Dataset

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LENGTH = 300  # characters printed of each of the worst documents


def describe(folder: Path, trial: int | None = None, worst: int = 3, allow_code: bool = False) -> str:
    """The report as text. trial: its number, default the leader. worst: how many of the worst documents to print.
    allow_code: an own corpus may run where it is not prepared yet.

    Raises UserError where the trial has no per-document results, or the corpus has changed.
    """
    study = read_study(folder)
    chosen = export.choose(study, trial)
    scores = load(trial_folder(folder, chosen.number) / SCORES)
    lines = [export.title(study, chosen).removeprefix("nanosweep: "), *_distribution(scores), *_calibration(chosen)]
    if worst and not scores.one_document:
        lines += ["", f"the worst {worst}:", *_worst(study, chosen, scores, worst, allow_code)]
    return "\n".join(lines) + "\n"


def _distribution(scores: Scores) -> list[str]:
    counted = "cells of 128 tokens" if scores.one_document else "documents"
    per_token = scores.nll / np.maximum(scores.tokens, 1)
    means = {
        "pooled (the objective)": scores.nll.sum() / scores.tokens.sum(),
        "each document once": per_token.mean(),
    }
    values = [f"{name} {units.score(float(np.exp(nats)))}" for name, nats in means.items()]
    values.append(f"plain mean {units.score(float(np.exp(per_token).mean()))}")
    perplexities = np.exp(np.quantile(per_token, QUANTILES))
    spread = ", ".join(f"{units.score(float(v))} ({q:.0%})" for q, v in zip(QUANTILES, perplexities, strict=True))
    return [f"perplexity over {len(per_token):,} {counted}: {', '.join(values)}", f"quantiles: {spread}"]


def _calibration(trial: Trial) -> list[str]:
    metrics = trial.final["metrics"] if trial.final is not None else {}
    if "val_ece" not in metrics:
        return []
    line = f"expected calibration error {metrics['val_ece']:.3f}"
    if "val_temperature" in metrics:
        line += (
            f"; one temperature, {metrics['val_temperature']:.3f}, fitted on a fifth of the text, takes the perplexity "
            f"of the rest from {units.score(metrics['val_perplexity_uncalibrated'])} to "
            f"{units.score(metrics['val_perplexity_calibrated'])} (the objective is without it)"
        )
    return [line]


def _worst(study: Study, trial: Trial, scores: Scores, worst: int, allow_code: bool) -> list[str]:
    data = dataset_of(study, TrainConfig.model_validate(trial.config), allow_code)
    if len(scores.nll) != data.val.n_docs:
        raise UserError(f"trial {trial.number}: {SCORES} is of {len(scores.nll)} documents, the corpus has others now")
    per_token = scores.nll / np.maximum(scores.tokens, 1)
    lines = []
    for document in np.argsort(-per_token, kind="stable")[:worst]:
        value = units.score(float(np.exp(per_token[document])))
        text = " ".join(_text(data, int(document)).split())
        short = text if len(text) <= _LENGTH else text[: _LENGTH - 3] + "..."
        lines += [
            f"perplexity {value}, {scores.tokens[document]} tokens:",
            textwrap.fill(short, 100, initial_indent="  ", subsequent_indent="  "),
        ]
    return lines


def _text(data: Dataset, document: int) -> str:
    from data import tokenizers

    ids = data.val.tokens[data.val.doc_starts[document] : data.val.doc_starts[document + 1]]
    return tokenizers.load(data.path).decode(ids[ids != data.eot] if data.eot is not None else ids)
