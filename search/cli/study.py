"""The commands that read a study: `nanosweep leaderboard`, `export`, `report`, `figures`, `documents`, `samples`,
`finalize`, `register`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from data.errors import UserError
from search.cli.arguments import color, study, study_folder, whole, width

# nothing heavy up here, see cli.py
Command = Callable[..., argparse.ArgumentParser]


def add(command: Command) -> None:
    """Their parsers. command(name, does, about) makes one."""
    board = command("leaderboard", _leaderboard, "the trials of a study, best first")
    study(board)
    board.add_argument("--by", metavar="KEY", help="the best of each value of a config key: --by loss")
    board.add_argument("--format", choices=("table", "json", "csv", "md"), default="table")
    board.add_argument("--limit", type=whole, default=30, metavar="N", help="rows of the table; 0: all (default 30)")

    export = command("export", _export, "write the best trial's config, with where it comes from")
    study(export)
    export.add_argument("--trial", type=whole, metavar="N", help="another trial than the best")
    export.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="for example best.yaml; - prints")

    page = command("report", _report, "a study as one HTML page: leaderboard, curves, parameters, rungs, workers, cost")
    study(page)
    page.add_argument("-o", "--out", type=Path, metavar="FILE", help="default: report.html in the study's folder")

    figures = command("figures", _figures, "loss curves, perplexity by document, reliability as PNG files")
    about = "a study as for leaderboard, or the folder of one run"
    figures.add_argument("study", metavar="STUDY", help=about)
    figures.add_argument("--storage", type=Path, help="where studies live; default ./runs")
    figures.add_argument("--by", metavar="KEY", help="the best trial for each value of a config key (default: loss)")
    figures.add_argument("-o", "--out", type=Path, metavar="DIR", help="default: figures/ in the study's folder")

    documents = command("documents", _documents, "a trial story by story: quantiles, calibration, the worst ones")
    study_folder(documents)
    documents.add_argument("--trial", type=whole, metavar="N", help="another trial than the best")
    documents.add_argument("--worst", type=whole, default=3, metavar="N", help="how many of the worst (default 3)")

    written = command("samples", _samples, "one text from the best trial of each value of a key, from the same prompt")
    study_folder(written)
    written.add_argument("--by", metavar="KEY", help="the best of each value of a config key: --by loss")
    written.add_argument("--prompt", default="", help="what the texts begin with; default: a new document")
    written.add_argument("--max-new-tokens", type=whole, default=200, metavar="N", help="of each (default 200)")
    written.add_argument(
        "--temperature", type=float, default=0.8, metavar="X", help="0 takes the likeliest token (default 0.8)"
    )
    written.add_argument("--seed", type=whole, default=1337)
    written.add_argument("--format", choices=("text", "md"), default="text")

    final = command("finalize", _finalize, "the finalists on the test split, once; nothing is chosen by it")
    study_folder(final)

    about = "the best trial as a version in MLflow's model registry, alias champion; run does it by itself"
    registered = command("register", _register, about)
    study_folder(registered)
    about = "another trial than the best; champion stays who leads"
    registered.add_argument("--trial", type=whole, metavar="N", help=about)
    registered.add_argument("--name", help="of the registered model; default: the study's")


def _leaderboard(given: argparse.Namespace) -> None:
    from search.results import table
    from search.service import links
    from search.study.lookup import find_folder
    from search.tracking.open_study import open_study

    found = open_study(given.study, given.storage)
    limit = given.limit or None
    if given.format == "json":
        text = table.as_json(found, given.by)
    elif given.format == "csv":
        text = table.as_csv(found, given.by)
    elif given.format == "md":
        text = table.markdown(found, given.by, limit)
    else:
        text = table.render(found, given.by, limit, width(), color())
    print(text, end="")
    sys.stdout.flush()
    if given.format == "table":
        print(links.line(given.study, find_folder(given.study, given.storage)), end="")


def _export(given: argparse.Namespace) -> None:
    from search.results import export
    from search.tracking.open_study import open_study

    found = open_study(given.study, given.storage)
    if str(given.out) == "-":
        print(export.text(found, given.trial), end="")
        return
    export.write(found, given.out, given.trial)
    print(f"{given.out}: {export.title(found, export.choose(found, given.trial))}")


def _report(given: argparse.Namespace) -> None:
    from search.report import page
    from search.study.lookup import find_folder
    from search.tracking.open_study import open_study

    study = open_study(given.study, given.storage)
    path = given.out or page.place(study, find_folder(given.study, given.storage))
    page.write(study, path)
    size = path.stat().st_size / 1e6
    print(f"{path}: {len(study.searched)} trials, one page that needs no network ({size:.1f} MB)")


def _figures(given: argparse.Namespace) -> None:
    from search.report import gallery
    from search.study.lookup import find_folder
    from search.tracking.open_study import open_study
    from trainer.records import METRICS

    folder, run = find_folder(given.study, given.storage), Path(given.study).expanduser()
    if folder is None and (run / METRICS).is_file():
        if given.by is not None:
            raise UserError(f"--by {given.by}: {given.study} is one run; --by compares the trials of a study")
        drawn = gallery.of_run(run, given.out)
    else:
        out = given.out or (None if folder is None else folder / gallery.FOLDER)
        drawn = gallery.of_study(open_study(given.study, given.storage), out, given.by)
    print("\n".join([*map(str, drawn.paths), *drawn.lines]))


def _documents(given: argparse.Namespace) -> None:
    from search.results.documents import describe
    from search.study import lookup

    print(describe(lookup.study_folder(given.study, given.storage), given.trial, given.worst), end="")


def _samples(given: argparse.Namespace) -> None:
    from search.report import samples
    from search.study import lookup

    folder = lookup.study_folder(given.study, given.storage)
    rule = samples.Rule(given.prompt, given.max_new_tokens, given.temperature, given.seed)
    found = samples.write(folder, given.by, rule)
    print(samples.render(found) if given.format == "text" else samples.markdown(folder.name, rule, found), end="")


def _finalize(given: argparse.Namespace) -> None:
    from search.results import finalize
    from search.study import lookup

    folder = lookup.study_folder(given.study, given.storage)
    print(finalize.render(finalize.finalize(folder)), end="")


def _register(given: argparse.Namespace) -> None:
    from search.study import lookup
    from search.tracking.registry import register

    print(register(lookup.study_folder(given.study, given.storage), given.trial, given.name))
