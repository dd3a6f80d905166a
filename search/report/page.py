"""`nanosweep report`: a study as one self-contained HTML page: no network, no server, no other file.

    from search.report import page
    page.write(study, Path("report.html"))

The charts are inline SVG, the colours follow the browser's light or dark scheme, the only script marks a trial in all
charts. Text from a study is escaped, and the content security policy allows no other script.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.report import space_charts, training_charts
from search.report.facts import costs, facts, provenance, spec_text, survivors
from search.report.leader_text import Samples, samples_of
from search.report.parallel_chart import parallel
from search.report.trial_marks import MOST
from search.results import export, table
from search.results.attempt import NotComputed, attempt
from search.results.importance import Importance, importance
from search.results.standing import standings
from search.stats.statistics import Standing
from search.study.scores import best, objective_of
from search.study.study import Study, read_study
from trainer import units
from trainer.files import replace_text

if TYPE_CHECKING:
    from markupsafe import Markup

NAME = "report.html"
PAGE = Path(__file__).parent / "template"
WIDE, NARROW = 1060, 350  # px; each full-width chart is drawn in both widths
ROWS = 200  # of the leaderboard that are shown


def write(study: Study, path: Path, allow_slow: bool = True, allow_code: bool = False) -> None:
    """Write the page to a file atomically. allow_slow, allow_code: see `samples_of`.

    Raises UserError when it cannot be written.
    """
    replace_text(path, page(study, samples_of(study, allow_slow, allow_code)))


def place(study: Study, folder: Path | None) -> Path:
    """The default path of a study's page: in its folder or, for a study without one here, in the working directory."""
    if folder is not None:
        return folder / NAME
    return Path(f"{Path(study.header.name).name or 'study'}-{NAME}")


def write_beside(folder: Path, allow_code: bool = False) -> None:
    """Write the page of a study that has just run into its folder. An error is printed and does not fail the study."""
    written = attempt(lambda: write(read_study(folder), folder / NAME, allow_slow=False, allow_code=allow_code))
    if isinstance(written, NotComputed):
        print(f"nanosweep: {folder / NAME} was not written: {written.reason}", file=sys.stderr)


def page(study: Study, samples: Samples, ranked: list[Standing] | None = None) -> str:
    """The page as HTML. ranked: the standings of the trials, computed here if None."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    ranked = standings(study) if ranked is None else ranked
    script = (PAGE / "report.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["missing"] = lambda part: isinstance(part, NotComputed)
    return environment.get_template("report.html.jinja").render(
        style=Markup((PAGE / "report.css").read_text(encoding="utf-8")),  # files of this package, not text of a study
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        name=study.header.name,
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        objective=objective_of(study).name,
        drawn=min(MOST, len(study.searched)),
        trials=len(study.searched),
        facts=facts(study, ranked),
        board=_board(study, ranked),
        survivors=attempt(survivors, study),
        costs=attempt(costs, study),
        spec=attempt(spec_text, study),
        best=attempt(export.text, study, ranked=ranked) if best(study) is not None else "",
        provenance=attempt(provenance, study),
        samples=samples,
        **_charts(study),
    )


def _board(study: Study, ranked: list[Standing]) -> dict[str, Any]:
    """The leaderboard's cells as in the terminal, with what the template needs to mark them."""
    heads, lines, notes = table.cells(study, ROWS, ranked)
    # the most informative columns first: a page is narrower than its table
    first_heads = [*heads[:3], *(head for head in ("seeds", "from leader") if head in heads)]
    order = [heads.index(head) for head in dict.fromkeys([*first_heads, "status", "config", *heads])]
    heads, lines = [heads[at] for at in order], [[line[at] for at in order] for line in lines]
    leader = best(study)
    return {
        "heads": heads,
        "lines": lines,
        "left": [head in ("status", "config") for head in heads],
        "trial": heads.index("trial"),
        "leader": "" if leader is None else str(leader.number),
        "notes": [(line.partition(":")[0].lower(), line) for line in notes],
    }


def _charts(study: Study) -> dict[str, Any]:
    """The charts by name, each in its widths; or NotComputed, alone, where one cannot be drawn."""
    importances = attempt(importance, study)
    shown = Importance(None, 0, {}, {}) if isinstance(importances, NotComputed) else importances
    return {
        "curves": attempt(_drawn, partial(training_charts.curves, study)),
        "rungs": attempt(_drawn, partial(training_charts.rungs, study)),
        "timeline": attempt(_drawn, partial(training_charts.timeline, study)),
        "parallel": attempt(_drawn, partial(parallel, study)),
        "importance": attempt(_drawn, partial(space_charts.bars, shown), (520, NARROW)),
        "importances": importances,
        "importances_at": "full length" if shown.rung is None else f"the rung at {units.count(shown.rung)} tokens",
        "slices": attempt(space_charts.slices, study),
        "pairs": attempt(space_charts.pairs, study, shown),
    }


def _drawn(draw: Callable[[int], Markup | None], widths: tuple[int, int] = (WIDE, NARROW)) -> list[Markup]:
    return [svg for width in widths if (svg := draw(width)) is not None]
