"""What one trial gets of the machines there are.

`resources: auto` is one GPU per trial, with its share of the cores, where there are GPUs; elsewhere one core per
trial, as many trials as cores. On 2 cores two trials of 1 thread trained 4.7 times the tokens per second of one
trial of 2 threads (4L/128d/T128/B8, a busy machine: threads of one step wait for the slowest of them).
"""

from __future__ import annotations

from dataclasses import dataclass

from data.errors import UserError
from search.spec.study_spec import Resources
from search.study.machine import Node
from trainer.yaml_file import YamlFile


@dataclass(frozen=True)
class Share:
    """What one trial gets, and how many trials run at once."""

    cpus: float
    gpus: float
    slots: int

    @property
    def threads(self) -> int:
        """Threads of one trial: as many as it has whole cores, at least one."""
        return max(1, int(self.cpus))


def cluster() -> list[Node]:
    """The nodes of the Ray cluster that we are connected to."""
    import ray

    return [
        Node(node["NodeManagerHostname"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]


def share(wanted: Resources | None, nodes: list[Node], file: YamlFile, device: str = "auto") -> Share:
    """What each trial gets on these nodes; wanted None is `auto`; device is the base config's.

    Raises UserError with what was asked and what there is, where no node can meet it.
    """
    n_gpus = sum(node.gpus for node in nodes)
    if wanted is None:
        chosen = _auto(nodes) if n_gpus and device != "cpu" else Resources(cpus=1, gpus=0)
    else:
        chosen = wanted
    where = file.where(("resources",))
    if chosen.gpus and not n_gpus:
        raise UserError(f"{where}: gpus: {chosen.gpus:g} per trial, but there is no GPU here; use gpus: 0, or auto")
    if device == "cuda" and not chosen.gpus:
        raise UserError(
            f"{where}: the base config says device: cuda, but a trial gets no GPU ({n_gpus:g} here); "
            "use device: auto, or give each trial one (resources: {gpus: 1})"
        )
    at_once = slots(chosen, nodes)
    if not at_once:
        raise UserError(
            f"{where}: no machine can give a trial cpus: {chosen.cpus:g} and gpus: {chosen.gpus:g}; "
            f"there is {has(nodes)}. Ask for less, or auto"
        )
    return Share(chosen.cpus, chosen.gpus, min(at_once, chosen.at_once or at_once))


def slots(wanted: Resources | Share, nodes: list[Node]) -> int:
    """How many such trials run at once on these nodes."""
    return sum(_fit(wanted, node) for node in nodes)


def has(nodes: list[Node]) -> str:
    """What there is, for people."""
    return "; ".join(sorted({f"{node.name}: {node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in nodes})) or "no node"


def _auto(nodes: list[Node]) -> Resources:
    """One GPU, and the cores that the node with the fewest per GPU has for it."""
    shares = [node.cpus // node.gpus for node in nodes if node.gpus]
    return Resources(cpus=max(1, int(min(shares))), gpus=1)


def _fit(wanted: Resources | Share, node: Node) -> int:
    """How many such trials run on a node at once; a fraction of a GPU never spans two."""
    by_cpu = int(node.cpus / wanted.cpus + 1e-9)
    return min(by_cpu, int(node.gpus) * int(1 / wanted.gpus + 1e-9)) if wanted.gpus else by_cpu
