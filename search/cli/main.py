"""The `nanosweep` command, also `python -m search`. `nanosweep COMMAND --help` has each command's options.

Exit codes: 0 done; 1 a search without a single trial of full length, or Ray died under it; 2 a mistake in
the input, in one line; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError
from data.paths import quoted
from search.cli import jobs, service, study
from search.cli.arguments import allow_code, color, drawings, limits, port, retry_failed, width
from trainer.command_line import Parser, temperature, whole
from trainer.units import plural

if TYPE_CHECKING:
    from search.spec.study_spec import StudySpec
    from search.study.study import Study
    from trainer.config import TrainConfig
    from trainer.yaml_file import YamlFile

# Nothing heavy is imported up here: `--help` answers at once. Each command imports what it needs.


def main(argv: list[str] | None = None) -> int:
    args = sys.argv[1:] if argv is None else argv
    try:
        if args[:1] == ["train"]:
            from search.run.full_run import main as train

            return train(args[1:])
        if args[:1] == ["sample"]:
            from trainer.sample import main as sample

            return sample(args[1:], prog="nanosweep sample")
        arguments = parser().parse_args(args)
        return int(arguments.command(arguments) or 0)
    except UserError as error:
        print(f"nanosweep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `nanosweep leaderboard S | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> argparse.ArgumentParser:
    text = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="nanosweep", description=__doc__, formatter_class=text)
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, does: Callable[[argparse.Namespace], int | None], help_: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
        added.set_defaults(command=does)
        return added

    run = command("run", _run, "search: run a spec's study, or resume it")
    plan = command("plan", _plan, "what a spec would run, and whether it can; trains nothing")
    for searching in (run, plan):
        _spec(searching)
    retry_failed(run)
    drawings(run)
    run.add_argument("--address", help="a Ray cluster's address; default: RAY_ADDRESS, else this machine")

    commands.add_parser("train", help="train one config, here or on a Ray cluster", add_help=False)
    commands.add_parser(
        "sample", help="write text with a trained run; same as python -m trainer.sample", add_help=False
    )

    compared = command("compare", _compare, "the same prompts through a run and any Hugging Face model, side by side")
    compared.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a checkpoint file in one")
    compared.add_argument("--against", required=True, metavar="MODEL", help="a directory, or a name on the hub")
    compared.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="one prompt per line")
    compared.add_argument("--html", type=Path, metavar="OUT", help="write it as a page, too")
    compared.add_argument("--max-new-tokens", type=whole(1), default=200, metavar="N", help="of each (default 200)")
    compared.add_argument(
        "--temperature", type=temperature, default=0.8, metavar="X", help="0 takes the likeliest token (default 0.8)"
    )
    compared.add_argument("--seed", type=whole(), default=1337)
    allow_code(compared)

    ui = command("ui", _ui, "MLflow's page over the storage, on this machine, until Ctrl-C")
    ui.add_argument("study", nargs="?", metavar="STUDY", help="the study to link to; default: the newest")
    ui.add_argument("--storage", type=Path, default=Path("runs"), help="default ./runs")
    ui.add_argument("--port", type=port, default=5000, help="default 5000")

    study.add(command)
    service.add(command)
    jobs.add(command, _spec)

    command("schema", _schema, "the JSON Schema of a spec, for editors that complete YAML")
    return parser


class _Version(argparse.Action):
    """`--version`: the release and, in a checkout, its commit."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from search.study.environment import described

        print(f"nanosweep {described()}")
        parser.exit()


def _spec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", type=Path, metavar="SPEC", help="a YAML file, see search/specs/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the base config")
    parser.add_argument("--scale", metavar="NAME", help="one of the spec's scales: --scale tiny")
    parser.add_argument("--name", help="the study's name instead of the spec's")
    parser.add_argument("--storage", help="where studies live instead of the spec's place")
    parser.add_argument("--trials", metavar="N", help="number of trials instead of the budget's")
    parser.add_argument("--tokens", metavar="N", help="training tokens of all trials (500k, 20M, 2B), likewise")
    parser.add_argument("--hours", metavar="X", help="hours in which a driver runs, likewise")
    allow_code(parser)


def _run(args: argparse.Namespace) -> int:
    from search.results import table
    from search.run import study_run
    from search.service import links
    from search.study.scores import best

    spec, base, file = _load(args)
    report, figures = not args.no_report, not args.no_figures
    options = {"address": args.address, "allow_code": args.allow_code, "retry_failed": args.retry_failed}
    study = study_run.run(spec, base, file, **options, report=report, figures=figures)
    print(table.render(study, by=spec.compare, limit=10, width=width(), color=color()))
    if best(study) is not None:
        print(f"best config: {spec.folder / 'best.yaml'} (train it longer: nanosweep train FILE --set max_tokens=...)")
    if figures and (spec.folder / "figures").is_dir():
        print(f"figures:     {spec.folder / 'figures'}")
    ui = f" (in the browser: nanosweep ui --storage {quoted(spec.folder.parent)})"
    browser = ui if spec.tracking == "mlflow" else ""
    print(f"all trials:  nanosweep leaderboard {quoted(spec.folder)}{browser}")
    if report and (spec.folder / "report.html").is_file():
        print(f"as a page:   {spec.folder / 'report.html'}")
    print(links.line(spec.study, spec.folder, spec.tracking), end="")
    if study.stopped or study.unfinished():
        print(f"{study.stopped or 'stopped'}: {_left(study)}; nothing is lost, the same command continues")
        return 130
    return 0 if best(study) is not None else 1


def _left(study: Study) -> str:
    """What a study that was stopped is left with."""
    left = [study.trials[number] for number in study.unfinished()]
    begun = [trial for trial in left if trial.status != "waiting"]
    again = sum(trial.of is not None for trial in begun)
    parts = [plural(len(begun) - again, "trial")] if len(begun) > again or not left else []
    parts += [plural(again, "run") + " of finalists"] if again else []
    lines = [f"{' and '.join(parts)} interrupted"] if parts else []
    return ", ".join(
        lines + ([f"{plural(len(left) - len(begun), 'trial')} not begun"] if len(left) > len(begun) else [])
    )


def _plan(args: argparse.Namespace) -> None:
    from search.run.plan import describe

    print(describe(*_load(args), allow_code=args.allow_code), end="")


def _load(args: argparse.Namespace) -> tuple[StudySpec, TrainConfig, YamlFile]:
    """The spec with what the command line changes."""
    from search.spec.load import with_options

    return with_options(args.spec, args.set, args.scale, args.name, args.storage, limits(args))


def _compare(args: argparse.Namespace) -> None:
    from trainer import comparison_page, files
    from trainer.model_comparison import Rule, compare

    rule = Rule(args.max_new_tokens, args.temperature, args.seed)
    comparison = compare(args.run, args.against, args.prompts, rule, args.allow_code)
    print(comparison_page.render(comparison, width()), end="")
    if args.html is not None:
        files.replace_text(args.html, comparison_page.page(comparison))
        print(f"\n{args.html}: the same as a page")


def _ui(args: argparse.Namespace) -> None:
    from search.service.ui import serve

    serve(args.storage, args.port, args.study)


def _schema(args: argparse.Namespace) -> None:
    from search.spec.schema import text

    print(text())


if __name__ == "__main__":
    sys.exit(main())
