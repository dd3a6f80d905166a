"""`nanosweep figures`: the figures of a study, or of one run, as PNG files.

    trials.png         loss of every trial against tokens, the leader and the next best named
    by-KEY.png         the best trial for each value of a config key (default: loss)
    leader.png         the leader's training and validation loss, and where over-fitting begins
    documents.png      the distribution of the leader's perplexity over the validation documents
    reliability.png    the leader's reliability diagram, as trained and after temperature scaling

A run folder gives loss.png, documents.png, reliability.png. matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from data.errors import UserError
from data.paths import quoted
from search.report import curves
from search.results.attempt import NotComputed, attempt
from search.results.by_value import grouped
from search.study.folder import trial_folder
from search.study.scores import best
from search.study.study import Study, read_study
from trainer import curve, files, run_folder, scores, units

FOLDER = "figures"
_NO_LEADER = "no trial has ended at full length"
Draw = Callable[[], Any]  # returns a Figure (matplotlib's: only search.report.figures knows it) or why there is none


@dataclass
class Drawn:
    """The files written, and lines to print: why a figure is missing, where over-fitting begins. failed: those of the
    lines that are about an error."""

    paths: list[Path] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def of_run(run: Path, out: Path | None = None) -> Drawn:
    """Write the figures of one run, read from its folder. out: default `figures` in it.

    Raises UserError where the run has no reports or the folder cannot be written.
    """
    return _add_overfitting(_write(_of_run(run), out or run / FOLDER), curves.of_run(run))


def of_study(study: Study, out: Path | None = None, by: str | None = None) -> Drawn:
    """Write a study's figures into a folder, by default figures/NAME in the working directory.

    Raises UserError where the folder cannot be written, or for an unknown key `by`.
    """
    if by is not None:
        grouped(study, by)
    out = out or Path(FOLDER) / study.header.name
    drawn = _write(_of_study(study, by), out)
    leader = attempt(curves.of_leader, study)
    return drawn if leader is None or isinstance(leader, NotComputed) else _add_overfitting(drawn, leader)


def _add_overfitting(drawn: Drawn, chart: curves.Chart) -> Drawn:
    if sentence := curve.sentence(chart.lines[0].curve, units.count):
        drawn.lines.append(f"{chart.title}: {sentence}")
    return drawn


def write_beside(folder: Path) -> None:
    """Write the figures of a study that has just run. What fails is printed as a note and does not fail the study."""
    drawn = attempt(lambda: of_study(read_study(folder), folder / FOLDER))
    notes = [f"no figures: {drawn}"] if isinstance(drawn, NotComputed) else drawn.failed
    for note in notes:
        print(f"note: {note}; nanosweep figures {quoted(folder)} tries again", file=sys.stderr)


def _of_study(study: Study, by: str | None) -> Iterator[tuple[str, Draw]]:
    """(file name, function that draws it or gives the reason why there is none) of each figure."""
    from search.report import figures

    def trials() -> Any:
        chart = curves.of_trials(study)
        return figures.losses(chart) if chart else "no trial has reported yet"

    def by_key() -> Any:
        several = by or len(curves.values_of(study, key)) > 1
        if (compared := curves.by(study, key) if several else None) is not None:
            return figures.losses(compared)
        alike = f"all trials have the same {key} (--by KEY compares another)"
        return alike if curves.of_trials(study) else "no trial has reported yet"

    def leading() -> Any:
        chart = curves.of_leader(study)
        return figures.training_and_validation(chart) if chart else _NO_LEADER

    key, leader = by or "loss", best(study)
    yield "trials.png", trials
    yield f"by-{_file_name(key)}.png", by_key
    yield "leader.png", leading
    if leader is None:
        yield "documents.png", lambda: _NO_LEADER
        yield "reliability.png", lambda: _NO_LEADER
        return
    place = trial_folder(study.folder, leader.number) if study.folder is not None else Path()
    title = f"{study.header.name}, trial {leader.number}"
    yield from _of_scores(title, place, leader.final["metrics"] if leader.final is not None else {})


def _file_name(key: str) -> str:
    """A key as part of a file name: parameters have any names."""
    return re.sub(r"[^\w.\-]+", "_", key)[:60]


def _of_run(folder: Path) -> Iterator[tuple[str, Draw]]:
    from search.report import figures

    reports = run_folder.read_reports(folder)
    yield "loss.png", lambda: figures.training_and_validation(curves.of_run(folder))
    yield from _of_scores(folder.resolve().name, folder, reports[-1]["metrics"])


def _of_scores(title: str, folder: Path, metrics: dict[str, Any]) -> Iterator[tuple[str, Draw]]:
    from search.report import figures

    def documents() -> Any:
        results = scores.load(folder / scores.SCORES)
        if results.one_document:
            return "the validation text is one document"
        return figures.documents(f"{title}: perplexity by document", results)

    def reliability() -> Any:
        results = scores.load(folder / scores.SCORES)
        if not results.bin_count.sum():
            return "its run did not measure it"
        return figures.reliability(f"{title}: reliability", results, metrics.get("val_temperature"))

    yield "documents.png", documents
    yield "reliability.png", reliability


def _write(pictures: Iterator[tuple[str, Draw]], out: Path) -> Drawn:
    drawn = Drawn()
    for name, draw in pictures:
        picture = attempt(_render, draw)
        if not isinstance(picture, bytes):
            drawn.lines.append(f"no {name}: {picture}")
            drawn.failed += [drawn.lines[-1]] if isinstance(picture, NotComputed) else []
            continue
        try:
            out.mkdir(parents=True, exist_ok=True)
            files.write(out / name, partial(_put, picture))
        except OSError as error:
            raise UserError(f"{out}: cannot be written: {error.strerror}; give another folder with -o") from None
        drawn.paths.append(out / name)
    return drawn


def _render(draw: Draw) -> bytes | str:
    """A PNG, or why there is none."""
    from search.report import figures

    try:
        figure = draw()
    except UserError as error:  # results that a run has not left, say
        return str(error)
    return figure if isinstance(figure, str) else figures.png(figure)


def _put(content: bytes, file: IO[bytes]) -> None:
    file.write(content)
