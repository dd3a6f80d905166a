"""`nanosweep submit`: a spec's study as a job on a Ray cluster. Everything is checked here before anything is sent.

The job is `nanosweep run` with the same spec: its driver runs on the cluster's head, goes on from the study's journal,
and checks every node before the first trial. What travels: package.py; passwords do not: credentials.py.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from data.errors import UserError
from search.jobs import package
from search.jobs.cluster import Cluster
from search.jobs.paths import absolute
from search.jobs.ray_jobs import GRACE, STORAGE, STUDY, Job, Jobs
from search.service.links import address_of
from search.spec import space
from search.spec.load import with_options
from search.study import environment
from search.study.folder import JOB
from search.tracking import credentials
from search.tracking.credentials import URI
from search.tracking.mlflow_store import choose_uri, served, shown

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


def submit(order: Order, cluster: Cluster, jobs: Jobs, say: Callable[[str], None]) -> Job:
    """Start the job. say: takes lines for people. Raises UserError before anything is sent, or for what Ray refuses."""
    spec, base, file = with_options(order.spec, order.set, order.scale, order.name, order.storage)
    space.check(spec, base, file)
    here = cluster.service is not None or jobs.here()
    folder = folder_there(spec.storage, spec.folder, here, cluster.address)
    listed = jobs.all()
    check_free(listed, spec.study, folder.parent, jobs.address)
    paths = absolute(spec, base, file, None if here else cluster.address)
    for path in paths.there:
        say(f"note: {path} is read on the cluster: it must lie there, at that path")
    environment_variables = variables(cluster, folder.parent, here)
    packed = package.collect(order.spec, spec, file)
    options = [f"--set={text}" for text in (*order.set, *paths.changes)] + [f"--storage={folder.parent}"]
    options += [f"--{key}={value}" for key, value in (("scale", order.scale), ("name", order.name)) if value]
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


def links(job: Job, jobs: Jobs) -> list[str]:
    """Lines: the job's page, the study in MLflow where a server holds it, what may be done next."""
    lines = [f"job {job.id}: {jobs.page(job.id)}"]
    uri = os.environ.get(URI, "")
    if uri and served(uri):
        page = address_of(job.study, uri, 5)
        lines.append(f"MLflow: {page or f'{shown(uri)} (the study is there a minute from now)'}")
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


def variables(cluster: Cluster, storage: Path, here: bool) -> dict[str, str]:
    """The job's environment. Ray shows it to whoever may list jobs, and logs it: no secrets. Raises UserError."""
    passed = {name: os.environ[name] for name in (*_PASSED, *(_PASSED_HERE if here else ())) if os.environ.get(name)}
    passed |= environment.as_variables()
    passed["RAY_JOB_STOP_WAIT_TIME_S"] = str(GRACE)  # Ray's own patience, 3 s, would kill a driver that is tidying up
    uri = os.environ.get(URI, "").strip()
    if uri:
        choose_uri(storage)  # refuses a folder of files
        if uri.startswith("sqlite:///"):
            path = uri.removeprefix("sqlite:///")
            if not here and not Path(path).is_absolute():
                raise UserError(f"{URI}: {uri} is a file of this machine; give a server that the cluster reaches")
            uri = f"sqlite:///{Path(path).absolute()}"
        if not credentials.has_password(uri):
            passed[URI] = uri
    if secret_file := os.environ.get(credentials.VARIABLE):
        return {**passed, credentials.VARIABLE: secret_file}
    service = cluster.service
    if service is not None and service.mlflow_credentials is not None and uri == service.mlflow:
        return {**passed, credentials.VARIABLE: str(service.mlflow_credentials)}
    if uri and (secret := credentials.secrets(os.environ)):
        if not here:
            raise credentials.refuse_to_send(secret, cluster.address)
        passed[credentials.VARIABLE] = str(credentials.save(secret, storage))
    return passed
