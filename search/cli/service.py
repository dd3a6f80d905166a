"""The commands of the background service: nanosweep up, status, down."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.cli.arguments import port
from trainer.command_line import whole

if TYPE_CHECKING:
    from search.service.state import Service

# nothing heavy up here, see cli.py
Command = Callable[..., argparse.ArgumentParser]


def add(command: Command) -> None:
    """Add their parsers. command(name, does, help) makes one."""
    up = command("up", _up, "start Ray and MLflow over the storage, in the background; or say that they are up")
    _storage(up)
    text = "of the Ray dashboard, which takes submitted jobs (default 8265)"
    up.add_argument("--dashboard-port", type=port, metavar="PORT", help=text)
    up.add_argument("--mlflow-port", type=port, metavar="PORT", help="of MLflow (default 5000)")
    up.add_argument("--ray-port", type=port, metavar="PORT", help="of Ray itself (default 6379)")
    text = "where both servers listen (default 127.0.0.1); another address makes MLflow ask for a password"
    up.add_argument("--host", metavar="ADDRESS", help=text)
    text = "further names under which MLflow may be asked for, behind a proxy say"
    up.add_argument("--allowed-hosts", metavar="NAME,NAME", help=text)
    up.add_argument("--num-cpus", type=whole(), metavar="N", help="cores that Ray may use; default: all")
    up.add_argument("--num-gpus", type=whole(), metavar="N", help="GPUs that Ray may use; default: all")
    status = command("status", _status, "what is up, and what runs there; exit code 3 when it is not up")
    _storage(status)
    for added in (up, status):
        text = "print the secrets that another machine needs, instead of the files they are in"
        added.add_argument("--show-secrets", action="store_true", help=text)
    _storage(command("down", _down, "end what up started; the same submit resumes what is interrupted"))


def _storage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", type=Path, default=Path("runs"), help="default ./runs")


def _say(line: str) -> None:
    print(line, flush=True)


def _up(args: argparse.Namespace) -> None:
    from search.service.up import client_lines, study_links, up
    from search.tracking.mlflow_store import shown

    options = {"host": args.host, "cpus": args.num_cpus, "gpus": args.num_gpus}
    options |= {name: getattr(args, name) for name in ("dashboard_port", "mlflow_port", "ray_port")}
    changes: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if args.allowed_hosts:
        changes["allowed_hosts"] = [name.strip() for name in args.allowed_hosts.split(",") if name.strip()]
    service, started = up(args.storage, changes, _say)
    _say(f"{'up' if started else 'up already'} in {service.storage} (nanosweep down ends it)")
    _say(f"Ray's dashboard: {service.dashboard} (asks for the token in {service.token_file})")
    secret = f" (password: {service.mlflow_credentials})" if service.mlflow_credentials else ""
    _say(f"MLflow: {shown(service.mlflow)}{secret}")
    for line in study_links(service):
        _say(line)
    _say("for ray job submit, a notebook or a script, in this shell:")
    for line in client_lines(service):
        _say(f"  {line}")
    _elsewhere(service, args.show_secrets)


def _status(args: argparse.Namespace) -> int:
    from search.service.down import status
    from search.service.state import running

    code = status(args.storage, _say)
    if (service := running(args.storage)) is not None:
        _elsewhere(service, args.show_secrets)
    return code


def _down(args: argparse.Namespace) -> None:
    from search.service.down import down

    down(args.storage, _say)


def _elsewhere(service: Service, secrets: bool) -> None:
    """How another machine connects, where it can; with the secrets themselves only when asked for."""
    from search.service.state import environment
    from search.tracking.mlflow_store import shown

    outside = not service.host.startswith("127.")
    if not (outside or secrets):
        return
    needed = environment(service)
    del needed["RAY_ADDRESS"]  # for drivers, which run inside the cluster
    if secrets and service.token_file is not None:
        del needed["RAY_AUTH_TOKEN_PATH"]
        needed["RAY_AUTH_TOKEN"] = service.token_file.read_text(encoding="utf-8").strip()
    if not secrets:
        needed["MLFLOW_TRACKING_URI"] = shown(service.mlflow)
        if service.token_file is not None:
            needed["RAY_AUTH_TOKEN_PATH"] = f"COPY_OF_{service.token_file.name}"
        if service.mlflow_credentials is not None:
            needed["MLFLOW_TRACKING_PASSWORD"] = f"AS_IN_{service.mlflow_credentials.name}"
    _say("another machine connects with:")
    for name, value in needed.items():
        _say(f"  export {name}={shlex.quote(value)}")
    if not secrets:
        _say(f"  (the files lie in {service.storage}/.service; --show-secrets prints what is in them)")
    if outside:
        _say(f"  a further Ray node: ray start --address {service.ray_address}, with the same token")
