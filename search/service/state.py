"""The background service of a storage (`nanosweep up`): what runs, where, and what a client needs to reach it.

Everything about it lies in `<storage>/.service/`, a folder that only its owner may enter: `state.json`, the logs,
`client.sh` for a shell that is to reach it, and each secret in a file of its own (mode 600). A study cannot have that
name. Read here with psutil alone: no Ray, no MLflow.
Example: `if (service := running(Path("runs"))): os.environ.update(environment(service))`.
"""

from __future__ import annotations

import configparser
import json
import shlex
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from data.errors import UserError
from data.paths import absolute
from search.service.background import MARK, breathes, environ, group
from trainer.files import write_private

if TYPE_CHECKING:
    import psutil

STORAGE = Path("runs")
FOLDER, STATE, CLIENT = ".service", "state.json", "client.sh"
_CLOCK = 2.0  # seconds by which times of creation may differ; they are rounded, and counted from the boot


@dataclass(frozen=True)
class Process:
    """The first process of a part. created: seconds since the epoch. mark: MARK in the environment of the part."""

    pid: int
    created: float
    mark: str


@dataclass(frozen=True)
class Service:
    """What `up` started. The addresses are for clients; host is what the servers listen on."""

    storage: Path
    machine: str  # the host name of the machine that it runs on
    started: float  # seconds since the epoch
    host: str
    ray_address: str  # HOST:PORT for drivers and further nodes
    dashboard: str  # http://HOST:PORT, also where jobs are submitted
    mlflow: str  # MLFLOW_TRACKING_URI of clients
    scratch: Path  # Ray's own files, on that machine
    token_file: Path | None  # Ray's token, mode 600
    mlflow_credentials: Path | None  # an INI file, mode 600, see `credentials`; None: MLflow asks for no password
    mlflow_ours: bool  # False: somebody else's server, which MLFLOW_TRACKING_URI named
    ray: Process | None
    mlflow_server: Process | None

    @property
    def parts(self) -> dict[str, Process]:
        """The first process of each part, by the name of the part."""
        processes = {"Ray": self.ray, "MLflow": self.mlflow_server}
        return {name: process for name, process in processes.items() if process is not None}


def running(storage: Path | None = None) -> Service | None:
    """The service of a storage (default ./runs) when all of it lives on this machine; else None.

    Raises UserError when the state cannot be read.
    """
    service = recorded(storage)
    if service is None or elsewhere(service) or missing(service) or former_place(storage) is not None:
        return None
    return service


