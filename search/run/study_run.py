"""Run a study: everything checked first, then Ray Tune over our searcher, scheduler and journal.

    study = run(*load_spec(Path("search/specs/quickstart.yaml")))

The same command resumes a study that was stopped or killed: from its journal, in a fresh Tuner. Ray's own
files lie in a scratch folder and are thrown away.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError
from search.report import page
from search.results import export
from search.run import nodes
from search.run.prepare import prepare
from search.run.ray_session import ray_session
from search.run.resources import cluster, share
from search.run.settle_dtype import settle
from search.spec.check import check
from search.spec.study_spec import StudySpec
from search.strategy.advice import advice
from search.strategy.distinct import Distinct
from search.strategy.finalists import pending
from search.strategy.stopping import rebuild
from search.study import header
from search.study.failures import begin_again
from search.study.folder import held
from search.study.machine import this_machine
from search.study.study import Study, read_begun, read_study, spent, used_up
from search.tracking.tracker import Tracker, connected, finish, open_tracker
from trainer.config import TrainConfig
from trainer.units import plural
from trainer.yaml_file import YamlFile

if TYPE_CHECKING:
    from rich.console import Console


def run(
    spec: StudySpec,
    base: TrainConfig,
    file: YamlFile,
    *,
    address: str | None = None,
    console: Console | None = None,
    allow_code: bool = False,
    retry_failed: bool = False,
    report: bool = True,
    figures: bool = True,
) -> Study:
    """Run a study to the end of its budget, or resume it. Returns what its journal says.

    address: of a Ray cluster; default RAY_ADDRESS (set inside a Ray job), else Ray is started on this machine.
    allow_code: whether own code that the spec names (`loss: my_module:MyLoss`) may be imported, here and by trials.
    retry_failed: begin the trials again that failed or ran out of memory, from their checkpoints where there are any.
    report, figures: whether report.html and the pictures are made at the end.
    Ctrl-C stops it: what ran is `interrupted` and will be continued. A second one raises KeyboardInterrupt at once.
    Raises UserError for whatever is wrong with spec, data or machines; a fresh study then leaves nothing behind.
    """
    from rich.console import Console

    console = console or Console()
    address = address or os.environ.get("RAY_ADDRESS")
    machine = this_machine()
    check(spec, base, file)
    here = None if address else share(spec.resources, [machine], file, base.device)  # before anything is started
    tracker = open_tracker(spec.tracking, spec.folder)
    try:
        tracker.check()
    except UserError as error:
        raise nodes.named(error) if address else error from None
    with held(spec.folder):
        earlier = read_begun(spec.folder)
        header.check_same(spec, base, earlier.header)
        again, stopped = begin_again(earlier, retry_failed), ""
        over = not again and _over(spec, earlier.header.base, earlier)
        with ExitStack() as stack:
            session = None if over else stack.enter_context(ray_session(address, machine, here))
            prepared = prepare(spec, base, file, earlier, show=console.is_terminal, allow_code=allow_code)
            notes = advice(spec, prepared.base, prepared.facts(here.slots if here else None))
            for line in (*notes, *_standing(spec, earlier, again, retry_failed)):
                print(f"note: {line}", file=console.file)
            draw = partial(_draw, spec.folder, report, figures, allow_code)
            if session is None:
                export.write_results(spec.folder)
                _track(spec, tracker, draw)  # nothing to do but to send what it may still lack
            else:
                from search.run.driver import search  # loads Ray Tune: a second or two

                with console.status("starting Ray"):  # shown in a terminal only
                    _import_meanwhile(report, figures)
                    session.wait()
                    each = share(spec.resources, cluster(), file, base.device)
                    if address:
                        nodes.check(spec.folder, own_code=prepared.own_code)
                    prepared = settle(prepared, each, earlier.header, elsewhere=bool(address))
                stopped = search(prepared, each, session, console, tracker, draw, again)
        with console.status("the tracker's last step"):
            finish(tracker)
        study = read_study(spec.folder)
        study.stopped = stopped
        return study


def _standing(spec: StudySpec, study: Study, again: Collection[int], retry_failed: bool) -> Iterator[str]:
    """What a study that continues has done already and what it does next, where that may surprise."""
    if again:
        yield f"{plural(len(again), 'trial')} that failed: begun again"
    elif retry_failed:
        yield "--retry-failed: no trial has failed"
    left = len({*study.unfinished(), *again})
    if left < len(study.trials) and (done := spent(study, spec.budget)):
        rest = f", {plural(left, 'unfinished trial')} apart" if left else ""
        yield (
            f"the budget is used up ({done}): no new trial begins{rest}; with a larger one (--trials, --tokens, "
            "--hours) the search continues"
        )


def _over(spec: StudySpec, base: TrainConfig, study: Study) -> bool:
    """Whether no trial is left to resume, to promote or to begin."""
    if not study.started or study.unfinished() or pending(study, spec):
        return False
    if not spent(study, spec.budget) and not Distinct(spec, base).exhausted(study):
        return False
    rule = rebuild(spec, study)
    return rule is None or rule.promotion(last=True) is None or bool(used_up(study, spec.budget))


def _import_meanwhile(report: bool, figures: bool) -> None:
    """What the end of the study imports anyway, 1.5 s of a core, while Ray starts in processes of its own."""
    with suppress(Exception):  # what cannot be imported costs the study its drawings, and is said there
        if report:
            importlib.import_module("scipy.stats")
        if figures:
            importlib.import_module("search.report.figures").import_all()


def _draw(folder: Path, report: bool, figures: bool, allow_code: bool) -> None:
    """The pictures and the page of a study that has just run. An error is a printed line and does not fail it."""
    from search.report import gallery

    if figures:
        gallery.write_beside(folder)
    if report:
        page.write_beside(folder, allow_code)


def _track(spec: StudySpec, tracker: Tracker, draw: Callable[[], None]) -> None:
    from search.run.driver import ledger_of

    draw()
    with connected(tracker), ledger_of(spec.folder) as ledger:
        tracker.follow(ledger)
