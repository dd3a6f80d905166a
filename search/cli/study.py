"""The commands that read a study: `nanosweep leaderboard`, `export`, `report`, `figures`, `documents`, `samples`,
`finalize`, `register`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from data.errors import UserError
from search.cli.arguments import allow_code, color, study, study_folder, width
from trainer.command_line import temperature, whole
from trainer.units import plural

# nothing heavy up here, see cli.py
Command = Callable[..., argparse.ArgumentParser]


def add(command: Command) -> None:
    """Add their parsers. command(name, does, help) makes one."""
    board = command("leaderboard", _leaderboard, "the trials of a study, best first")
    study(board)
    board.add_argument("--by", metavar="KEY", help="the best of each value of a config key: --by loss")
    board.add_argument("--format", choices=("table", "json", "csv", "md"), default="table")
    board.add_argument("--limit", type=whole(), default=30, metavar="N", help="rows of the table; 0: all (default 30)")

    export = command("export", _export, "write the best trial's config, with where it comes from")
    study(export)
    export.add_argument("--trial", type=whole(), metavar="N", help="another trial than the best")
    export.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="for example best.yaml; - prints")

    page = command("report", _report, "a study as one HTML page: leaderboard, curves, parameters, rungs, workers, cost")
    study(page)
    allow_code(page)
    page.add_argument("-o", "--out", type=Path, metavar="FILE", help="default: report.html in the study's folder")

    figures = command("figures", _figures, "loss curves, perplexity by document, reliability as PNG files")
    text = "a study as for leaderboard, or the folder of one run"
    figures.add_argument("study", metavar="STUDY", help=text)
    figures.add_argument("--storage", type=Path, help="where studies live; default ./runs")
    figures.add_argument("--by", metavar="KEY", help="the best trial for each value of a config key (default: loss)")
    figures.add_argument("-o", "--out", type=Path, metavar="DIR", help="default: figures/ in the study's folder")

    documents = command("documents", _documents, "a trial story by story: quantiles, calibration, the worst ones")
    study_folder(documents)
    allow_code(documents)
    documents.add_argument("--trial", type=whole(), metavar="N", help="another trial than the best")
    documents.add_argument("--worst", type=whole(), default=3, metavar="N", help="how many of the worst (default 3)")

    written = command("samples", _samples, "one text from the best trial of each value of a key, from the same prompt")
    study_folder(written)
    allow_code(written)
    written.add_argument("--by", metavar="KEY", help="the best of each value of a config key: --by loss")
    written.add_argument("--prompt", default="", help="what the texts begin with; default: a new document")
    written.add_argument("--max-new-tokens", type=whole(1), default=200, metavar="N", help="of each (default 200)")
    written.add_argument(
        "--temperature", type=temperature, default=0.8, metavar="X", help="0 takes the likeliest token (default 0.8)"
    )
    written.add_argument("--seed", type=whole(), default=1337)
    written.add_argument("--format", choices=("text", "md"), default="text")

    final = command("finalize", _finalize, "the finalists on the test split, once; nothing is chosen by it")
    study_folder(final)
    allow_code(final)

    text = "the best trial as a version in MLflow's model registry, alias champion; run does it by itself"
    registered = command("register", _register, text)
    study_folder(registered)
    allow_code(registered)
    text = "another trial than the best; champion stays who leads"
    registered.add_argument("--trial", type=whole(), metavar="N", help=text)
    registered.add_argument("--name", help="of the registered model; default: the study's")


def _leaderboard(args: argparse.Namespace) -> None:
    from search.results import table
    from search.service import links
    from search.study.lookup import find_folder
    from search.tracking.open_study import open_study

    study = open_study(args.study, args.storage)
    limit = args.limit or None
    if args.format == "json":
        text = table.as_json(study, args.by)
    elif args.format == "csv":
        text = table.as_csv(study, args.by)
    elif args.format == "md":
        text = table.markdown(study, args.by, limit)
    else:
        text = table.render(study, args.by, limit, width(), color())
    print(text, end="")
    sys.stdout.flush()
    if args.format == "table":
        tracking = study.header.spec.tracking
        print(links.line(args.study, find_folder(args.study, args.storage), tracking), end="")


def _export(args: argparse.Namespace) -> None:
    from search.results import export
    from search.tracking.open_study import open_study

    study = open_study(args.study, args.storage)
    if str(args.out) == "-":
        print(export.text(study, args.trial), end="")
        return
    export.write(study, args.out, args.trial)
    print(f"{args.out}: {export.title(study, export.choose(study, args.trial))}")


def _report(args: argparse.Namespace) -> None:
    from search.report import page
    from search.study.lookup import find_folder
    from search.tracking.open_study import open_study

    study = open_study(args.study, args.storage)
    path = args.out or page.place(study, find_folder(args.study, args.storage))
    page.write(study, path, allow_code=args.allow_code)
    size = path.stat().st_size / 1e6
    print(f"{path}: {plural(len(study.searched), 'trial')}, one page that needs no network ({size:.1f} MB)")


def _figures(args: argparse.Namespace) -> None:
    from search.report import gallery
    from search.study.lookup import find_folder
    from search.tracking.open_study import open_study
    from trainer.run_folder import METRICS

    folder, run = find_folder(args.study, args.storage), Path(args.study).expanduser()
    if folder is None and (run / METRICS).is_file():
        if args.by is not None:
            raise UserError(f"--by {args.by}: {args.study} is one run; --by compares the trials of a study")
        drawn = gallery.of_run(run, args.out)
    else:
        out = args.out or (None if folder is None else folder / gallery.FOLDER)
        drawn = gallery.of_study(open_study(args.study, args.storage), out, args.by)
    print("\n".join([*map(str, drawn.paths), *drawn.lines]))


def _documents(args: argparse.Namespace) -> None:
    from search.results.documents import describe
    from search.study import lookup

    print(describe(lookup.study_folder(args.study, args.storage), args.trial, args.worst, args.allow_code), end="")


def _samples(args: argparse.Namespace) -> None:
    from search.report import samples
    from search.study import lookup

    folder = lookup.study_folder(args.study, args.storage)
    rule = samples.Rule(args.prompt, args.max_new_tokens, args.temperature, args.seed)
    written = samples.write(folder, args.by, rule, args.allow_code)
    print(samples.render(written) if args.format == "text" else samples.markdown(folder.name, rule, written), end="")


def _finalize(args: argparse.Namespace) -> None:
    from search.results import finalize
    from search.study import lookup

    folder = lookup.study_folder(args.study, args.storage)
    print(finalize.render(finalize.finalize(folder, args.allow_code)), end="")


def _register(args: argparse.Namespace) -> None:
    from search.study import lookup
    from search.tracking.registry import register

    registered = register(
        lookup.study_folder(args.study, args.storage), args.trial, args.name, allow_code=args.allow_code
    )
    print(f"{registered}; this loads it, in any folder:\n\n{registered.snippet}")
