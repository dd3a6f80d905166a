"""What `dtype: auto` means in a study whose trials run on CPUs: measured once, before the first trial, and recorded.

The first driver measures a forward and backward pass of the widest network that the space holds, with the threads of a
trial, on the machine that trains (search.run.driver writes the decision into the study's header, and the base config
with it). All trials have it, whatever their shape, whatever machine they run on or are resumed on: their numbers would
otherwise differ by more than what was searched.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from data.errors import UserError
from search.run import in_worker
from search.run.prepare import Prepared
from search.run.resources import Share
from search.spec import points, space
from search.study.study_record import Header
from trainer.config import TrainConfig, replace

_POINTS = 200  # of a larger space a sample is looked at


def settle(prepared: Prepared, each: Share, header: Header, elsewhere: bool) -> Prepared:
    """The prepared study with float32 or bfloat16 for `auto`; unchanged where trials have GPUs or the base names one.

    each: what a trial gets. header: of the journal, empty for a new study. elsewhere: trials may run on other machines
    than this one, so that a worker of the Ray that we are connected to measures.
    """
    base = prepared.base
    if base.dtype != "auto":
        return prepared
    if header.record:
        return _with(prepared, header.base.dtype, header.precision)
    if each.gpus or base.device not in ("auto", "cpu") or (base.device == "auto" and _has_mps()):
        return prepared
    config = _widest(prepared)
    arguments = (config.model_dump(), prepared.datasets[config.tokenizer].n_classes, each.threads)
    decision = _decide_in_worker(each, *arguments) if elsewhere else _decide_here(*arguments)
    return _with(prepared, decision["dtype"], decision)


def _with(prepared: Prepared, dtype: str, precision: Any) -> Prepared:
    return dataclasses.replace(prepared, base=replace(prepared.base, dtype=dtype), precision=precision)


def _has_mps() -> bool:
    import torch

    return torch.backends.mps.is_available()


def _widest(prepared: Prepared) -> TrainConfig:
    """The config of the widest network among the points of the space: its trials take the most time."""
    spec, base = prepared.spec, prepared.base
    values = {name: points.candidates(name, parameter) for name, parameter in spec.space.items()}
    configs = [base]
    for point in points.some_points(spec.space, values, _POINTS):
        try:
            configs.append(space.configure(base, spec.space, point))
        except UserError:  # a corner that the sampler would not propose either
            continue
    return max(configs[1:] or configs, key=lambda config: config.n_embd)


def _decide_here(config: dict[str, Any], n_classes: int, threads: int) -> dict[str, Any]:
    import torch

    from trainer.precision import decide_plainly

    before = torch.get_num_threads()
    try:
        return decide_plainly(config, n_classes, threads)
    finally:
        torch.set_num_threads(before)


def _decide_in_worker(each: Share, *arguments: Any) -> dict[str, Any]:
    import ray

    sent = in_worker.call("trainer.precision", "decide_plainly", ("trainer.loop",))
    decision: dict[str, Any] = ray.get(ray.remote(num_cpus=each.cpus)(sent).remote(*arguments))
    return decision
