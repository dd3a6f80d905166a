"""The driver of a study: journal, tracker, live table and Ray Tune put together, from the first record to the last.

Ends in one of four ways: the budget is spent; the user stops it (what ran is `interrupted`); something makes it
useless to continue (one line says what); Ray dies (another thread ends the process, as this one would wait for ever).
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray import tune

from data.errors import UserError
from search.results import export
from search.run import live
from search.run.prepare import Prepared
from search.run.ray_session import Session
from search.run.resources import Share, cluster
from search.run.room import lacking
from search.run.scheduler import LedgerScheduler, settle
from search.run.searcher import LedgerSearcher
from search.run.trainable import trainable
from search.run.watch import Stopped, Watch, beating
from search.strategy.stopping import rebuild
from search.study import header
from search.study.failures import common_cause, failed_alike
from search.study.folder import Weights, trial_folder, write_spec
from search.study.journal import Record
from search.study.ledger import Ledger
from search.tracking.tracker import Tracker, close, connected

if TYPE_CHECKING:
    from rich.console import Console

# why a driver was told to stop: by its user, or (a job) by `nanosweep stop`
ASKED = {signal.SIGINT: "stopped by Ctrl-C", signal.SIGTERM: "stopped by SIGTERM"}


def search(
    prepared: Prepared,
    each: Share,
    session: Session,
    console: Console,
    tracker: Tracker,
    draw: Callable[[], None],
    again: Collection[int] = (),
) -> str:
    """Hand out trials until the end. Ray is running, and ends before the study is drawn.

    draw: makes the files that show the study, which the tracker takes along. again: failed trials that begin again.
    Returns why the user or a job's owner stopped it, "" at its own end. Raises UserError.
    """
    spec, scratch = prepared.spec, session.scratch
    with ExitStack() as stack:
        with console.status("connecting to the tracker"):
            stack.enter_context(connected(tracker))
        ledger = stack.enter_context(ledger_of(spec.folder))
        _begin(prepared, each, ledger, again)
        rule = rebuild(spec, ledger.study)
        settle(ledger, spec, rule)
        tracker.follow(ledger)
        searcher = LedgerSearcher(
            ledger, spec, prepared.base, rule, prepared.tokens, lambda n: trial_folder(spec.folder, n)
        )
        scheduler = LedgerScheduler(ledger, spec, rule)
        with (
            live.shown(ledger.study, each.slots, prepared.length, console) as view,
            _told_to_stop() as asked,
            # Ray's processes may get the same SIGTERM: that they end is then no cause but a consequence
            beating(lambda cause: _leave((*asked, cause)[0], ledger, tracker, console, scratch)) as answers,
        ):
            ledger.listeners += [view, Weights(spec.folder, ledger.study)]
            try:
                say = lambda line: console.print(line, soft_wrap=True)
                watch = Watch(scheduler, each, asked, cluster, lacking, say)
                _fit(prepared, scratch, searcher, scheduler, watch)
                if cause := common_cause(ledger.study):  # of fewer trials than make the scheduler stop
                    asked.append(cause)
                    raise Stopped
            except Stopped:
                scheduler.interrupt("the study stopped" if failed_alike(ledger.study) else asked[0])
                if asked[0] not in ASKED.values():
                    raise UserError(f"{asked[0]}; then the same command resumes the study") from None
            except Exception:
                if ledger.broken is not None:
                    raise ledger.broken from None  # Ray wraps it into a page of its own
                scheduler.interrupt("the driver failed")
                raise
            if asked:  # Ray may be dying of the same signal: its pulse is listened to meanwhile
                _show(spec.folder, draw)
            gone = bool(asked) and not answers()
        if not gone:  # nobody listens any more: now it may end
            session.leave()
        if not asked:
            _show(spec.folder, draw)  # before the tracker ends, which takes along what it finds
        if gone:  # from a Ray that is gone there is no way back: its client waits a minute, then ends the process
            _leave(asked[0], ledger, tracker, console, scratch)
    return next(iter(asked), "")


def _show(folder: Path, draw: Callable[[], None]) -> None:
    export.write_results(folder)  # first, whatever becomes of all that is drawn
    draw()


def _leave(cause: str, ledger: DriverLedger, tracker: Tracker, console: Console, scratch: Path) -> None:
    """End this process, mostly from a thread of its own: the main one waits in Ray, which does not come back."""
    with suppress(UserError):
        for number in ledger.study.unfinished():
            if ledger.study.trials[number].status == "running":
                ledger.write("status", trial=number, status="interrupted", cause=cause)
    missing = close(tracker, 10)
    for process in psutil.Process().children(recursive=True):  # what is left of a Ray that we started
        with suppress(psutil.Error):
            process.kill()
    shutil.rmtree(scratch, ignore_errors=True)
    console.show_cursor()
    lines = [f"nanosweep: {cause}; nothing is lost, the same command resumes the study"]
    lines += [missing] if missing else []
    print("\n".join(lines), file=sys.stderr, flush=True)
    os._exit(130 if cause in ASKED.values() else 1)


def _begin(prepared: Prepared, each: Share, ledger: DriverLedger, again: Collection[int]) -> None:
    """The first records of a driver: the study; and trials that an earlier driver left running do not run.

    again: failed trials; they are unfinished from now on.
    """
    spec = prepared.spec
    rungs, own_code = spec.rungs(prepared.length), prepared.own_code
    fields = header.fields(spec, prepared.base, prepared.data, rungs, own_code.digests, own_code.directory)
    fields |= {"precision": dict(prepared.precision)} if prepared.precision else {}
    ledger.write("study", **fields, workers={"slots": each.slots, "cpus": each.cpus, "gpus": each.gpus})
    write_spec(spec)
    if prepared.earlier_trials:
        ledger.write("prior", trials=prepared.earlier_trials)
    for number in ledger.study.unfinished():
        if ledger.study.trials[number].status == "running":
            ledger.write("status", trial=number, status="interrupted", cause="its driver went away")
    for number in again:
        ledger.write("status", trial=number, status="interrupted", cause="it failed, and begins again")


def _fit(prepared: Prepared, scratch: Path, searcher: Any, scheduler: Any, watch: Watch) -> None:
    """Ray Tune, until the searcher has no more. Raises Stopped soon after the watch has found a reason to."""
    each = watch.each
    references = {name: ray.put(dataset) for name, dataset in prepared.datasets.items()}
    own_code = asdict(prepared.own_code)
    # tune.run and not Tuner, which would pickle searcher and scheduler, and with them the data, for a snapshot
    tune.run(
        tune.with_parameters(trainable(), datasets=references, threads=each.threads, own_code=own_code),
        resources_per_trial={"cpu": each.cpus, "gpu": each.gpus},
        search_alg=searcher,
        scheduler=scheduler,
        num_samples=-1,  # the searcher knows when it is enough
        max_concurrent_trials=each.slots,  # no trial is proposed before it can run: the sampler knows more then
        reuse_actors=True,
        max_failures=prepared.spec.max_failures,
        raise_on_failed_trial=False,
        stop=watch,
        trial_name_creator=_name,
        trial_dirname_creator=_name,
        name="tune",
        storage_path=str(scratch),
        verbose=0,
    )


def _name(trial: Any) -> str:
    return str(trial.config["trial"])


@contextmanager
def _told_to_stop() -> Iterator[list[str]]:
    """Reasons to stop: the first Ctrl-C (or SIGTERM) is one, the second raises KeyboardInterrupt at once."""
    asked: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(ASKED[signal.Signals(number)])

    before = {number: signal.signal(number, handle) for number in ASKED}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class DriverLedger(Ledger):
    """Remembers why it could not be written, as Ray swallows what its scheduler raises."""

    broken: UserError | None = None

    def write(self, record: str, **fields: Any) -> Record:
        try:
            return super().write(record, **fields)
        except UserError as error:
            self.broken = error
            raise


@contextmanager
def ledger_of(folder: Path) -> Iterator[DriverLedger]:
    ledger = DriverLedger(folder)
    try:
        yield ledger
    finally:
        ledger.close()
