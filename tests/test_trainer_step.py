"""A step for which memory does not suffice is done again in smaller passes, and is the same step."""

from __future__ import annotations

import functools
import weakref
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from data.errors import UserError
from tests import scarce, tiny
from trainer.config import TrainConfig
from trainer.device import Machine
from trainer.distributed import Ranks
from trainer.memory import MicroBatch, ran_out
from trainer.step import Stepper

CPU = Machine(torch.device("cpu"))


def stepper(settings: TrainConfig) -> Stepper:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return Stepper(settings, tiny.stories(), CPU, Ranks())


def weights(made: Stepper) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in made.model.state_dict().items()}


def trained(settings: TrainConfig, micro_batch: int | None = None) -> tuple[Stepper, list[torch.Tensor]]:
    """After three steps: the stepper; loss and gradient norm of each step."""
    made = stepper(settings)
    made.micro_batch.limit(micro_batch)
    return made, [made.step(step, 1.0) for step in range(3)]


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("changes", [{}, {"gradient_accumulation_steps": 3}, {"optimizer": "sgd"}], ids=str)
def test_a_step_that_does_not_fit_is_done_again_on_the_same_rows(changes: dict[str, Any], backward: bool) -> None:
    settings = tiny.config(batch_size=7, learning_rate=1e-2, **changes)
    whole, expected = trained(settings)
    with scarce.memory(training=3, backward=backward) as limits:
        made, found = trained(settings)
    assert limits.refused == [7, 4]  # more than once, rounded up, and never again
    assert (made.micro_batch.size, made.micro_batch.fits) == (2, 2)
    assert (whole.micro_batch.size, whole.micro_batch.fits) == (7, None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights(made), weights(whole), rtol=0, atol=2e-5)


def test_a_halved_run_is_to_the_last_bit_the_one_that_began_with_the_smaller_size() -> None:
    settings = tiny.config(batch_size=8, dropout=0.3)  # the masks of the undone pass are not missed
    expected, _ = trained(settings, micro_batch=2)
    with scarce.memory(training=2, backward=True):
        found, _ = trained(settings)
    torch.testing.assert_close(weights(found), weights(expected), rtol=0, atol=0)


def test_every_sequence_of_the_step_is_trained_on_once_whatever_the_size() -> None:
    made, seen = stepper(tiny.config(batch_size=8)), []
    made.model.transformer.h[-1].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    with scarce.memory(training=3):
        made.step(0, 1.0)
    assert seen == [2, 2, 2, 2]


def test_nothing_of_the_undone_step_is_left_when_it_is_begun_again() -> None:
    made, passes, found = stepper(tiny.config()), [], []

    def look(module: torch.nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        alive = sum(reference() is not None for reference in passes)
        found.append((len(output), alive, sum(p.grad is not None for p in made.parameters)))
        passes.append(weakref.ref(output))

    made.model.transformer.h[0].register_forward_hook(look)
    with scarce.memory(training=3, backward=True) as limits:
        made.step(0, 1.0)
    assert limits.refused == [4]
    assert found[:2] == [(4, 0, 0), (2, 0, 0)]


def test_memory_that_runs_out_later_leaves_the_steps_before_as_they_were() -> None:
    made = stepper(tiny.config())
    for step in range(2):
        made.step(step, 1.0)
    before, moments = weights(made), made.optimizers.state_dict()[0]["state"]
    moments = {key: {name: value.clone() for name, value in state.items()} for key, state in moments.items()}
    said = pytest.raises(torch.OutOfMemoryError, match="not even one sequence of block_size 16 fits into memory")
    with scarce.memory(training=0, backward=True) as limits, said:
        made.step(2, 1.0)
    assert limits.refused == [4, 2, 1]
    torch.testing.assert_close(weights(made), before, rtol=0, atol=0)
    torch.testing.assert_close(made.optimizers.state_dict()[0]["state"], moments, rtol=0, atol=0)


def test_an_update_that_runs_out_is_not_done_again() -> None:
    made, calls = stepper(tiny.config()), []

    def refuse(*_: Any) -> None:
        calls.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = register_optimizer_step_pre_hook(refuse)
    try:
        with pytest.raises(torch.OutOfMemoryError, match=r"^CUDA out of memory"):
            made.step(0, 1.0)
    finally:
        handle.remove()
    assert (calls, made.micro_batch.fits) == ([1], None)


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")  # of the hooks that play the small GPU
def test_a_compiled_step_is_halved_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    # without the C++ back end, which takes a minute
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    settings = tiny.config(batch_size=8)
    _, expected = trained(settings)
    with scarce.memory(training=3) as limits:
        made, found = trained(TrainConfig(**{**settings.model_dump(), "compile": True}))
    assert (limits.refused, made.micro_batch.fits) == ([8, 4], 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def batch(size: int, n_ranks: int = 1) -> MicroBatch:
    return MicroBatch(size, 16, CPU, n_ranks, "lower batch_size")


def nothing() -> None:
    pass


def test_the_cpus_allocator_counts_too() -> None:
    def work(size: int) -> int:
        torch.empty(10**15 if size > 1 else 1)
        return size

    assert batch(4).attempt(work, nothing) == 1


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), ValueError("out of memory"), KeyError(1)])
def test_an_error_of_another_kind_is_not_tried_again(error: Exception) -> None:
    sizes = []

    def work(size: int) -> None:
        sizes.append(size)
        raise error

    with pytest.raises(type(error)):
        batch(4).attempt(work, nothing)
    assert sizes == [4]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_shortage_is_known_under_its_many_names(error: Exception) -> None:
    assert ran_out(error)


def test_one_of_several_processes_says_what_to_lower_instead() -> None:
    sizes = []

    def work(size: int) -> None:
        sizes.append(size)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(
        torch.OutOfMemoryError, match=r"^4 sequences of block_size 16 .* 2 processes .* lower batch_size"
    ):
        batch(4, n_ranks=2).attempt(work, nothing)
    assert sizes == [4]


def test_less_than_one_sequence_is_refused() -> None:
    with pytest.raises(UserError, match="micro_batch: 0"):
        batch(4).limit(0)
