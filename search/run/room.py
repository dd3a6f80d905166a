"""The room that a cluster has for a trial, and who has the rest, while a study waits for it."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any

from search.run.resources import Share, has, slots
from search.study.machine import Node
from trainer.units import duration, plural

_ASK: dict[str, Any] = {"detail": True, "limit": 1000, "timeout": 10, "raise_on_missing_output": False}


def lacking(each: Share) -> str:
    """What is free where no node has room for one trial, and which other jobs hold the rest.

    "" where one has room, where this job already holds a trial's (its worker starts), or where no other job is there.
    """
    import ray
    from ray._private.state import jobs

    left = free()
    if slots(each, left):
        return ""
    own = ray.get_runtime_context().get_job_id()
    held, names = _held()
    others = [line for id_, amounts in held.items() if id_ != own and (line := _holder(id_, names.get(id_), amounts))]
    alone = all(job["IsDead"] or job["JobID"] == own for job in jobs())
    if any(held.get(own, {}).values()) or (alone and not others):
        return ""
    return f"free is {has(left)}" + (f"; held by {', '.join(others)}" if others else "")


def free() -> list[Node]:
    """The nodes of the cluster with what nobody has of them: cores on two nodes are not room for a trial of two."""
    import ray
    from ray._private.state import available_resources_per_node

    left = available_resources_per_node()
    return [
        Node(node["NodeManagerHostname"], *(left.get(node["NodeID"], {}).get(kind, 0.0) for kind in ("CPU", "GPU")))
        for node in ray.nodes()
        if node["Alive"]
    ]


def _held() -> tuple[dict[str, Counter[str]], dict[str, Any]]:
    """What each job holds, by its id, and the jobs that are known by theirs.

    Ray's dashboard is asked; both are empty where there is none, as on a Ray that a driver started for itself.
    """
    import ray
    from ray.util.state import list_actors, list_jobs, list_placement_groups
    from ray.util.state.exception import RayStateApiException

    ask = {**_ASK, "address": ray.get_runtime_context().gcs_address}  # of this cluster; another may run here too
    try:
        groups = list_placement_groups(filters=[("state", "=", "CREATED")], **ask)
        actors = list_actors(filters=[("state", "=", "ALIVE")], **ask)
        jobs = list_jobs(**ask)
    except (RayStateApiException, OSError, ValueError, RuntimeError):
        return {}, {}
    held: dict[str, Counter[str]] = defaultdict(Counter)
    for group in groups:
        for bundle in group.bundles or []:
            held[group.creator_job_id].update(bundle.get("unit_resources", {}))
    for actor in actors:
        if not actor.placement_group_id:
            held[actor.job_id].update(actor.required_resources or {})
    return dict(held), {job.job_id: job for job in jobs}


def _holder(id_: str, job: Any, amounts: Counter[str]) -> str:
    """`job quick-20261126-2134 (2 CPUs, 1 GPU, begun 2h05m ago)`; "" for a job that holds neither."""
    parts = [plural(amounts[kind], kind) for kind in ("CPU", "GPU") if amounts[kind]]
    if not parts:
        return ""
    name = (job and (job.submission_id or job.entrypoint)) or id_
    if job and job.start_time:
        parts.append(f"begun {duration(time.time() - job.start_time / 1000)} ago")
    return f"job {name} ({', '.join(parts)})"