def environment(service: Service) -> dict[str, str]:
    """The environment of a client: Ray drivers, `ray job submit`, MLflow. Holds MLflow's password where there is one.

    Raises UserError when the password's file is gone.
    """
    variables = {
        "RAY_ADDRESS": service.ray_address,
        "RAY_API_SERVER_ADDRESS": service.dashboard,  # `ray job` takes it before RAY_ADDRESS
        "RAY_AUTH_MODE": "token",
        "MLFLOW_TRACKING_URI": service.mlflow,
    }
    if service.token_file is not None:
        variables["RAY_AUTH_TOKEN_PATH"] = str(service.token_file)
    if service.mlflow_credentials is not None:
        user, password = credentials(service.mlflow_credentials)
        variables |= {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    return variables


def write_client(service: Service) -> Path:
    """A file for a shell to read (`. runs/.service/client.sh`), so that `ray job submit`, a notebook or a script of
    this machine reaches the service, with `ray` and `python` of the environment that started it. It holds no secret:
    the shell takes MLflow's password from its own file.

    Raises UserError when the password's file is gone, or where the file system keeps no modes.
    """
    values = {name: shlex.quote(value) for name, value in environment(service).items()}
    if service.mlflow_credentials is not None:
        file = shlex.quote(str(service.mlflow_credentials))
        values["MLFLOW_TRACKING_PASSWORD"] = f'"$(sed -n "s/^mlflow_tracking_password *= *//p" {file})"'
    values["PATH"] = f'{shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
    host = urlsplit(service.dashboard).hostname
    values["no_proxy"] = f'"{host},${{no_proxy:-${{NO_PROXY:-}}}}"'
    lines = [f"export {name}={value}" for name, value in values.items()]
    lines.append("unset RAY_AUTH_TOKEN  # Ray would take it before the file")
    path = folder(service.storage) / CLIENT
    write_private(path, "\n".join(lines) + "\n")
    return path


def credentials(path: Path) -> tuple[str, str]:
    """User name and password for MLflow, from the file that is also a client's ~/.mlflow/credentials.

    Raises UserError when there are none.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
        return parser["mlflow"]["mlflow_tracking_username"], parser["mlflow"]["mlflow_tracking_password"]
    except (OSError, KeyError, configparser.Error) as error:
        raise UserError(f"{path}: MLflow's password cannot be read: {error!r}; nanosweep down, then up") from None


def folder(storage: Path | None = None) -> Path:
    return absolute(storage or STORAGE) / FOLDER


def recorded(storage: Path | None = None) -> Service | None:
    """What the state file says, alive or not; of a storage that has moved, with where its files are now.

    None where there is none, or only the copy of another storage's. Raises UserError when it is damaged.
    """
    service = _read(folder(storage) / STATE)
    if service is None or (former := former_place(storage)) is None:
        return service
    if _read(former / FOLDER / STATE) == service:
        return None
    here = folder(storage)
    files = {"token_file": service.token_file, "mlflow_credentials": service.mlflow_credentials}
    moved: dict[str, Any] = {name: here / file.name for name, file in files.items() if file is not None}
    return replace(service, storage=here.parent, **moved)


def former_place(storage: Path | None = None) -> Path | None:
    """Where the storage lay when its service was started; None where it lies there still, or has no service.

    What runs of such a service looks for its files there. Raises UserError.
    """
    service = _read(folder(storage) / STATE)
    return None if service is None or service.storage.resolve() == folder(storage).parent else service.storage


def _read(path: Path) -> Service | None:
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name in ("storage", "scratch", "token_file", "mlflow_credentials"):
            state[name] = Path(state[name]) if state[name] is not None else None
        for name in ("ray", "mlflow_server"):
            state[name] = Process(**state[name]) if state[name] is not None else None
        return Service(**{field.name: state[field.name] for field in fields(Service)})
    except FileNotFoundError:
        return None
    except PermissionError:
        raise UserError(
            f"{path.parent} belongs to another user, whose service it is; give your own --storage"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not what `nanosweep up` wrote ({error!r}); remove it") from None


def record(service: Service) -> None:
    body = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(service).items()}
    write_private(folder(service.storage) / STATE, json.dumps(body, indent=2) + "\n")


def forget(service: Service) -> None:
    for name in (STATE, CLIENT):
        (folder(service.storage) / name).unlink(missing_ok=True)


def missing(service: Service) -> list[str]:
    """The parts that should be there and do not live."""
    should = ["Ray", "MLflow"] if service.mlflow_ours else ["Ray"]
    return [name for name in should if name not in service.parts or not lives(service.parts[name])]


def without_dead(service: Service) -> Service:
    """With None for the parts that no longer live."""
    alive = {name: process for name, process in service.parts.items() if lives(process)}
    return replace(service, ray=alive.get("Ray"), mlflow_server=alive.get("MLflow"))


def elsewhere(service: Service) -> bool:
    """Whether it runs on another machine that shares the storage: its process numbers mean nothing here."""
    return service.machine != socket.gethostname()


def lives(process: Process) -> bool:
    """Whether it is still the process that we started, and not a later one with its number (after a reboot, say)."""
    import psutil

    try:
        candidate = psutil.Process(process.pid)
        # the mark decides where the clock was set meanwhile
        same = abs(candidate.create_time() - process.created) < _CLOCK or environ(candidate).get(MARK) == process.mark
        return same and breathes(candidate)
    except psutil.NoSuchProcess:
        return False


def members(process: Process) -> Iterator[psutil.Process]:
    """The living processes of a part: its group, and whatever bears its mark; not all their descendants.

    Some of Ray's lose their environment as they rename themselves, but those stay in the group.
    """
    import psutil

    if lives(process):
        yield from group(process.pid)
    for candidate in psutil.process_iter():
        if environ(candidate).get(MARK) == process.mark and breathes(candidate):
            yield candidate
