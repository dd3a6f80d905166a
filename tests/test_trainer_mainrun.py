"""Mainrun's own number and the honest one: what each scores, and where they are the same."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data.dataset import Dataset, Split
from data.prepare import prepare
from models.gpt import GPT
from tests import made_up, tiny
from trainer import mainrun
from trainer.config import TrainConfig
from trainer.device import Machine
from trainer.evaluate import Evaluation, evaluate

CPU = Machine(torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("titles")
    (folder / "titles.txt").write_text("\n".join(made_up.titles()))
    return prepare(f"text:{folder / 'titles.txt'}", "bpe:300", "mainrun", folder / "cache")


def config(**changes: Any) -> TrainConfig:
    return tiny.config(**{"split": "mainrun", "data_order": "sequential", "tokenizer": "bpe:300", **changes})


def measured(data: Dataset, settings: TrainConfig, spread: float = 0.3) -> tuple[dict[str, float], GPT]:
    """The metrics of a model with random weights; spread 0: of the uniform one."""
    generator = torch.Generator().manual_seed(1)
    model = GPT(settings.shape(data.n_classes), generator)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(spread * torch.randn(weights.shape, generator=generator))
    score = lambda split, rule: evaluate(model, split, rule, data.token_bytes, CPU)
    return mainrun.metrics(score(data.val, settings), data, settings, score), model


def by_the_task(model: GPT, ids: torch.Tensor, batch_size: int, block_size: int) -> float:
    """The sum of its evaluate(), as the task describes it: whole spans, a token between them lost, the rest dropped."""
    span, nats = block_size * batch_size + 1, 0.0
    model.eval()
    for at in range(0, len(ids) - span + 1, span):
        part = ids[at : at + span]
        x, y = part[:-1].view(batch_size, block_size), part[1:].view(batch_size, block_size)
        with torch.no_grad():
            logits = model.logits(model(x))
        nats += F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").item()
    return nats


@pytest.mark.parametrize(("batch_size", "block_size"), [(4, 16), (3, 20), (16, 16)])
def test_the_number_is_what_the_tasks_evaluate_says(data: Dataset, batch_size: int, block_size: int) -> None:
    settings = config(batch_size=batch_size, block_size=block_size, dropout=0.5, eval_context=8, eval_stride=4)
    found, model = measured(data, settings)
    ids = torch.tensor(data.val.tokens[1:].astype("int64"))
    length = len("<eos>".join(title.strip() for title in made_up.titles()[360:]) + "<eos>")
    assert found["mainrun_nats_per_char"] == pytest.approx(by_the_task(model, ids, batch_size, block_size) / length)
    whole = len(ids) // (batch_size * block_size + 1)
    assert found["mainrun_coverage"] == pytest.approx(whole * batch_size * block_size / len(ids))


def test_a_uniform_model_has_the_closed_form(data: Dataset) -> None:
    found, _ = measured(data, config(), spread=0.0)
    length = data.meta["splits"]["val"]["text_length"]
    assert found["val_nats_per_char"] == pytest.approx(data.val.n_targets * math.log(data.n_classes) / length)
    assert found["mainrun_nats_per_char"] == pytest.approx(found["mainrun_coverage"] * found["val_nats_per_char"])


def test_their_coverage_depends_on_the_batch_and_the_honest_number_does_not(data: Dataset) -> None:
    small, _ = measured(data, config(batch_size=1))
    large, _ = measured(data, config(batch_size=40))
    assert small["val_nats_per_char"] == pytest.approx(large["val_nats_per_char"], rel=1e-6)
    assert large["mainrun_coverage"] < 0.8 < 0.9 < small["mainrun_coverage"]
    assert large["mainrun_nats_per_char"] < 0.9 * small["mainrun_nats_per_char"]  # the same model


def test_with_full_coverage_their_number_is_the_full_pass(data: Dataset) -> None:
    settings = config(batch_size=8, block_size=16)
    text = data.val.tokens[1 : 2 + 8 * 16]  # one span, as the task has it: no <eos> before the first title
    short = dataclasses.replace(data, val=Split(data.val.tokens[: 2 + 8 * 16], data.val.doc_starts))
    spans = mainrun.spans(short.val, settings)
    assert [span.tokens.tolist() for span in spans] == [text.tolist()]
    _, model = measured(data, settings)
    score = lambda split: evaluate(model, split, settings, data.token_bytes, CPU).nll
    assert score(spans[0]) == pytest.approx(by_the_task(model, torch.tensor(text.astype("int64")), 8, 16))
    assert score(spans[0]) == pytest.approx(score(Split(text, np.array([1, 40, len(text)]))))  # every target, once


def test_less_than_one_batch_is_no_loss_of_zero(data: Dataset) -> None:
    found, _ = measured(data, config(batch_size=500))
    assert found["mainrun_coverage"] == 0
    assert "mainrun_nats_per_char" not in found
    assert found["val_nats_per_char"] > 0


def test_seven_epochs_are_whole_steps_and_the_end_has_the_numbers(data: Dataset) -> None:
    settings = config(max_tokens="7 epochs", eval_every="1M", n_layer=1, batch_size=16, block_size=32)
    result, reports = tiny.run(settings, data=data)
    steps = data.train.n_targets // settings.tokens_per_step
    assert result.step == 7 * steps
    last = reports[-1].metrics
    assert last["val_nats_per_char"] == pytest.approx(
        last["val_loss"] * data.val.n_targets / data.meta["splits"]["val"]["text_length"]
    )
    assert last["mainrun_nats_per_char"] / last["mainrun_coverage"] == pytest.approx(last["val_nats_per_char"], rel=0.1)


def test_other_splits_know_nothing_of_it() -> None:
    def score(split: Split, rule: TrainConfig) -> Evaluation:
        raise AssertionError("nothing more is scored")

    assert mainrun.metrics(None, tiny.stories(), tiny.config(), score) == {}  # type: ignore[arg-type]
