"""Train one GPT from one config, without a search around it.

    python -m trainer trainer/configs/shakespeare-char-cpu.yaml --set learning_rate=3e-4
    torchrun --nproc_per_node=2 -m trainer trainer/configs/gpt2-124m.yaml

Writes a run folder (out/<config name>, or --out), at the end with a model card, shows its progress, and ends with the
line `val_loss X val_perplexity Y` of the full validation split. Exit codes: 0 done; 1 diverged; 2 a mistake in what
was given, in one line; 130 Ctrl-C, the last checkpoint kept.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError

if TYPE_CHECKING:
    from trainer.config import TrainConfig


def main(argv: list[str] | None = None, prog: str = "python -m trainer") -> int:
    """prog: what the user typed, for usage and errors. Returns the exit code."""
    arguments = parser(prog).parse_args(argv)
    out = arguments.out or Path("out") / arguments.config.stem
    try:
        return _run(arguments, out)
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
        next_move = f"{out} keeps the last checkpoint: add --resume to go on" if kept else "no checkpoint yet"
        print(f"\ninterrupted; {next_move}", file=sys.stderr)
        return 130


def parser(prog: str = "python -m trainer") -> argparse.ArgumentParser:
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument("config", type=Path, help="a YAML file, see trainer/configs/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value; repeatable")
    parser.add_argument("--max-tokens", metavar="N", help="same as --set max_tokens=N (500k, 20M, 2B, `7 epochs`)")
    parser.add_argument("--out", type=Path, help="the run folder; default: out/<config name>")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the folder's checkpoint, or begin where there is none"
    )
    return parser


def _run(arguments: argparse.Namespace, out: Path) -> int:
    from data.prepare import prepare
    from trainer import card, checkpoint, device
    from trainer import config as configs
    from trainer.distributed import from_environment
    from trainer.loop import train
    from trainer.progress import Display, display

    longer = [f"max_tokens={arguments.max_tokens}"] if arguments.max_tokens else []
    config = configs.load(arguments.config, [*arguments.set, *longer])
    resume = _resumable(out, config, arguments.resume)
    ranks = from_environment()
    first = ranks.rank == 0
    data = prepare(config.corpus, config.tokenizer, config.split, progress=first and sys.stdout.isatty())
    length = config.length(data.train.n_targets)
    if first:
        print(
            f"{data.corpus}: {data.train.n_targets:,} training tokens, {data.n_classes} classes; {length:,} to train on"
        )
        floor = data.val.floor_nll
        if floor is not None:
            print(f"floor: {floor.sum() / data.val.n_targets:.4f} nats/token: no honest model goes under it")
    with display(length) if first else nullcontext(Display()) as shown:
        result = train(config, data, shown.report, resume, out_dir=out, on_step=shown.on_step)
    if result.status == "diverged":
        if first:
            print(f"diverged: {result.message}", file=sys.stderr)
        return 1
    if first:
        machine = device.describe(device.choose(config, ranks.local_rank), ranks.size)
        written = card.write(out, data, result.status, arguments.config, [*arguments.set, *longer], machine)
        if result.status == "early_stopped":
            print(f"stopped early at {result.tokens:,} tokens: the line below is of the best weights")
        print(f"run folder {out}; best val_loss on the way at {result.best['tokens']:,} tokens ({checkpoint.BEST})")
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
    found = checkpoint.load(path)
    other = checkpoint.differing(found.config, config)
    what = f"another config ({', '.join(other)} differ)" if other else "this config"
    raise UserError(
        f"{out} holds a run of {what}, at {found.state.step * found.config.tokens_per_step:,} tokens: "
        "continue it with --resume, or give another folder with --out"
    )


if __name__ == "__main__":
    sys.exit(main())
