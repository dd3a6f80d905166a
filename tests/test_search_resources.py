"""What a trial gets of the machines there are; requests that no machine can meet; a cluster that is away."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from data.errors import UserError
from search.run.ray_session import ray_session
from search.run.resources import Share, share
from search.spec.study_spec import Resources
from search.study.machine import Node, this_machine
from trainer.yaml_file import YamlFile

FILE = YamlFile("spec.yaml", {}, {("resources",): 7})
LAPTOP, SERVER = Node("laptop", 4, 0), Node("server", 24, 4)


@pytest.mark.parametrize(
    ("wanted", "nodes", "expected"),
    [
        (None, [LAPTOP], Share(1, 0, 4)),  # auto: as many trials as cores
        (None, [LAPTOP, LAPTOP], Share(1, 0, 8)),
        (None, [SERVER], Share(6, 1, 4)),  # auto: a GPU each, with its share of the cores
        (None, [SERVER, Node("old", 4, 2), LAPTOP], Share(2, 1, 6)),  # the smallest share fits everywhere
        (Resources(cpus=2), [LAPTOP], Share(2, 0, 2)),
        (Resources(cpus=3), [LAPTOP, LAPTOP], Share(3, 0, 2)),  # a trial does not span machines
        (Resources(cpus=0.5), [LAPTOP], Share(0.5, 0, 8)),
        (Resources(cpus=1, at_once=3), [LAPTOP], Share(1, 0, 3)),  # the rest is left to others
        (Resources(cpus=2, at_once=3), [LAPTOP], Share(2, 0, 2)),
        (Resources(cpus=1, gpus=0.25), [SERVER], Share(1, 0.25, 16)),
        (Resources(cpus=1, gpus=0.3), [SERVER], Share(1, 0.3, 12)),  # three to a GPU, none over two of them
        (Resources(cpus=8, gpus=0.25), [SERVER], Share(8, 0.25, 3)),  # the cores run out first
    ],
)
def test_share(wanted: Resources | None, nodes: list[Node], expected: Share) -> None:
    assert share(wanted, nodes, FILE) == expected


def test_a_base_that_asks_for_the_cpu_gets_no_gpu_by_itself() -> None:
    assert share(None, [SERVER], FILE, device="cpu") == Share(1, 0, 24)


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1, 1), (2.5, 2), (8, 8)])
def test_threads_follow_the_cores(cpus: float, threads: int) -> None:
    assert Share(cpus, 0, 1).threads == threads


@pytest.mark.parametrize(
    ("wanted", "device", "words"),
    [
        (Resources(gpus=0.5), "auto", ["spec.yaml:7: resources", "gpus: 0.5", "no GPU here"]),
        (Resources(cpus=64), "auto", ["cpus: 64", "laptop: 4 CPUs, 0 GPUs", "Ask for less"]),
        (None, "cuda", ["device: cuda", "no GPU"]),
    ],
)
def test_what_no_machine_can_give_is_refused(wanted: Resources | None, device: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        share(wanted, [LAPTOP], FILE, device)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_two_machines_do_not_add_up_to_one_that_is_large_enough() -> None:
    with pytest.raises(UserError, match="no machine can give a trial cpus: 6"):
        share(Resources(cpus=6), [LAPTOP, LAPTOP], FILE)


def test_this_machine_has_cores() -> None:
    assert this_machine().cpus >= 1


def test_a_cluster_that_is_away_is_said_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        pytest.raises(UserError, match=f"no Ray cluster answers at 127.0.0.1:{port}"),
        ray_session(f"127.0.0.1:{port}", this_machine()) as session,
    ):
        session.wait()


def test_ray_client_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ray job submit"), ray_session("ray://head:10001", this_machine()) as session:
        session.wait()
