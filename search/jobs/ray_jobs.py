"""Jobs on a Ray cluster, as its dashboard tells of them: listed, read, followed, stopped.

    jobs = Jobs("http://127.0.0.1:8265")       # raises UserError when it is no cluster of ours
    jobs.follow(jobs.find("quickstart").id, print)

A job that `nanosweep submit` made says in its metadata which study it runs, and where that lies.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError, nearest

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

STUDY, STORAGE = "nanosweep.study", "nanosweep.storage"  # keys of a job's metadata
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
PATIENCE = 20.0  # seconds for a head that has only just started to know itself
GRACE = 90  # seconds that a driver has to end after it was asked: it sends MLflow what is left
_OURS = "nanosweep: "  # how our own one-line errors begin
_NOISE = ("Running entrypoint for job", "job_manager.py")
_ROUTINE = ("Job is currently running.", "Job finished successfully.", "Job was intentionally stopped.")


@dataclass(frozen=True)
class Job:
    """status: PENDING, RUNNING or one of ENDED. started, ended: seconds since the epoch. code: the driver's, once it
    has ended by itself."""

    id: str
    study: str
    storage: str
    status: str
    message: str
    started: float | None
    ended: float | None
    code: int | None

    @property
    def over(self) -> bool:
        return self.status in ENDED


class Jobs:
    """The jobs of one cluster. Methods raise UserError when it is away, or knows no such job."""

    def __init__(self, address: str) -> None:
        import logging

        from ray.job_submission import JobSubmissionClient

        self.address = address
        for name in ("ray", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(name).setLevel(logging.ERROR)  # it tells of each upload
        self._client: JobSubmissionClient = self._ask(JobSubmissionClient, address)

    def all(self) -> list[Job]:
        """All jobs that were submitted, the newest last."""
        listed = self._ask(self._client.list_jobs)
        return sorted((_job(details) for details in listed if details.submission_id), key=lambda job: job.started or 0)

    def get(self, id_: str) -> Job:
        return _job(self._ask(self._client.get_job_info, id_))

    def find(self, name: str, running: bool = False) -> Job:
        """The job of that id, or the newest of the study of that name. running: one that is not over, if there is."""
        jobs = self.all()
        for job in jobs:
            if job.id == name:
                return job
        of_study = [job for job in jobs if job.study == name]
        if of_study:
            return next((job for job in reversed(of_study) if running and not job.over), of_study[-1])
        names = {name for job in jobs for name in (job.id, job.study) if name}
        hint = nearest(name, names) if names else "it has no jobs"
        raise UserError(f"{name}: no such job or study at {self.address}; {hint}")

    def submit(
        self, id_: str, entrypoint: str, package: Path, variables: dict[str, str], metadata: dict[str, str]
    ) -> None:
        """Upload a package (a zip) and start a job in it. Raises UserError."""
        environment: dict[str, Any] = {"working_dir": str(package), "env_vars": variables}
        named = {"entrypoint": entrypoint, "submission_id": id_, "runtime_env": environment, "metadata": metadata}
        self._ask(self._client.submit_job, **named)

    def stop(self, id_: str) -> Job:
        """Ask a job to end, and wait until it has. A driver that does not is killed by Ray after GRACE seconds."""
        self._ask(self._client.stop_job, id_)
        end = time.monotonic() + GRACE + 30
        while not (job := self.get(id_)).over:
            if time.monotonic() > end:
                raise UserError(f"{id_} does not end; look at it: nanosweep logs {id_}")
            time.sleep(0.3)
        return job

    def logs(self, id_: str) -> str:
        return str(self._ask(self._client.get_job_logs, id_))

    def follow(self, id_: str, show: Callable[[str], None]) -> Job:
        """Show a job's log from its beginning until it is over. KeyboardInterrupt leaves it running."""
        seen = 0
        while True:
            text = ""  # of this connection: a new one begins at the log's beginning
            with suppress(RuntimeError, OSError):  # the line was cut: once more

                async def read() -> None:
                    nonlocal text, seen
                    tail: AsyncIterator[str] = self._client.tail_job_logs(id_)
                    async for part in tail:
                        text += part
                        if len(text) > seen:
                            show(text[seen:])
                            seen = len(text)

                asyncio.run(read())
            if (job := self.get(id_)).over:
                if len(rest := self.logs(id_)) > seen:
                    show(rest[seen:])
                return job
            time.sleep(0.5)

    def here(self) -> bool:
        """Whether the cluster's head is this machine, so that a path here is a path there."""
        import psutil
        from ray.util.state import list_nodes

        ours = {address.address for card in psutil.net_if_addrs().values() for address in card}
        deadline = time.monotonic() + PATIENCE
        while not (heads := self._ask(list_nodes, address=self.address, filters=[("is_head_node", "=", True)])):
            if time.monotonic() > deadline:
                raise UserError(f"{self.address} does not say where its head is; is it still starting? Try again")
            time.sleep(0.5)  # the dashboard answers a little before it knows its nodes
        return any(node.node_ip in ours for node in heads)

    def page(self, id_: str) -> str:
        return f"{self.address}/#/jobs/{id_}"

    def _ask(self, what: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """A request, its errors in one line of ours."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            return what(*arguments, **options)
        except AuthenticationError:
            raise UserError(
                f"{self.address} wants its token: put the cluster's into ~/.ray/auth_token (mode 600), or name its "
                "file in RAY_AUTH_TOKEN_PATH"
            ) from None
        except (ConnectionError, requests.RequestException):
            raise UserError(f"{self.address} is no Ray dashboard, or is away; nanosweep up starts one here") from None
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip(". ")]
            raise UserError(f"{self.address}: {lines[-1] if lines else type(error).__name__}") from None


def _job(details: Any) -> Job:
    """Ray's details, as far as we tell them."""
    metadata = details.metadata or {}
    return Job(
        id=str(details.submission_id),
        study=metadata.get(STUDY, ""),
        storage=metadata.get(STORAGE, ""),
        status=str(getattr(details.status, "value", details.status)),
        message=brief(details.message or ""),
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        code=details.driver_exit_code,
    )


def brief(message: str) -> str:
    """Of a job's message, which for a failure has pages of its log, the line that says why.

    >>> brief("Job failed with exit code 2, last available logs:\\nstudy s: 4 trials\\nnanosweep: no such file\\nbye")
    'no such file'
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines or lines[0] in _ROUTINE:
        return ""
    said = [line for line in lines if line.startswith(_OURS)]
    if said:
        return said[-1].removeprefix(_OURS)
    left = [line for line in lines if not any(word in line for word in _NOISE)]
    return (left or lines)[-1]
