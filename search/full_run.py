"""`nanosweep train`: a config to its full length, here or on a Ray cluster, with the loop that `python -m trainer` has.

    nanosweep train best.yaml --max-tokens 100M                 # in this process
    nanosweep train best.yaml --max-tokens 100M --workers 8     # on 8 GPUs or CPU shares of this machine or a cluster

A config that was exported from a study is logged to MLflow under it (search/full_run_log.py). Exit codes as those of
`python -m trainer`; 1 also where workers were lost more often than --max-failures.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from search.run_folder import Reports
from trainer import __main__ as command
from trainer.__main__ import Follow, Follower, Order

if TYPE_CHECKING:
    from search.resources import Node, Share
    from search.train_workers import Group
    from trainer.report import Result

PROG = "nanosweep train"
WAITING = 60.0  # seconds without a worker that has begun, until that is said


def parser() -> argparse.ArgumentParser:
    made = command.parser(PROG)
    made.add_argument("--workers", type=int, metavar="N", help="processes on Ray's machines that share each step")
    made.add_argument("--address", help="with --workers: a Ray cluster's; default: RAY_ADDRESS, else this machine")
    about = "with --workers: go on from the last checkpoint after so many lost workers (default 3)"
    made.add_argument("--max-failures", type=int, default=3, metavar="N", help=about)
    about = "where the config's study lives, for MLflow; default: beside the file, else ./runs"
    made.add_argument("--storage", type=Path, help=about)
    return made


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    given = parser().parse_args(argv)
    return command.answered(PROG, command.folder(given), lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    def follow(order: Order) -> Any:
        from search.full_run_log import following

        return following(order, given.config, given.storage)

    if given.workers is None:
        if given.address:
            raise UserError(f"--address {given.address} says where workers are; say with --workers N how many")
        return command.train_here(given, follow)
    for name, value, least in (("--workers", given.workers, 1), ("--max-failures", given.max_failures, 0)):
        if value < least:
            raise UserError(f"{name} {value}: expected at least {least}")
    try:
        return _on_ray(given, follow)
    except Lost as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1


class Lost(Exception):  # noqa: N818 (it is what the user reads)
    """A run that could not go on, by no mistake of the user: what happened and what to do, in a line."""


def _on_ray(given: argparse.Namespace, follow: Follow) -> int:
    """The whole command, with the training in Ray's workers."""
    from search import nodes, resources

    address = given.address or os.environ.get("RAY_ADDRESS")
    order = command.order(given)
    machine = resources.this_machine()
    check(order, given.workers)
    if not address:  # known before anything is started
        share(given.workers, [machine], order.config.device)
    with _folder(order), follow(order) as follower:
        with resources.ray_session(address, machine) as scratch:
            there = resources.cluster()
            each = share(given.workers, there, order.config.device)
            nodes.check(order.out.resolve(), "--out:")
            from search.train_workers import Group

            print(
                f"{given.workers} workers of {each.cpus:g} CPUs, {each.gpus:g} GPUs; {resources.has(there)}", flush=True
            )
            group = Group(order, given.workers, each, given.max_failures, scratch)
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


def share(workers: int, nodes: list[Node], device: str = "auto") -> Share:
    """What each worker gets of these nodes: a GPU with its cores where there are GPUs, else its share of the cores.

    Raises UserError where so many workers do not fit, with how many do.
    """
    from search.resources import Share, has, slots
    from search.resources import share as share_of_one
    from trainer.yaml_file import YamlFile

    if device == "cuda" and not any(node.gpus for node in nodes):
        raise UserError(f"device: cuda, but there is no GPU: {has(nodes)}; use --set device=auto")
    each = share_of_one(None, nodes, YamlFile("--workers", {}, {}), device)
    if each.slots < workers:
        what = "a GPU" if each.gpus else "a core"
        raise UserError(
            f"--workers {workers}: each needs {what}, and there is {has(nodes)}; at most --workers {each.slots}"
        )
    if each.gpus:
        return Share(each.cpus, each.gpus, workers)
    cpus = 1
    while slots(Share(cpus + 1, 0, 0), nodes) >= workers:
        cpus += 1
    return Share(cpus, 0, workers)


@contextmanager
def _folder(order: Order) -> Iterator[None]:
    """The run folder, there before any worker; one that no run has begun in leaves nothing behind."""
    from trainer.checkpoint import CONFIG

    made = [path for path in (order.out, *order.out.parents) if not path.exists()]
    try:
        order.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{order.out}: cannot be made a run folder: {error.strerror}") from None
    try:
        yield
    finally:
        if made and not (order.out / CONFIG).exists():
            shutil.rmtree(order.out, ignore_errors=True)
            for parent in made[1:]:  # from the folder upwards; one that is not empty stays
                with suppress(OSError):
                    parent.rmdir()


def watch(group: Group, order: Order, follower: Follower | None) -> Result:
    """Show a group's run until it ends, from its run folder. Raises UserError or Lost where it cannot go on."""
    from trainer.progress import display

    told = Reports(order.out)
    waiting = WAITING
    with group.running(), display(order.length) as shown:
        while True:
            over = group.wait(0.2)
            for line in group.news():
                shown.say(line)
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
