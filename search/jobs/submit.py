"""`nanosweep submit`: a spec's study as a job on a Ray cluster. Everything is checked here before anything is sent.

The job is `nanosweep run` with the same spec: its driver runs on the cluster's head, resumes from the study's journal,
and checks every node before the first trial. What travels: package.py; passwords do not: credentials.py.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path

from data.errors import UserError
from data.own_code import sources_of
from search.jobs import package
from search.jobs.cluster import Cluster
from search.jobs.paths import absolute
from search.jobs.ray_jobs import GRACE, STORAGE, STUDY, Job, Jobs
from search.spec import own_code
from search.spec.check import check
from search.spec.load import with_options
from search.study import environment
from search.study.folder import JOB
from search.tracking.tracker import Tracker, open_tracker

# what a driver here would go by; paths only for a cluster on this machine
_PASSED = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
_PASSED_HERE = ("NANOSWEEP_CACHE", "HF_HOME", "TIKTOKEN_CACHE_DIR", "NANOSWEEP_GPT2_RANKS")


@dataclass(frozen=True)
class Order:
    """What to submit: the options of `nanosweep run`."""

    spec: Path
    set: tuple[str, ...] = ()
    scale: str | None = None
    name: str | None = None
    storage: str | None = None
    limits: Mapping[str, str | None] = field(default_factory=dict)  # of the budget, by name
    allow_code: bool = False
    retry_failed: bool = False
    report: bool = True
    figures: bool = True


def submit(order: Order, cluster: Cluster, jobs: Jobs, say: Callable[[str], None]) -> Job:
    """Start the job. say: takes lines for people. Raises UserError before anything is sent, or for what Ray refuses."""
    spec, base, file = with_options(order.spec, order.set, order.scale, order.name, order.storage, order.limits)
    check(spec, base, file)
    own_code.check_allowed(spec, base, file, order.allow_code)
    named = own_code.references(spec, base)
    here = cluster.service is not None or jobs.here()
    folder = folder_there(spec.storage, spec.folder, here, cluster.address)
    listed = jobs.all()
    check_free(listed, spec.study, folder.parent, jobs.address)
    paths = absolute(spec, base, file, None if here else cluster.address)
    for path in paths.there:
        say(f"note: {path} is read on the cluster: it must lie there, at that path")
    environment_variables = variables(cluster, open_tracker(spec.tracking, folder), here)
    sources = sources_of(named)
    for reference in sources.installed:
        say(f"note: {reference} is in an installed package: it must be installed on the cluster too")
    packed = package.collect(order.spec, spec, file, own=sources.files)
    options = [f"--set={text}" for text in (*order.set, *paths.changes)] + [f"--storage={folder.parent}"]
    named_options = {"scale": order.scale, "name": order.name, **order.limits}
    options += [f"--{key}={value}" for key, value in named_options.items() if value is not None]
    options += ["--allow-code"] if order.allow_code and named else []
    options += ["--retry-failed"] if order.retry_failed else []
    options += [f"--no-{name}" for name in ("report", "figures") if not getattr(order, name)]
    python = sys.executable if here else "python"
    entrypoint = f"exec {shlex.join([python, '-m', 'search', 'run', packed.spec, *options])}"
    metadata = {STUDY: spec.study, STORAGE: str(folder.parent)}
    with tempfile.TemporaryDirectory(prefix="nanosweep-submit-") as scratch:
        archive = Path(scratch) / "package.zip"
        package.write(packed, archive)
        id_ = job_id(spec.study, [job.id for job in listed])
        jobs.submit(id_, entrypoint, archive, {**environment_variables, JOB: id_}, metadata)
    return jobs.get(id_)


def job_id(study: str, taken: Iterable[str], now: float | None = None) -> str:
    """`quickstart-20261126-2134`, or the next that is free."""
    stem = f"{study}-{time.strftime('%Y%m%d-%H%M', time.localtime(now))}"
    names = chain([stem], (f"{stem}-{n}" for n in count(2)))
    used = set(taken)
    return next(name for name in names if name not in used)


def links(job: Job, jobs: Jobs, tracker: Tracker) -> list[str]:
    """Lines: the job's page, what the study's tracker says, what may be done next."""
    lines = [f"job {job.id}: {jobs.page(job.id)}", *tracker.job_lines()]
    return [*lines, f"nanosweep logs {job.id} -f    nanosweep stop {job.id}"]


def folder_there(storage: str, folder: Path, here: bool, address: str) -> Path:
    """The study's folder on the cluster. Raises UserError for one that means nothing there."""
    if here or Path(storage).is_absolute():
        return folder if here else Path(storage) / folder.name
    raise UserError(
        f"storage: {storage} is a folder of this machine; on {address} give an absolute path that all its nodes "
        "share: --storage /shared/runs"
    )


def check_free(jobs: list[Job], study: str, storage: Path, address: str) -> None:
    for job in jobs:
        if not job.over and (job.study, job.storage) == (study, str(storage)):
            raise UserError(
                f"study {study} in {storage} is being run by job {job.id} at {address}; see it with "
                f"nanosweep logs {job.id} -f, or nanosweep stop {job.id} first"
            )


def variables(cluster: Cluster, tracker: Tracker, here: bool) -> dict[str, str]:
    """The job's environment. Ray shows it to whoever may list jobs, and logs it: no secrets. Raises UserError."""
    passed = {name: os.environ[name] for name in (*_PASSED, *(_PASSED_HERE if here else ())) if os.environ.get(name)}
    passed |= environment.as_variables()
    passed["RAY_JOB_STOP_WAIT_TIME_S"] = str(GRACE)  # Ray's own patience, 3 s, would kill a driver that is tidying up
    service = cluster.service
    password_files = {}
    if service is not None and service.mlflow_credentials is not None:
        password_files[service.mlflow] = service.mlflow_credentials
    return {**passed, **tracker.job_variables(cluster.address, here, password_files)}
