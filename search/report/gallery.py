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
from typing import Any

from data.errors import UserError
from search.report import curves
from search.study.folder import trial_folder
from search.study.scores import best
from search.study.study import Study, read_study
from trainer import curve, run_folder, scores, units

FOLDER = "figures"
Draw = Callable[[], Any]  # returns a matplotlib Figure; only search.report.figures knows the type


@dataclass
class Drawn:
    """The files written, and lines to print: why a figure is missing, where over-fitting begins."""

    paths: list[Path] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def of_run(run: Path, out: Path | None = None) -> Drawn:
    """Write the figures of one run, read from its folder. out: default `figures` in it.

    Raises UserError where the run has no reports or the folder cannot be written.
    """
    return _add_overfitting(_write(_of_run(run), out or run / FOLDER), curves.of_run(run))


def of_study(study: Study, out: Path | None = None, by: str | None = None) -> Drawn:
    """Write a study's figures into a folder, by default figures/NAME in the working directory.

    Raises UserError where the folder cannot be written, or for an unknown key `by`.
    """
    out = out or Path(FOLDER) / study.header.name
    drawn = _write(_of_study(study, by), out)
    leader = curves.of_leader(study)
    return drawn if leader is None else _add_overfitting(drawn, leader)


def _add_overfitting(drawn: Drawn, chart: curves.Chart) -> Drawn:
    if sentence := curve.sentence(chart.lines[0].curve, units.count):
        drawn.lines.append(f"{chart.title}: {sentence}")
    return drawn


def attempt(folder: Path) -> None:
    """Write the figures of a study that has just run. An error is printed as a note and does not fail the study."""
    try:
        of_study(read_study(folder), folder / FOLDER)
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        print(f"note: no figures ({why}); nanosweep figures {folder} tries again", file=sys.stderr)


def _of_study(study: Study, by: str | None) -> Iterator[tuple[str, Draw | str]]:
    """(file name, function that draws it or the reason why there is none) of each figure."""
    from search.report import figures

    chart = curves.of_trials(study)
    yield "trials.png", partial(figures.losses, chart) if chart else "no trial has reported yet"
    key = by or "loss"
    compared = curves.by(study, key) if chart and (by or len(curves.values_of(study, key)) > 1) else None
    alike = f"all trials have the same {key} (--by KEY compares another)" if chart else "no trial has reported yet"
    yield f"by-{_file_name(key)}.png", partial(figures.losses, compared) if compared else alike
    leader, first = best(study), curves.of_leader(study)
    if leader is None or first is None:
        for name in ("leader.png", "documents.png", "reliability.png"):
            yield name, "no trial has ended at full length"
        return
    yield "leader.png", partial(figures.training_and_validation, first)
    place = trial_folder(study.folder, leader.number) if study.folder is not None else Path()
    title = f"{study.header.name}, trial {leader.number}"
    yield from _of_scores(title, place, leader.final["metrics"] if leader.final is not None else {})


def _file_name(key: str) -> str:
    """A key as part of a file name: parameters have any names."""
    return re.sub(r"[^\w.\-]+", "_", key)[:60]


def _of_run(folder: Path) -> Iterator[tuple[str, Draw | str]]:
    from search.report import figures

    reports = run_folder.read_reports(folder)
    yield "loss.png", partial(figures.training_and_validation, curves.of_run(folder))
    yield from _of_scores(folder.resolve().name, folder, reports[-1]["metrics"])


def _of_scores(title: str, folder: Path, metrics: dict[str, Any]) -> Iterator[tuple[str, Draw | str]]:
    from search.report import figures

    try:
        results = scores.load(folder / scores.SCORES)
    except UserError as error:
        yield "documents.png", str(error)
        yield "reliability.png", str(error)
        return
    draw_documents = partial(figures.documents, f"{title}: perplexity by document", results)
    yield "documents.png", "the validation text is one document" if results.one_document else draw_documents
    draw_reliability = partial(figures.reliability, f"{title}: reliability", results, metrics.get("val_temperature"))
    yield "reliability.png", draw_reliability if results.bin_count.sum() else "its run did not measure it"


def _write(pictures: Iterator[tuple[str, Draw | str]], out: Path) -> Drawn:
    from search.report import figures

    drawn = Drawn()
    try:
        for name, drawing in pictures:
            if isinstance(drawing, str):
                drawn.lines.append(f"no {name}: {drawing}")
                continue
            out.mkdir(parents=True, exist_ok=True)
            figures.save(drawing(), out / name)
            drawn.paths.append(out / name)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}; give another folder with -o") from None
    return drawn
