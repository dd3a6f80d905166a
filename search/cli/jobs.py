"""The commands that speak to a cluster: `nanosweep submit`, `jobs`, `logs`, `stop`.

Exit codes as elsewhere; of `submit --follow` and `logs -f` that of the job's driver, 130 for a job that was stopped, or
where Ctrl-C ended the following (the job continues).
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from search.cli.arguments import drawings, limits, retry_failed
from trainer.command_line import whole

if TYPE_CHECKING:
    from search.jobs.ray_jobs import Job, Jobs

STOPPED = 130
RUNS = Path("runs")
Command = Callable[[str, Callable[[argparse.Namespace], int | None], str], argparse.ArgumentParser]


def add(command: Command, study_options: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands to the parser. study_options: gives a command the spec and the options of `run`."""
    submit = command("submit", _submit, "run a spec's study as a job on a cluster, or resume it there")
    study_options(submit)
    retry_failed(submit)
    drawings(submit)
    submit.add_argument("--follow", action="store_true", help="show its log until it ends, and end as it does")
    jobs = command("jobs", _jobs, "the jobs of a cluster, the newest first")
    jobs.add_argument("--limit", type=whole(), default=20, metavar="N", help="the newest so many (default 20); 0: all")
    logs = command("logs", _logs, "what a job has said")
    logs.add_argument("-f", "--follow", action="store_true", help="and what it says, until it ends")
    stop = command("stop", _stop, "stop a job: its trials are interrupted, submitting again resumes it")
    for parser in (logs, stop):
        parser.add_argument("job", metavar="JOB", help="a job's id, or a study's name: its newest job")
    for parser in (jobs, logs, stop):
        parser.add_argument("--storage", type=Path, default=RUNS, help="whose `nanosweep up` is meant; default ./runs")
    for parser in (submit, jobs, logs, stop):
        text = "of Ray's dashboard, http://HOST:8265; default: RAY_API_SERVER_ADDRESS, else what `nanosweep up` left"
        parser.add_argument("--address", metavar="URL", help=text)


def _open(args: argparse.Namespace) -> Jobs:
    from search.jobs.cluster import find

    cluster = find(args.address, [args.storage])
    from search.jobs.ray_jobs import Jobs

    return Jobs(cluster.address)


def _submit(args: argparse.Namespace) -> int:
    from search.jobs.cluster import find
    from search.spec.load import with_options
    from search.spec.own_code import check_allowed

    spec, base, file = with_options(args.spec, args.set, args.scale, args.name, args.storage, limits(args))
    check_allowed(spec, base, file, args.allow_code)  # known before a cluster is looked for
    cluster = find(args.address, [spec.folder.parent, RUNS])
    from search.jobs.ray_jobs import Jobs
    from search.jobs.submit import Order, links, submit
    from search.tracking.tracker import open_tracker

    jobs = Jobs(cluster.address)
    options = {"limits": limits(args), "allow_code": args.allow_code, "retry_failed": args.retry_failed}
    options |= {"report": not args.no_report, "figures": not args.no_figures}
    order = Order(args.spec, tuple(args.set), args.scale, args.name, args.storage, **options)
    job = submit(order, cluster, jobs, lambda line: print(line, flush=True))
    print("\n".join(links(job, jobs, open_tracker(spec.tracking, spec.folder))), flush=True)
    return _follow(jobs, job) if args.follow else 0


def _jobs(args: argparse.Namespace) -> None:
    listed = _open(args).all()[::-1]
    shown = listed[: args.limit] if args.limit else listed
    print(table(shown, time.time()), end="")
    if len(listed) > len(shown):
        print(f"... and {len(listed) - len(shown)} older (--limit 0 shows all)")


def table(jobs: list[Job], now: float) -> str:
    """Jobs as lines of text. now: seconds since the epoch."""
    from trainer import units

    rows = [("job", "study", "status", "started", "took", "message")]
    for job in jobs:
        began = "" if job.started is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started))
        took = "" if job.started is None else units.duration((job.ended or now) - job.started)
        rows.append((job.id, job.study, job.status.lower(), began, took, job.message))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join([*map(str.ljust, row, widths), row[5]]).rstrip() for row in rows]
    return "\n".join(lines if jobs else ["no jobs yet: nanosweep submit SPEC"]) + "\n"


def _logs(args: argparse.Namespace) -> int:
    jobs = _open(args)
    job = jobs.find(args.job)
    if args.follow:
        return _follow(jobs, job)
    print(jobs.logs(job.id), end="")
    return 0


def _stop(args: argparse.Namespace) -> None:
    jobs = _open(args)
    job = jobs.find(args.job, running=True)
    if job.over:
        print(f"{job.id} has ended already: {job.status.lower()}")
        return
    print(f"stopping {job.id}", flush=True)
    ended = jobs.stop(job.id)
    print(f"{ended.id} {ended.status.lower()}; nothing is lost: submitting the study again resumes what ran")


def _follow(jobs: Jobs, job: Job) -> int:
    """Show a job's log to its end. Returns its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell has us ignore Ctrl-C
    try:
        ended = jobs.follow(job.id, _show)
    except KeyboardInterrupt:
        print(
            f"\n{job.id} continues: nanosweep logs {job.id} -f follows it again, nanosweep stop {job.id} stops it",
            file=sys.stderr,
        )
        return STOPPED
    if ended.status == "STOPPED":
        print(f"{job.id} was stopped; submitting the study again resumes it", file=sys.stderr)
        return STOPPED
    if ended.status == "FAILED" and ended.code is None:  # Ray could not begin it, or lost it
        print(f"{job.id} failed: {ended.message}; submitting the study again resumes it", file=sys.stderr)
        return 1
    return ended.code or 0


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
