"""`nanosweep status` and `nanosweep down`: what is up, and its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from data.errors import UserError
from search.service import background, ray_head, state, upkeep
from search.service.state import Service
from search.study.folder import driven_by
from search.study.lookup import names
from search.tracking.mlflow_store import shown

UP, NOT_UP = 0, 3  # exit codes of status, as services have them
_JOBS = 15.0  # seconds for drivers to write down what they stopped at


def status(storage: Path, say: Callable[[str], None]) -> int:
    """Say what is up, and forget what is not any more. Returns an exit code. Raises UserError."""
    service = state.recorded(storage)
    if service is None:
        say(f"not up in {state.folder(storage).parent} (nanosweep up starts it)")
        return NOT_UP
    if state.elsewhere(service):
        say(f"up on another machine, {service.machine}: ask there")
        return NOT_UP
    alive = state.without_dead(service)
    if not alive.parts:
        with upkeep.alone(storage):
            upkeep.settle(upkeep.cleaned(service))
        say(f"not up in {service.storage}: {_why(service)}; nothing of it is left, nanosweep up starts it anew")
        return NOT_UP
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(service.started))
    say(f"up in {service.storage} since {since}, on {service.machine}")
    ray, mlflow = _ray(service, say), _mlflow(service, say)
    for job in ray_head.jobs(service) if ray else []:
        say(f"  job       {job['submission_id']} {job['status'].lower()}: {job['entrypoint'][:100]}")
    for name in names(service.storage):
        driver = driven_by(service.storage / name)
        say(f"  study     {name}{f', being run by {driver}' if driver else ''}")
    if ray and mlflow:
        return UP
    say("nanosweep up starts what has died; what lives and does not answer: nanosweep down, then up")
    return NOT_UP


def _ray(service: Service, say: Callable[[str], None]) -> bool:
    nodes = None if "Ray" in state.missing(service) else ray_head.nodes(service)
    if not nodes:
        say(f"  Ray       {_silent(service, 'Ray')} at {service.dashboard}")
        return False
    total = {name: sum(node["resources_total"].get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    size = f"{len(nodes)} node{'s' * (len(nodes) != 1)}, {total['CPU']:g} CPUs, {total['GPU']:g} GPUs"
    say(f"  Ray       {service.dashboard} ({size}; drivers: {service.ray_address}; token: {service.token_file})")
    return True


def _mlflow(service: Service, say: Callable[[str], None]) -> bool:
    uri = shown(service.mlflow)
    if "MLflow" in state.missing(service) or background.answers(f"{service.mlflow}/health", timeout=5) is None:
        say(f"  MLflow    {_silent(service, 'MLflow')} at {uri}")
        return False
    secret = f" (password: {service.mlflow_credentials})" if service.mlflow_credentials else ""
    say(f"  MLflow    {uri}{secret}")
    return True


def _silent(service: Service, part: str) -> str:
    return "its process has died" if part in state.missing(service) else "does not answer"


def _why(service: Service) -> str:
    import psutil

    if psutil.boot_time() > service.started:
        return "the machine was restarted since"
    return "its processes have died"


def down(storage: Path, say: Callable[[str], None]) -> None:
    """End the service with all that runs in it. What is interrupted is said: the same command resumes it.

    Raises UserError when it runs on another machine, or will not end.
    """
    with upkeep.alone(storage):
        service = state.recorded(storage)
        if service is None:
            say(f"nothing is up in {state.folder(storage).parent}")
            return
        if state.elsewhere(service):
            raise UserError(f"the service of {service.storage} runs on {service.machine}: say nanosweep down there")
        if not state.without_dead(service).parts:
            say(f"nothing is up any more in {service.storage}: {_why(service)}")
        elif service.ray is not None and state.lives(service.ray):
            _stop_jobs(service, say)
        ended = []
        for name, process in service.parts.items():  # Ray first: its drivers' last words go to MLflow
            if upkeep.end_part(process):
                ended.append(name)
            if state.lives(process):
                raise UserError(f"{name} (process {process.pid}) does not end")
        upkeep.settle(upkeep.cleaned(service))
        if ended:
            say(f"ended: {' and '.join(ended)}")


def _stop_jobs(service: Service, say: Callable[[str], None]) -> None:
    running = ray_head.jobs(service)
    if not running:
        return
    interrupted = ", ".join(job["submission_id"] for job in running)
    say(f"interrupting {interrupted}: nothing is lost, the same submit resumes it after the next nanosweep up")
    for job in running:
        ray_head.stop_job(service, job["submission_id"])
    deadline = time.monotonic() + _JOBS
    while ray_head.jobs(service) and time.monotonic() < deadline:
        time.sleep(0.2)
