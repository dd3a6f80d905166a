"""What the commands have in common: kinds of arguments, and the terminal."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from trainer.command_line import whole

port = whole(1, 65535)


def allow_code(parser: argparse.ArgumentParser) -> None:
    """The permission to run code of the user's own."""
    text = "import own code that the study names (loss, optimizer, corpus, model: module:Name), which runs it"
    parser.add_argument("--allow-code", action="store_true", help=text)


def retry_failed(parser: argparse.ArgumentParser) -> None:
    """What a driver does with trials that failed."""
    text = "begin trials again that failed or ran out of memory, from their checkpoints where there are any"
    parser.add_argument("--retry-failed", action="store_true", help=text)


def drawings(parser: argparse.ArgumentParser) -> None:
    """What a driver draws when its study ends."""
    parser.add_argument("--no-report", action="store_true", help="write no report.html (nanosweep report does later)")
    parser.add_argument("--no-figures", action="store_true", help="draw no pictures (nanosweep figures does later)")


def study(parser: argparse.ArgumentParser) -> None:
    """A study, wherever it lies."""
    where = "its name in the storage, its folder, or its name on the server of MLFLOW_TRACKING_URI"
    parser.add_argument("study", metavar="STUDY", help=where)
    parser.add_argument("--storage", type=Path, help="where studies live; default ./runs")


def study_folder(parser: argparse.ArgumentParser) -> None:
    """A study whose folder is at hand."""
    parser.add_argument("study", metavar="STUDY", help="its name in the storage, or its folder")
    parser.add_argument("--storage", type=Path, help="where studies live; default ./runs")


def limits(args: argparse.Namespace) -> dict[str, str | None]:
    """The limits of the budget that the command line gives, as written; None where it gives none."""
    return {key: getattr(args, key) for key in ("trials", "tokens", "hours")}


def width() -> int | None:
    """Of the terminal; None where there is none."""
    return os.get_terminal_size().columns if sys.stdout.isatty() else None


def color() -> bool:
    """Whether the terminal shows colors."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
