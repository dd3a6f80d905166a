"""Run a study: everything checked first, then Ray Tune over our searcher, scheduler and journal.

    study = run(*load_spec(Path("search/specs/quickstart.yaml")))

The same command goes on with a study that was stopped or killed: from its journal, in a fresh Tuner. Ray's own
files lie in a scratch folder and are thrown away.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.dataset import Dataset
from data.errors import UserError
from search import export, header, live, points, space, table
from search.advice import advice
from search.folder import Weights, held, trial_folder, write_spec
from search.journal import NAME, Record
from search.resources import Share, check_nodes_share, cluster, ray_session, share, this_machine
from search.spec import StudySpec
from search.study import Ledger, Study, read_study, spent
from trainer.config import TrainConfig
from trainer.yaml_file import YamlFile

if TYPE_CHECKING:
    from rich.console import Console

    from search.tracking import Tracker

CTRL_C = "stopped by Ctrl-C"


@dataclass(frozen=True)
class Plan:
    """A study that may begin. base: with eval_tokens filled in; data: for the header; length: of a whole trial."""

    spec: StudySpec
    base: TrainConfig
    datasets: dict[str, Dataset]
    data: dict[str, Any]
    length: int

    def tokens(self, config: TrainConfig) -> int:
        """What a config trains on: its max_tokens, epochs counted out."""
        return config.length(self.datasets[config.tokenizer].train.n_targets)


def run(
    spec: StudySpec, base: TrainConfig, file: YamlFile, *, address: str | None = None, console: Console | None = None
) -> Study:
    """Run a study to the end of its budget, or go on with it. Returns what its journal says.

    address: of a Ray cluster; default RAY_ADDRESS (set inside a Ray job), else Ray is started on this machine.
    Ctrl-C stops it: what ran is `interrupted` and will be continued. A second one raises KeyboardInterrupt at once.
    Raises UserError for whatever is wrong with spec, data or machines; a fresh study then leaves nothing behind.
    """
    from rich.console import Console

    console = console or Console()
    address = address or os.environ.get("RAY_ADDRESS")
    machine = this_machine()
    space.check(spec, base, file)
    if not address:  # known before anything is started
        share(spec.resources, [machine], file, base.device)
    check_tracking(spec)
    with held(spec.folder):
        known = _known(spec.folder)
        header.check_same(spec, base, known.header)
        plan = prepare(spec, base, file, known.header, show=console.is_terminal)
        for line in advice(spec, plan.base, plan.length):
            print(f"note: {line}", file=console.file)
        if known.header and not known.unfinished() and spent(known, spec.budget):
            _track(spec)  # nothing to do but to send what MLflow may still lack
        else:
            with ExitStack() as stack:
                with console.status("starting Ray"):  # shown in a terminal only
                    scratch = stack.enter_context(ray_session(address, machine))
                    each = share(spec.resources, cluster(), file, base.device)
                    check_nodes_share(spec.folder)
                _search(plan, each, scratch, console)
        return _finish(spec.folder)


def check_tracking(spec: StudySpec) -> None:
    """A tracking server that is away is said at once, not after the data have been prepared. Raises UserError."""
    from search.mlflow_store import choose_uri, connect, served

    uri = choose_uri(spec.folder.parent)
    if served(uri):
        connect(uri)


def _known(folder: Path) -> Study:
    """What the journal holds; an empty study where there is none, or one that was never begun."""
    path = folder / NAME
    return read_study(folder) if path.exists() and path.stat().st_size else Study()


def prepare(spec: StudySpec, base: TrainConfig, file: YamlFile, known: Record, show: bool = False) -> Plan:
    """Prepare the corpus for each tokenizer, and see that spec, data and the study so far fit. Raises UserError."""
    from data.prepare import prepare as prepare_data
    from data.tokens import Batches

    datasets = {
        name: prepare_data(base.corpus, name, base.split, progress=show) for name in space.tokenizers(spec, base)
    }
    block_sizes = [base.block_size]
    for name, parameter in spec.space.items():
        values = points.candidates(name, parameter) if "block_size" in points.fields(name, parameter) else []
        block_sizes += [value.get("block_size", base.block_size) if parameter.linked else value for value in values]
    for dataset in datasets.values():
        Batches(dataset.train, max(block_sizes), base.data_order, base.seed)  # raises for a corpus that is too short
        space.check_length(spec, base, dataset.train.n_targets, file)
    first = next(iter(datasets.values()))
    length = base.length(first.train.n_targets)
    pinned = header.pin_eval_tokens(base, length)
    data = header.describe(datasets, pinned)
    header.check_same_data(data, known)
    return Plan(spec, pinned, datasets, data, length)


def _search(plan: Plan, each: Share, scratch: Path, console: Console) -> None:
    """Write the header, hand out trials until the budget is spent or the user has had enough."""
    from search.asha import rebuild
    from search.pulse import beating
    from search.scheduler import LedgerScheduler, settle
    from search.searcher import LedgerSearcher
    from search.tracking import Tracker
    from search.watch import Stopped

    spec = plan.spec
    with ExitStack() as stack:
        with console.status("connecting to MLflow"):
            tracker = stack.enter_context(Tracker(spec.folder))
        ledger = stack.enter_context(_ledger(spec.folder))
        _begin(plan, ledger)
        asha = rebuild(spec, ledger.study)
        settle(ledger, spec, asha)
        tracker.follow(ledger)
        searcher = LedgerSearcher(ledger, spec, plan.base, asha, plan.tokens, lambda n: trial_folder(spec.folder, n))
        scheduler = LedgerScheduler(ledger, spec, asha)
        with live.shown(ledger.study, each.slots, plan.length, console) as view, _ctrl_c() as asked:
            ledger.listeners += [view, Weights(spec.folder, ledger.study)]
            stack.enter_context(beating(lambda cause: _leave(cause, ledger, tracker, console, scratch)))
            try:
                _fit(plan, each, scratch, searcher, scheduler, asked)
            except Stopped:
                scheduler.interrupt(asked[0])
                if asked[0] != CTRL_C:
                    raise UserError(f"{asked[0]}; then the same command goes on") from None
            except Exception:
                if ledger.broken is not None:
                    raise ledger.broken from None  # Ray wraps it into a page of its own
                scheduler.interrupt("the driver failed")
                raise


def _leave(cause: str, ledger: DriverLedger, tracker: Tracker, console: Console, scratch: Path) -> None:
    """End this process from another thread: the main one waits inside Ray, which does not come back."""
    import psutil

    with suppress(UserError):
        for number in ledger.study.unfinished():
            if ledger.study.trials[number].status == "running":
                ledger.write("status", trial=number, status="interrupted", cause=cause)
    missing = tracker.close(10)
    for process in psutil.Process().children(recursive=True):  # what is left of a Ray that we started
        with suppress(psutil.Error):
            process.kill()
    shutil.rmtree(scratch, ignore_errors=True)
    console.show_cursor()
    lines = [f"nanosweep: {cause}; nothing is lost, the same command goes on", *([missing] if missing else [])]
    print("\n".join(lines), file=sys.stderr, flush=True)
    os._exit(1)


def _begin(plan: Plan, ledger: DriverLedger) -> None:
    """The first records of a driver: the study; and trials that an earlier driver left running do not run."""
    spec = plan.spec
    ledger.write("study", **header.fields(spec, plan.base, plan.data, spec.rungs(plan.length)))
    write_spec(spec)
    for number in ledger.study.unfinished():
        if ledger.study.trials[number].status == "running":
            ledger.write("status", trial=number, status="interrupted", cause="its driver went away")


def _fit(plan: Plan, each: Share, scratch: Path, searcher: Any, scheduler: Any, asked: list[str]) -> None:
    """Ray Tune, until the searcher has no more. Raises Stopped soon after `asked` is no longer empty."""
    import ray
    from ray import tune

    from search.trainable import trial
    from search.watch import Watch

    references = {name: ray.put(dataset) for name, dataset in plan.datasets.items()}
    # tune.run and not Tuner, which would pickle searcher and scheduler, and with them the data, for a snapshot
    tune.run(
        tune.with_parameters(trial, datasets=references, threads=each.threads),
        resources_per_trial={"cpu": each.cpus, "gpu": each.gpus},
        search_alg=searcher,
        scheduler=scheduler,
        num_samples=-1,  # the searcher knows when it is enough
        max_concurrent_trials=each.slots,  # no trial is proposed before it can run: the sampler knows more then
        reuse_actors=True,
        max_failures=plan.spec.max_failures,
        raise_on_failed_trial=False,
        stop=Watch(scheduler, each, asked, cluster),
        trial_name_creator=_name,
        trial_dirname_creator=_name,
        name="tune",
        storage_path=str(scratch),
        verbose=0,
    )


def _name(trial: Any) -> str:
    return str(trial.config["trial"])


@contextmanager
def _ctrl_c() -> Iterator[list[str]]:
    """Reasons to stop: the first Ctrl-C (or SIGTERM) is one, the second raises KeyboardInterrupt at once."""
    asked: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(CTRL_C)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
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
def _ledger(folder: Path) -> Iterator[DriverLedger]:
    ledger = DriverLedger(folder)
    try:
        yield ledger
    finally:
        ledger.close()


def _track(spec: StudySpec) -> None:
    from search.tracking import Tracker

    with Tracker(spec.folder) as tracker, _ledger(spec.folder) as ledger:
        tracker.follow(ledger)


def _finish(folder: Path) -> Study:
    """leaderboard.md and best.yaml, from the journal."""
    study = read_study(folder)
    export.replace_text(folder / "leaderboard.md", table.markdown(study))
    export.write_best(study, folder)
    return study
