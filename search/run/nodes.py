"""Whether every node of a cluster can run a study's trials: asked on each of them before the first.

A node that cannot write the study's folder loses its checkpoints; one with another torch gives other numbers.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError
from search.run import in_worker
from search.run.own_code import OwnCode
from search.study.environment import packages

PATIENCE = 120.0  # seconds for a node to answer: it may have to unpack the code first


@dataclass(frozen=True)
class Answer:
    """What a node said. writes: whether it reads and writes the study's folder; None: it did not answer.

    code: why it cannot use the user's own code; broken: why it cannot import this program; empty where it can.
    """

    node: str
    writes: bool | None
    packages: Mapping[str, str]
    code: str = ""
    broken: str = ""


def check(folder: Path, name: str = "storage:", own_code: OwnCode | None = None) -> None:
    """Ask every node of the Ray that we are connected to. name: how the user gave the folder.

    own_code: what trials import. Raises UserError, one line that names the nodes.
    """
    if why := complaint(folder, _ask(folder, own_code or OwnCode()), name=name):
        raise UserError(why)


def complaint(
    folder: Path, answers: list[Answer], here: Mapping[str, str] | None = None, name: str = "storage:"
) -> str | None:
    """The first thing that is wrong, or None. here: the driver's packages."""
    here = here or packages()
    if silent := [answer.node for answer in answers if answer.writes is None]:
        return f"no answer within {PATIENCE:g} s from {_names(silent)}; look at it, or take it out of the cluster"
    for answer in answers:
        if answer.broken:
            return f"node {answer.node}: {answer.broken}; install the same set everywhere (constraints.txt)"
    for answer in answers:
        differing = [name for name in here if _public(name, answer.packages.get(name)) != _public(name, here[name])]
        if differing:
            said = ", ".join(
                f"{name} {answer.packages.get(name, 'not at all')} (driver: {here[name]})" for name in differing
            )
            return (
                f"node {answer.node} has {said}; trials would not be comparable: install the same set everywhere "
                "(constraints.txt)"
            )
    if without := [answer.node for answer in answers if not answer.writes]:
        return f"{name} {folder} cannot be read and written from {_names(without)}; give a path that all nodes share"
    for answer in answers:
        if answer.code:
            return f"node {answer.node}: {answer.code}; nanosweep submit sends own code along"
    return None


def named(error: UserError) -> UserError:
    """An error of this process with the node on which it came: a driver runs wherever the cluster put it."""
    return UserError(f"node {socket.gethostname()}: {error}")


def _public(name: str, version: str | None) -> str | None:
    """A version without its build: 2.13.0 for the CPU and for CUDA are one; and 3.11 is 3.11."""
    if version is None:
        return None
    return ".".join(version.split(".")[:2]) if name == "python" else version.partition("+")[0]


def _names(nodes: list[str]) -> str:
    return ", ".join(sorted(set(nodes)))


def _ask(folder: Path, own_code: OwnCode) -> list[Answer]:
    """What each node says; one that is lost meanwhile has no say."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    mark = folder / f".probe-{uuid.uuid4().hex}"
    mark.touch()
    try:
        sent = in_worker.call("search.run.nodes", "look", ("trainer.loop",), lambda cause: (True, {}, "", cause))
        look = ray.remote(num_cpus=0)(sent)
        asked = {}
        nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
        for id_ in nodes:
            there = NodeAffinitySchedulingStrategy(id_, soft=False)
            asked[id_] = look.options(scheduling_strategy=there).remote(str(mark), asdict(own_code))
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=PATIENCE)
        said = {id_: _got(answer) for id_, answer in asked.items()}
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return [Answer(nodes[id_], *answer) for id_, answer in said.items() if id_ in alive]
    finally:
        mark.unlink()


def _got(answer: Any) -> tuple[bool | None, Mapping[str, str], str, str]:
    """What a node said: the fields of an Answer; (None, {}, "", "") when it was lost or has not answered."""
    import ray

    try:
        writes, packages, code, broken = ray.get(answer, timeout=1)
    except ray.exceptions.RayError:
        return None, {}, "", ""
    return bool(writes), packages, str(code), str(broken)


def look(mark: str, own_code: dict[str, Any]) -> tuple[bool, Mapping[str, str], str, str]:
    """On a node, where all that a trial imports has been imported: the fields of its Answer, without the node.

    mark: a file in the study's folder. own_code: the fields of an OwnCode.
    """
    path = Path(mark)
    probe = path.with_name(f"{path.name}-{uuid.uuid4().hex}")
    try:
        probe.touch()
        probe.unlink()
        return path.exists(), packages(), OwnCode(**own_code).problem(), ""
    except OSError:
        return False, packages(), "", ""
