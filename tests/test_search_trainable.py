"""One trial as a worker runs it, without Ray: what it says, and how it ends."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.dataset import Dataset
from data.errors import UserError
from models.gpt import GPT
from search.run.trainable import Message, count_gpt, run
from tests import scarce, tiny
from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.run_folder import ERROR

KEYS = {"step", "tokens", "rung", "final", "metrics", "checkpoint"}
KEYS |= {"status", "cause", "n_parameters", "node", "micro_batch"}


def job(folder: Path, resume: str | None = None, rungs: list[int] | None = None, **changes: Any) -> dict[str, Any]:
    config = tiny.config().model_dump(mode="json") | changes
    out_dir = str(folder / "trials" / "0")
    return {"trial": 0, "config": config, "resume": resume, "out_dir": out_dir, "rungs": rungs or [], "objective": "o"}


def said(work: dict[str, Any], data: Dataset | None = None) -> list[Message]:
    """All messages of a trial."""
    messages: list[Message] = []
    run(work, data or tiny.stories(), messages.append, threads=1)
    return messages


class Killed(BaseException):
    """What ends a trial from outside."""


def killed_after(work: dict[str, Any], n: int) -> list[Message]:
    """The messages of a trial that is ended while it sends the n-th."""
    messages: list[Message] = []

    def send(message: Message) -> None:
        messages.append(message)
        if len(messages) == n:
            raise Killed

    with pytest.raises(Killed):
        run(work, tiny.stories(), send, threads=1)
    return messages


def numbers(message: Message) -> dict[str, float]:
    return {name: value for name, value in message["metrics"].items() if name not in tiny.TIMING}


def test_a_trial_reports_at_rungs_and_ends_with_its_status_in_the_final_report(tmp_path: Path) -> None:
    messages = said(job(tmp_path, rungs=[700]))
    assert all(set(message) == KEYS for message in messages)
    assert [message["rung"] for message in messages if message["rung"]] == [700]
    assert [message["final"] for message in messages] == [False] * (len(messages) - 1) + [True]
    last = messages[-1]
    assert last["status"] == "completed"
    assert last["tokens"] == tiny.STEPS * 64
    assert "val_loss_subset" in last["metrics"]
    assert last["checkpoint"] == str(tmp_path / "trials" / "0" / "checkpoint.pt")
    assert all(message["status"] is None for message in messages[:-1])


def test_a_trial_trains_as_the_loop_alone_does(tmp_path: Path) -> None:
    _, reports = tiny.run(tiny.config(seed=7))
    messages = said(job(tmp_path, seed=7))
    assert [numbers(message) for message in messages] == [tiny.values(report) for report in reports]


def test_a_trial_killed_on_the_way_goes_on_from_its_own_checkpoint(tmp_path: Path) -> None:
    whole = said(job(tmp_path / "whole"))
    first = killed_after(job(tmp_path), 2)
    again = said(job(tmp_path))
    # the report that may have been lost with the worker comes again, those before it do not
    assert again[0]["tokens"] == first[1]["tokens"]
    assert [numbers(message) for message in again] == [numbers(message) for message in whole[1:]]


def test_a_checkpoint_that_cannot_be_read_is_put_aside(tmp_path: Path) -> None:
    work = job(tmp_path)
    killed_after(work, 2)
    path = Path(work["out_dir"]) / checkpoint.CHECKPOINT
    path.write_bytes(path.read_bytes()[:100])
    messages = said(work)
    assert messages[0]["tokens"] == 640
    assert messages[-1]["status"] == "completed"


def test_a_checkpoint_of_a_newer_release_is_left_as_it_is_and_the_trial_fails(tmp_path: Path) -> None:
    work = job(tmp_path)
    killed_after(work, 2)
    path = Path(work["out_dir"]) / checkpoint.CHECKPOINT
    torch.save({**torch.load(path, weights_only=True), "format": checkpoint.FORMAT + 1}, path)
    before = path.read_bytes()
    (message,) = said(work)
    assert message["status"] == "failed"
    assert "newer release" in message["cause"]
    assert path.read_bytes() == before


def test_what_stops_the_trial_from_outside_passes_through(tmp_path: Path) -> None:
    def send(message: Message) -> None:
        raise SystemExit(0)  # what Tune raises out of tune.report when the scheduler stops a trial

    with pytest.raises(SystemExit):
        run(job(tmp_path), tiny.stories(), send, threads=1)


def test_a_loss_that_is_not_finite_ends_as_diverged(tmp_path: Path) -> None:
    messages = said(job(tmp_path, optimizer="sgd", learning_rate=1e30, grad_clip=0.0, warmup_frac=0.0))
    assert messages[-1]["status"] == "diverged"
    assert "finite" in messages[-1]["cause"]
    assert not any(message["final"] for message in messages)


def test_an_early_stop_is_told_from_a_full_run(tmp_path: Path) -> None:
    messages = said(job(tmp_path, learning_rate=1e-12, weight_decay=0.0, early_stop=2, eval_every=64))
    assert messages[-1]["status"] == "early_stopped"
    assert messages[-1]["final"]


def test_an_exception_is_reported_with_its_place_and_the_traceback_kept(tmp_path: Path) -> None:
    data = tiny.stories()
    wrong = np.full_like(data.train.tokens, 60_000)  # ids that the model has no row for
    broken = dataclasses.replace(data, train=dataclasses.replace(data.train, tokens=wrong))
    messages = said(job(tmp_path), broken)
    assert [message["status"] for message in messages] == ["failed"]
    assert messages[0]["cause"].startswith("IndexError: ")
    assert "(models/gpt.py:" in messages[0]["cause"]
    assert "\n" not in messages[0]["cause"]
    assert "Traceback" in (tmp_path / "trials" / "0" / ERROR).read_text()


def test_a_users_mistake_is_reported_in_its_own_words(tmp_path: Path) -> None:
    messages = said(job(tmp_path, vocab_size=3))
    assert messages[-1]["status"] == "failed"
    assert messages[-1]["cause"].startswith("vocab_size (3) is smaller")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), UserError("no space left for checkpoint.pt; free some")]
)
def test_a_full_disk_is_no_failure_of_the_trial(tmp_path: Path, error: Exception) -> None:
    messages: list[Message] = []

    def send(message: Message) -> None:
        messages.append(message)
        if len(messages) == 2:
            raise error

    run(job(tmp_path), tiny.stories(), send, threads=1)
    assert messages[-1]["status"] == "interrupted"
    assert "o space left" in messages[-1]["cause"]
    assert len(messages) == 3


def test_memory_that_does_not_suffice_is_not_a_failure_of_the_code(tmp_path: Path) -> None:
    messages = said(job(tmp_path, n_embd=4_000_000, n_head=1))
    assert [message["status"] for message in messages] == ["out_of_memory"]
    assert "memory" in messages[0]["cause"]


def test_a_trial_that_raised_leaves_the_worker_fit_for_the_next(tmp_path: Path) -> None:
    said(job(tmp_path / "a", n_embd=4_000_000, n_head=1))
    assert said(job(tmp_path / "b"))[-1]["status"] == "completed"


def test_threads_are_those_of_the_trials_share(tmp_path: Path) -> None:
    seen: list[int] = []
    work = job(tmp_path, max_tokens=64, eval_every=64)
    run(work, tiny.stories(), lambda message: seen.append(torch.get_num_threads()), threads=2)
    torch.set_num_threads(1)
    assert set(seen) == {2}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bias": True, "tied_head": False},
        {"position": "rope", "mlp": "swiglu", "norm": "rmsnorm"},
        {"vocab_size": 128, "tied_head": False, "position": "rope"},
    ],
    ids=str,
)
def test_parameters_are_counted_as_the_model_counts_them(changes: dict[str, Any]) -> None:
    shape = TrainConfig(n_layer=3, n_head=2, n_embd=16, block_size=8, **changes).shape(50)
    assert count_gpt(shape) == GPT(shape, torch.Generator()).n_parameters()


def test_a_trial_that_ran_out_says_what_fits_and_the_next_of_its_shape_begins_there(tmp_path: Path) -> None:
    with scarce.memory(training=2) as limits:
        messages = said(job(tmp_path / "a"))
        assert limits.refused == [4]
        assert {message["micro_batch"] for message in messages} == {2}
        assert messages[-1]["status"] == "completed"
        again = said(job(tmp_path / "b") | {"micro_batch": messages[-1]["micro_batch"]})
        assert limits.refused == [4]
    assert [numbers(message) for message in again] == [numbers(message) for message in messages]


def test_a_trial_with_memory_enough_says_nothing_of_it(tmp_path: Path) -> None:
    assert {message["micro_batch"] for message in said(job(tmp_path))} == {None}


def test_a_trial_of_which_not_one_sequence_fits_is_out_of_memory(tmp_path: Path) -> None:
    with scarce.memory(training=0):
        messages = said(job(tmp_path / "a"))
    assert [message["status"] for message in messages] == ["out_of_memory"]
    assert "not even one sequence of block_size 16 fits into memory (CUDA out of memory. " in messages[0]["cause"]
    assert said(job(tmp_path / "b"))[-1]["status"] == "completed"  # in the same worker


def test_a_trial_that_runs_out_on_the_way_keeps_what_it_said_before(tmp_path: Path) -> None:
    messages: list[Message] = []
    with scarce.memory(training=2) as limits:

        def send(message: Message) -> None:
            messages.append(message)
            limits.training = 0

        run(job(tmp_path), tiny.stories(), send, threads=1)
    assert [(message["tokens"], message["status"], message["micro_batch"]) for message in messages] == [
        (640, None, 2),
        (0, "out_of_memory", 2),
    ]


def test_a_trial_whose_checkpoint_is_cut_begins_anew_and_says_so_once(tmp_path: Path) -> None:
    whole = said(job(tmp_path))
    path = Path(job(tmp_path)["out_dir"]) / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-1])
    messages = said(job(tmp_path))
    assert [numbers(message) for message in messages] == [numbers(message) for message in whole]
    assert ["begun_anew" in message for message in messages] == [True] + [False] * (len(messages) - 1)
    assert f"{path}: not a readable checkpoint: it is cut" in messages[0]["begun_anew"]
    assert "unreadable.pt" in messages[0]["begun_anew"]
    assert (path.parent / "unreadable.pt").exists()
