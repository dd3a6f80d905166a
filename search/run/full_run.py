"""`nanosweep train`: a config to its full length, here or on a Ray cluster, with the loop that `python -m trainer` has.

    nanosweep train best.yaml --max-tokens 100M                 # in this process
    nanosweep train best.yaml --max-tokens 100M --workers 8     # on 8 GPUs or CPU shares of this machine or a cluster

A config that was exported from a study is logged to MLflow under it (search/tracking/full_run_log.py). Exit codes as
those of `python -m trainer`; 1 also where workers were lost more often than --max-failures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from data.errors import Lost, UserError
from trainer import __main__ as command
from trainer.__main__ import Order
from trainer.command_line import whole

PROG = "nanosweep train"


def parser() -> argparse.ArgumentParser:
    added = command.parser(PROG)
    added.add_argument("--workers", type=whole(1), metavar="N", help="processes on Ray's machines that share each step")
    added.add_argument("--address", help="with --workers: a Ray cluster's; default: RAY_ADDRESS, else this machine")
    text = "with --workers: continue from the last checkpoint after so many lost workers (default 3)"
    added.add_argument("--max-failures", type=whole(), default=3, metavar="N", help=text)
    text = "where the config's study lives, for MLflow; default: beside the file, else ./runs"
    added.add_argument("--storage", type=Path, help=text)
    return added


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    args = parser().parse_args(argv)
    return command.run_for_exit_code(PROG, command.folder(args), lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    def follow(order: Order) -> Any:
        from search.tracking.full_run_log import following

        return following(order, args.config, args.storage)

    if args.workers is None:
        if args.address:
            raise UserError(f"--address {args.address} says where workers are; say with --workers N how many")
        return command.train_here(args, follow)
    from search.run.full_run_workers import train_on_workers

    try:
        return train_on_workers(args, follow)
    except Lost as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
