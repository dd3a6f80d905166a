"""Train one GPT from one config, without a search around it.

    python -m trainer trainer/configs/shakespeare-char-cpu.yaml --set learning_rate=3e-4
    torchrun --nproc_per_node=2 -m trainer trainer/configs/gpt2-124m.yaml

Writes a run folder (out/<config name>, or --out), shows its progress, and ends with the line
`val_loss X val_perplexity Y` of the full validation split. Exit codes: 0 completed; 1 diverged or out of memory; 2
invalid input, explained in one line; 130 interrupted by Ctrl-C, the last checkpoint is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from data.errors import UserError
from trainer.command_line import Parser

if TYPE_CHECKING:
    from data.dataset import Dataset
    from trainer.config import TrainConfig
    from trainer.distributed import Ranks
    from trainer.report import Report, Result


@dataclass(frozen=True)
class Order:
    """One training run, as the command line requests it, checked.

    resume: the checkpoint to resume from, or None. length: tokens to train on. source: the config file; changes: the
    overrides (key=value) on top of it. allow_code: whether own code may be imported. other_data: whether the config was
    exported from a study of other data.
    """

    config: TrainConfig
    data: Dataset
    out: Path
    resume: Path | None
    length: int
    source: Path
    changes: list[str]
    allow_code: bool = False
    other_data: bool = False


class Follower(Protocol):
    """Receives the reports of a run's rank 0, and its result when it has ended by itself."""

    def report(self, report: Report) -> None: ...

    def ended(self, result: Result) -> None: ...


Follow = Callable[[Order], AbstractContextManager[Follower | None]]


def main(argv: list[str] | None = None, prog: str = "python -m trainer") -> int:
    """prog: what the user typed, for usage and errors. Returns the exit code."""
    arguments = parser(prog).parse_args(argv)
    return run_for_exit_code(prog, folder(arguments), lambda: train_here(arguments))


