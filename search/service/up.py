"""`nanosweep up`: a Ray head with its dashboard, and MLflow's server over the storage, both in the background.

They outlive the terminal, not the machine: after a restart `nanosweep up` is said again. One service per storage;
several storages may have one each on a machine, at other ports.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.paths import quoted
from search.service import background, links, mlflow_server, ray_head, state
from search.service.state import Process, Service
from search.service.upkeep import alone, cleaned, end_part, remove_scratch, settle
from search.spec.load import ROOT
from search.study.machine import cpus
from search.tracking.mlflow_store import choose_uri, connect, own_uri, served

_ATTEMPTS = 3


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for. cpus, gpus: what Ray may use; None is all."""

    storage: Path
    host: str = background.HOST
    dashboard_port: int = 8265
    mlflow_port: int = 5000
    ray_port: int = 6379
    cpus: float | None = None
    gpus: float | None = None
    allowed_hosts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Started:
    name: str
    popen: subprocess.Popen[bytes]
    process: Process
    ready: Callable[[], bool]
    log: Path


def up(storage: Path, changes: dict[str, Any], say: Callable[[str], None]) -> tuple[Service, list[str]]:
    """Start what is not up yet and wait until all of it answers. Gives the service, and the names of what was started.

    changes: fields of Wanted that are not to have their defaults, or not those of what is up. Raises UserError for a
    port that is taken, a storage that cannot be used, a server that does not come up; what was started is ended again.
    """
    if "host" in changes:
        changes = {**changes, "host": mlflow_server.address(changes["host"])}
    with alone(storage) as folder:
        service = state.recorded(storage)
        if service is not None and state.elsewhere(service):
            raise UserError(
                f"the service of {service.storage} runs on {service.machine}: say nanosweep down there "
                f"(if that machine is gone, remove {folder / state.STATE})"
            )
        if service is not None:
            service = cleaned(service)
        if service is not None and service.parts and (former := state.former_place(storage)) is not None:
            raise UserError(
                f"the service of {service.storage} was started when that was {former}, and still works there: "
                f"nanosweep down --storage {quoted(service.storage)} first",
                kind="moved",
            )
        if service is not None and service.parts:
            wanted = _same(service, changes)
        else:
            wanted = replace(Wanted(storage), **changes)
            _check_ports(wanted)
            service = _planned(wanted, folder)
        before = service
        try:
            service = _start(service, wanted, folder, say)
        except BaseException:
            for name, process in (state.recorded(storage) or before).parts.items():
                if name not in before.parts:
                    end_part(process)
            settle(cleaned(state.recorded(storage) or before))
            raise
        return service, [name for name in service.parts if name not in before.parts]


def _start(service: Service, wanted: Wanted, folder: Path, say: Callable[[str], None]) -> Service:
    """Start the missing parts, and wait for each; it is recorded first, so that one whose `up` was killed can be ended.

    One after the other: together they are no faster on few cores, and Ray gives up when it is slow.
    """
    serve = service.mlflow_ours and service.mlflow_server is None
    if service.ray is None:
        background.check_port(wanted.dashboard_port, "--dashboard-port", wanted.host)
        background.check_port(wanted.ray_port, "--ray-port", "0.0.0.0")
    if serve:
        background.check_port(wanted.mlflow_port, "--mlflow-port", wanted.host)
        uri = _store(wanted.storage, service.mlflow)
        connect(uri)  # the tables, made by one alone, and an early word where the store cannot be used
    if service.ray is None:
        say("starting Ray")
        service = _start_ray(service, wanted, folder)
    if serve:
        say("starting MLflow")
        part = _mlflow(service, wanted, folder, uri)
        service = replace(service, mlflow_server=part.process)
        state.record(service)
        background.wait(part.popen, part.ready, part.log, part.name)
    state.record(service)
    for name in state.missing(service):
        raise UserError(f"{name} came up and died again: {background.last_line(folder / f'{name.lower()}.log')}")
    return service


def _start_ray(service: Service, wanted: Wanted, folder: Path) -> Service:
    for attempt in range(_ATTEMPTS):
        service = replace(service, scratch=ray_head.make_scratch())
        part = _ray(service, wanted, folder)
        service = replace(service, ray=part.process)
        state.record(service)
        try:
            background.wait(part.popen, part.ready, part.log, part.name)
            break
        except UserError:
            if attempt + 1 == _ATTEMPTS or not ray_head.was_slow(part.log):
                raise
            end_part(part.process)
            remove_scratch(service)
    return service


def _ray(service: Service, wanted: Wanted, folder: Path) -> _Started:
    assert service.token_file is not None
    for_jobs = {k: v for k, v in state.environment(service).items() if k.startswith("MLFLOW_")}
    command = ray_head.command(
        service.scratch, wanted.host, wanted.ray_port, wanted.dashboard_port, wanted.cpus or cpus(), wanted.gpus
    )
    environment = ray_head.environment(service.token_file, for_jobs)
    ready = lambda: bool(ray_head.nodes(service, 2))
    return _begin("Ray", service, command, environment, folder, ready)


