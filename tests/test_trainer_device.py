"""Precision where it pays, randomness given back, memory of one trial only."""

from __future__ import annotations

import contextlib
import sys

import pytest
import torch

from trainer.device import Machine
from trainer.step import Watch

CPU = Machine(torch.device("cpu"))


def test_randomness_is_borrowed_and_given_back_even_after_an_error() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with CPU.borrowed_randomness(seed=5):
        one = torch.rand(3)
    with contextlib.suppress(KeyError), CPU.borrowed_randomness(seed=5):
        assert torch.equal(torch.rand(3), one)
        raise KeyError
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process forget its peak")
def test_a_trial_does_not_inherit_the_peak_memory_of_the_one_before_it() -> None:
    block = torch.ones(100 * 2**20)  # 400 MiB
    with_block = CPU.peak_memory_mb()
    del block
    CPU.reset_peak_memory()
    assert CPU.peak_memory_mb() < with_block - 300


@pytest.mark.parametrize("bad", [[float("nan"), 1.0], [1.0, float("inf")], [float("-inf"), 1.0]])
def test_a_number_that_is_not_finite_is_seen_at_its_step(bad: list[float]) -> None:
    watch = Watch(CPU)
    assert watch.see(3, torch.tensor([1.0, 2.0])) is None
    assert watch.gradient_norm == 2.0
    assert watch.see(4, torch.tensor(bad)) == 4
