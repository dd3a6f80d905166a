"""`nanosweep report`: a study as one HTML page that needs nothing else: no network, no server, no other file.

    from search.report import page
    page.write(study, Path("report.html"))

Its charts are SVG, its colours follow the reader's light or dark, its one script only marks a trial in all charts.
What a study says is escaped, and the page's policy lets no other script run.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import time
from pathlib import Path
from typing import Any

from search.report import space_charts, training_charts
from search.report.facts import costs, facts, provenance, spec_text, survivors
from search.report.leader_text import Samples, samples_of
from search.report.parallel_chart import parallel
from search.report.trial_marks import MOST
from search.results import export, table
from search.results.importance import importance
from search.results.standing import standings
from search.stats.statistics import Standing
from search.study.scores import best, objective_of
from search.study.study import Study, read_study
from trainer import units

NAME = "report.html"
PAGE = Path(__file__).parent / "template"
WIDE, NARROW = 1060, 350  # px: each chart that fills the page is drawn for both
ROWS = 200  # of the leaderboard


def write(study: Study, path: Path, whatever_it_costs: bool = True, allow_code: bool = False) -> None:
    """The page as a file, at once and whole. whatever_it_costs, allow_code: see `samples_of`. Raises UserError."""
    export.replace_text(path, page(study, samples_of(study, whatever_it_costs, allow_code)))


def place(study: Study, folder: Path | None) -> Path:
    """Where a study's page goes unless somebody says otherwise: into its folder, or here where that is elsewhere."""
    if folder is not None:
        return folder / NAME
    return Path(f"{Path(study.header.name).name or 'study'}-{NAME}")


def write_beside(folder: Path, allow_code: bool = False) -> None:
    """The page of a study that was just run, in its folder. Never raises: a study does not fail for its picture."""
    try:
        write(read_study(folder), folder / NAME, whatever_it_costs=False, allow_code=allow_code)
    except Exception as error:
        print(f"nanosweep: {folder / NAME} was not written: {type(error).__name__}: {error}", file=sys.stderr)


def page(study: Study, samples: Samples, found: list[Standing] | None = None) -> str:
    """HTML. found: the trials' standings, where somebody has them."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    found = standings(study) if found is None else found
    script = (PAGE / "report.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.jinja").render(
        style=Markup((PAGE / "report.css").read_text(encoding="utf-8")),  # our own files
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        name=study.header.name,
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        objective=objective_of(study).name,
        drawn=min(MOST, len(study.searched)),
        trials=len(study.searched),
        facts=facts(study, found),
        board=_board(study, found),
        survivors=survivors(study),
        costs=costs(study),
        spec=spec_text(study),
        best=export.text(study, found=found) if best(study) is not None else "",
        provenance=provenance(study),
        samples=samples,
        **_charts(study),
    )


def _board(study: Study, found: list[Standing]) -> dict[str, Any]:
    """The leaderboard's own cells, as the terminal shows them."""
    heads, lines, notes = table.cells(study, ROWS, found)
    # what tells most first: a page is narrower than its table
    early = [*heads[:3], *(head for head in ("seeds", "from leader") if head in heads)]
    order = [heads.index(head) for head in dict.fromkeys([*early, "status", "config", *heads])]
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
    mattered = importance(study)
    both = {
        name: [svg for width in (WIDE, NARROW) if (svg := draw(study, width)) is not None]
        for name, draw in {
            "curves": training_charts.curves,
            "rungs": training_charts.rungs,
            "timeline": training_charts.timeline,
            "parallel": parallel,
        }.items()
    }
    at = "full length" if mattered.rung is None else f"the rung at {units.count(mattered.rung)} tokens"
    return {
        **both,
        "importance": [svg for width in (520, NARROW) if (svg := space_charts.bars(mattered, width)) is not None],
        "mattered": mattered,
        "mattered_at": at,
        "slices": space_charts.slices(study),
        "pairs": space_charts.pairs(study, mattered),
    }