def run_for_exit_code(prog: str, out: Path, run: Callable[[], int]) -> int:
    """Call `run` and return its exit code; an error that stops it becomes one line on stderr and an exit code."""
    try:
        return run()
    except UserError as error:
        from trainer.distributed import from_environment

        if from_environment().rank == 0:
            print(f"{prog}: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        from trainer.memory import ran_out

        if not ran_out(error):
            raise
        print(f"out of memory: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = (out / "checkpoint.pt").exists()
        next_move = f"{out} keeps the last checkpoint: add --resume to continue" if kept else "no checkpoint yet"
        print(f"\ninterrupted; {next_move}", file=sys.stderr)
        return 130


def parser(prog: str = "python -m trainer") -> argparse.ArgumentParser:
    summary = (__doc__ or "").splitlines()[0]
    parser = Parser(prog=prog, description=summary)
    parser.add_argument("config", type=Path, help="a YAML file, see trainer/configs/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value; repeatable")
    parser.add_argument("--max-tokens", metavar="N", help="same as --set max_tokens=N (500k, 20M, 2B, `7 epochs`)")
    parser.add_argument("--out", type=Path, help="the run folder; default: out/<config name>")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the folder's checkpoint, or begin where there is none"
    )
    code = "import own code that the config names (loss, optimizer, corpus, model: module:Name), which runs it"
    parser.add_argument("--allow-code", action="store_true", help=code)
    data = "train an exported config on other data than its study's, and log it apart from the study"
    parser.add_argument("--other-data", action="store_true", help=data)
    return parser


def folder(arguments: argparse.Namespace) -> Path:
    """The run folder: --out, or out/<config name>."""
    return arguments.out or Path("out") / arguments.config.stem


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Create the run folder if needed and hold its lock: one run at a time may write it.

    A new folder that no run has begun in is removed at the end. Raises UserError.
    """
    from trainer.folder_lock import locked
    from trainer.run_folder import CONFIG, ERROR

    with ExitStack() as stack:
        try:
            busy, advice = "is being trained by", "wait for it, stop it there, or give another folder with --out"
            stack.enter_context(locked(out, "run", [CONFIG, ERROR], busy, advice))
        except OSError as error:
            raise UserError(f"{out}: cannot be made a run folder: {error.strerror}") from None
        yield


def train_here(arguments: argparse.Namespace, follow: Follow | None = None) -> int:
    """The whole command in this process, or in those that torchrun started. Returns the exit code."""
    from trainer.distributed import from_environment

    ranks = from_environment()
    with held(folder(arguments)) if ranks.rank == 0 else nullcontext():
        return _train(arguments, ranks, follow)


def _train(arguments: argparse.Namespace, ranks: Ranks, follow: Follow | None) -> int:
    from trainer import device
    from trainer.loop import train
    from trainer.progress import Display, display

    first = ranks.rank == 0
    run_order = order(arguments, show=first)
    with (
        follow(run_order) if first and follow else nullcontext() as follower,
        display(run_order.length) if first else nullcontext(Display()) as screen,
    ):

        def report(measured: Report) -> None:
            screen.report(measured)
            if follower is not None:
                follower.report(measured)

        result = train(
            run_order.config,
            run_order.data,
            report,
            run_order.resume,
            out_dir=run_order.out,
            on_step=screen.on_step,
            allow_code=run_order.allow_code,
        )
        if follower is not None:
            follower.ended(result)
    if not first:
        return int(result.status == "diverged")
    machine = dataclasses.replace(device.choose(run_order.config, ranks.local_rank), bfloat16=result.bfloat16)
    return conclude(result, run_order, device.describe(machine, ranks.size))


def order(arguments: argparse.Namespace, show: bool = True) -> Order:
    """Read the config, check that the run folder holds no other run, prepare the data. Raises UserError.

    The run folder is held, see `held`.
    """
    from data.prepare import prepare
    from data.tokens import Batches
    from trainer import build_model, criterion, optim
    from trainer import config as configs
    from trainer.progress import waiting

    changes = [*arguments.set, *([f"max_tokens={arguments.max_tokens}"] if arguments.max_tokens else [])]
    config, file = configs.load_with_file(arguments.config, changes)
    with file.blamed({"loss": config.loss}):  # what is wrong with own code is said before any work
        criterion.build(config, arguments.allow_code)
    with file.blamed({"optimizer": config.optimizer}):
        optim.load_own(config, arguments.allow_code)
    with file.blamed({"model": config.model}):
        build_model.load_own(config, arguments.allow_code)
    if show:
        _note_changes(arguments.config, config)
    out = folder(arguments)
    resume = _resumable(out, config, arguments.resume)
    with (
        file.blamed({"corpus": config.corpus, "tokenizer": config.tokenizer, "split": config.split}),
        waiting(f"preparing {config.corpus}") if show else nullcontext(),
    ):
        data = prepare(
            config.corpus,
            config.tokenizer,
            config.split,
            progress=show and sys.stdout.isatty(),
            allow_code=arguments.allow_code,
        )
    other_data = _is_other_data(arguments.config, data, arguments.other_data)
    with file.blamed({"block_size": config.block_size, "batch_size": config.batch_size}):
        rows = config.batch_size * config.gradient_accumulation_steps
        Batches(data.train, config.block_size, config.data_order, config.seed, rows)  # raises for too short a corpus
    length = config.length(data.train.n_targets)
    if show:
        print(
            f"{data.corpus}: {data.train.n_targets:,} training tokens, {data.n_classes} classes; {length:,} to train on"
        )
        floor = data.val.floor_nll
        if floor is not None:
            print(f"floor: {floor.sum() / data.val.n_targets:.4f} nats/token: no honest model goes under it")
    return Order(config, data, out, resume, length, arguments.config, changes, arguments.allow_code, other_data)


def _note_changes(path: Path, config: TrainConfig) -> None:
    """Print a note where an exported config, or own code that it names, has changed since: results may differ."""
    from trainer import provenance
    from trainer.criterion import own_code

    source = provenance.read(path)
    if source is None:
        return
    if edited := provenance.describe_edits(path):
        print(f"note: {path} has been edited since its export from trial {source.trial} of {source.study}: {edited}")
    for reference, digest in own_code(config).items():
        if source.own_code.get(reference, digest) != digest:
            print(f"note: the code of {reference} has changed since trial {source.trial} of study {source.study}")


def _is_other_data(path: Path, data: Dataset, wanted: bool) -> bool:
    """Whether the config was exported from a study of other data. Raises UserError where that is not wanted."""
    from trainer import provenance

    source = provenance.read(path)
    if source is None or not source.text_hash:
        if wanted:
            raise UserError(f"--other-data: {path} does not say which data it was exported from; leave it out")
        return False
    if source.text_hash == data.hash:
        return False
    if not wanted:
        raise UserError(
            f"{path}: trial {source.trial} of study {source.study} was trained on {source.corpus}, hash "
            f"{source.text_hash[:12]}; {data.corpus} in tokens of {data.tokenizer} has hash {data.hash[:12]}: bring "
            "the old text back, or add --other-data to train on this one, apart from the study",
            kind="other_data",
            keys="corpus",
        )
    return True


def conclude(result: Result, order: Order, machine: str) -> int:
    """Print the last lines of a run that ended by itself, and write its model card.

    machine: description of the machine on which it ended. Returns the exit code.
    """
    from trainer import card
    from trainer.checkpoint import BEST

    if result.status == "diverged":
        print(f"diverged: {result.message}", file=sys.stderr)
        return 1
    written = card.write(order.out, order.data, result.status, order.source, order.changes, machine)
    if result.status == "early_stopped":
        print(f"stopped early at {result.tokens:,} tokens: the line below is of the best weights")
    print(f"run folder {order.out}; best val_loss at {result.best['tokens']:,} tokens ({BEST})")
    print(f"model card {written}")
    print(f"val_loss {result.metrics['val_loss']:.4f} val_perplexity {result.metrics['val_perplexity']:.4f}")
    return 0


def _resumable(out: Path, config: TrainConfig, wanted: bool) -> Path | None:
    """The checkpoint to resume from, or None to begin. Raises UserError rather than overwrite one."""
    from trainer import checkpoint

    path = out / checkpoint.CHECKPOINT
    if not path.exists():
        return None
    if wanted:
        return path
    saved = checkpoint.load(path)
    differences = checkpoint.differing_keys(saved.config, config)
    description = f"another config ({', '.join(differences)} differ)" if differences else "this config"
    raise UserError(
        f"{out} holds a run of {description}, at {saved.state.step * saved.config.tokens_per_step:,} tokens: "
        "continue it with --resume, or give another folder with --out"
    )


if __name__ == "__main__":
    sys.exit(main())
