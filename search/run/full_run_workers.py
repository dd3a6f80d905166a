"""`nanosweep train --workers N`: a full run on the processes that Ray Train places, shown from its run folder."""

from __future__ import annotations

import argparse
import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from data.errors import UserError
from search.run import nodes, resources
from search.run.ray_session import ray_session
from search.run.resources import Share
from search.study.machine import Node, this_machine
from trainer import __main__ as command
from trainer import progress
from trainer.__main__ import Follow, Follower, Order
from trainer.run_folder import PROGRESS, Reports, read_progress
from trainer.units import plural
from trainer.yaml_file import YamlFile

if TYPE_CHECKING:
    from search.run.train_workers import Group
    from trainer.report import Result

WAITING = 60.0  # seconds without a worker that has begun, until that is said


def train_on_workers(args: argparse.Namespace, follow: Follow) -> int:
    """The whole command, with the training in Ray's workers. Returns the exit code.

    Raises UserError, or Lost where the run cannot continue.
    """
    out = command.folder(args)
    with command.held(out):
        try:
            return _train(args, follow)
        finally:
            (out / PROGRESS).unlink(missing_ok=True)  # now that no worker writes it any more


def _train(args: argparse.Namespace, follow: Follow) -> int:
    address = args.address or os.environ.get("RAY_ADDRESS")
    order = command.order(args)
    machine = this_machine()
    check(order, args.workers)
    if not address:  # known before anything is started
        share(args.workers, [machine], order.config.device)
    with follow(order) as follower:
        with ExitStack() as stack:
            with progress.waiting("starting Ray and asking its nodes"):
                scratch = stack.enter_context(ray_session(address, machine)).wait()
                there = resources.cluster()
                each = share(args.workers, there, order.config.device)
                nodes.check(order.out.resolve(), "--out:")
                from search.run.train_workers import Group  # loads Ray Train

            print(
                f"{plural(args.workers, 'worker')} of {each.cpus:g} CPUs, {each.gpus:g} GPUs; {resources.has(there)}",
                flush=True,
            )
            group = Group(order, args.workers, each, args.max_failures, scratch)
            result = watch(group, order, follower)
        if follower is not None:
            follower.ended(result)
    return command.conclude(result, order, group.machine)


def check(order: Order, workers: int) -> None:
    """What can be known before anything starts. Raises UserError."""
    from trainer import checkpoint, criterion
    from trainer.distributed import Ranks

    config = order.config
    Ranks(0, workers).share(config.batch_size * config.gradient_accumulation_steps)
    if order.resume is not None:
        own, saved = criterion.own_code(config), checkpoint.load(order.resume)
        checkpoint.check_resumable(saved, config, order.data, str(order.resume), own)
    elif config.init_from is not None:
        from trainer.init import find

        find(config.init_from)  # fetched once, and what is not there is said now


def share(workers: int, machines: list[Node], device: str = "auto") -> Share:
    """What each worker gets of these nodes: a GPU with its cores where there are GPUs, else its share of the cores.

    Raises UserError where so many workers do not fit, with how many do.
    """
    if device == "cuda" and not any(node.gpus for node in machines):
        raise UserError(f"device: cuda, but there is no GPU: {resources.has(machines)}; use --set device=auto")
    each = resources.share(None, machines, YamlFile("--workers", {}, {}), device)
    if each.slots < workers:
        what = "a GPU" if each.gpus else "a core"
        raise UserError(
            f"--workers {workers}: each needs {what}, and there is {resources.has(machines)}; "
            f"at most --workers {each.slots}"
        )
    if each.gpus:
        return Share(each.cpus, each.gpus, workers)
    cpus = 1
    while resources.slots(Share(cpus + 1, 0, 0), machines) >= workers:
        cpus += 1
    return Share(cpus, 0, workers)


def watch(group: Group, order: Order, follower: Follower | None) -> Result:
    """Show a group's run until it ends, from its run folder. Raises UserError, or Lost where it cannot continue."""
    told, noted = Reports(order.out), None
    waiting = WAITING
    (order.out / PROGRESS).unlink(missing_ok=True)
    with group.running(), progress.display(order.length) as shown:
        while True:
            over = group.wait(0.2)
            for line in group.news():
                shown.say(line)
            before, noted = noted, read_progress(order.out)
            if noted is not None and noted != before:
                shown.on_step(noted)
            for report in told.new():
                shown.report(report)
                shown.on_step(report.tokens)
                if follower is not None:
                    follower.report(report)
            if over:
                break
            if waiting and time.monotonic() > group.began + waiting:
                waiting = 0.0
                if not told.begun():
                    shown.say(f"no worker has begun after {WAITING:g} s: others may hold the machines; it waits")
    return group.result()