def _mlflow(service: Service, wanted: Wanted, folder: Path, uri: str) -> _Started:
    credentials = service.mlflow_credentials
    command = mlflow_server.command(service.storage, wanted.mlflow_port, wanted.host, credentials is not None)
    environment = mlflow_server.environment(uri)
    if credentials is not None:
        environment = mlflow_server.protected(environment, credentials)
    if credentials is not None or wanted.allowed_hosts:
        names = mlflow_server.names(wanted.host, wanted.allowed_hosts)
        environment = mlflow_server.named(environment, wanted.mlflow_port, names)
    ready = lambda: mlflow_server.healthy(wanted.mlflow_port, wanted.host)
    return _begin("MLflow", service, command, environment, folder, ready)


def _begin(
    name: str,
    service: Service,
    command: list[str],
    environment: dict[str, str],
    folder: Path,
    ready: Callable[[], bool],
) -> _Started:
    import psutil

    mark = background.mark_of(service.storage, name)
    log = folder / f"{name.lower()}.log"
    popen = background.begin(command, {**environment, background.MARK: mark}, log, folder)
    return _Started(name, popen, Process(popen.pid, psutil.Process(popen.pid).create_time(), mark), ready, log)


def _planned(wanted: Wanted, folder: Path) -> Service:
    """The service as it will be, with its secrets made, nothing started."""
    storage, host = folder.parent, wanted.host
    outside = mlflow_server.outside(host)
    reached = host if host != "0.0.0.0" else own_address()
    here = f"http://{reached}:{wanted.mlflow_port}"
    uri = _store(storage, here)
    ours = not served(uri)
    return Service(
        storage=storage,
        machine=socket.gethostname(),
        started=time.time(),
        host=host,
        ray_address=f"{reached}:{wanted.ray_port}",
        dashboard=f"http://{reached}:{wanted.dashboard_port}",
        mlflow=here if ours else uri,
        scratch=folder,  # until Ray has one
        token_file=ray_head.make_token(folder),
        mlflow_credentials=mlflow_server.protect(folder) if outside and ours else None,
        mlflow_ours=ours,
        ray=None,
        mlflow_server=None,
    )


def study_links(service: Service) -> list[str]:
    """Links to the studies; the store is read past the server, which asks for a password perhaps. Raises UserError."""
    uri = _store(service.storage, service.mlflow) if service.mlflow_ours else service.mlflow
    return links.lines(service.mlflow, uri)


def client_lines(service: Service) -> list[str]:
    """A line that lets a shell reach the service by plain Ray and MLflow, and one that submits a job there.

    Raises UserError.
    """
    job = f"python -m search run SPEC --storage {quoted(service.storage)}"
    return [
        f". {quoted(state.write_client(service))}",
        f"ray job submit --working-dir {quoted(ROOT)} -- {job}",
    ]


def _store(storage: Path, ours: str) -> str:
    """What our server is to serve, or somebody else's server. ours: where ours is, which MLFLOW_TRACKING_URI may name,
    as we told people to set it."""
    port = ours.rpartition(":")[2]
    if os.environ.get("MLFLOW_TRACKING_URI", "").strip().rstrip("/") in {
        ours,
        f"http://localhost:{port}",
        f"http://{background.HOST}:{port}",
    }:
        return own_uri(storage)
    return choose_uri(storage)


def _same(service: Service, changes: dict[str, Any]) -> Wanted:
    """What is up, as what is wanted. Raises UserError when that is something else."""
    port = {"ray_port": service.ray_address, "dashboard_port": service.dashboard}
    if service.mlflow_ours:
        port["mlflow_port"] = service.mlflow
    has: dict[str, Any] = {name: int(address.rpartition(":")[2]) for name, address in port.items()}
    has["host"] = service.host
    other = [name for name, value in changes.items() if name in has and has[name] != value]
    if other:
        said = " ".join(f"--{name.replace('_', '-')} {has[name]}" for name in other)
        raise UserError(f"the service of {service.storage} is up with {said}; nanosweep down first")
    return replace(Wanted(service.storage), **{**changes, **has})


def _check_ports(wanted: Wanted) -> None:
    ports = {"--ray-port": wanted.ray_port, "--dashboard-port": wanted.dashboard_port}
    for option, port in ports.items():
        if port in ray_head.WORKER_PORTS:
            first, last = ray_head.WORKER_PORTS[0], ray_head.WORKER_PORTS[-1]
            raise UserError(f"{option} {port}: Ray gives {first} to {last} to its workers; use another")
    ports["--mlflow-port"] = wanted.mlflow_port
    if len(set(ports.values())) < len(ports):
        raise UserError(f"{', '.join(f'{option} {port}' for option, port in ports.items())}: three ports are needed")


def own_address() -> str:
    """This machine's address towards others; loopback where it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address of nobody; a datagram socket sends nothing by it
            return str(probe.getsockname()[0])
        except OSError:
            return background.HOST
