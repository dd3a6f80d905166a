"""Ray starts and ends beside what needs no Ray."""

from __future__ import annotations

import os

import psutil
import pytest
import ray

from data.errors import UserError
from search.run.ray_session import ray_session
from search.run.resources import Share
from search.study.machine import Node

MACHINE = Node("here", 2.0, 0.0)


def ray_processes() -> list[psutil.Process]:
    """Our children that are Ray's; one that has ended and not been waited for is none."""
    children = psutil.Process(os.getpid()).children(recursive=True)
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]


def test_ray_starts_while_the_block_prepares_and_has_ended_when_it_goes_on() -> None:
    before, sessions = ray_processes(), []

    def make_a_mistake() -> None:
        with ray_session(None, MACHINE) as session:
            sessions.append(session)
            raise UserError("found while Ray starts")

    with pytest.raises(UserError, match="found while Ray starts"):
        make_a_mistake()
    assert not sessions[0].started.is_set()  # it was told at once
    with ray_session(None, MACHINE, Share(1.0, 0.0, 2)) as session:  # when that Ray has ended, which took its time
        scratch = session.wait()
        assert scratch.is_dir()
        assert ray.cluster_resources()["CPU"] == 2
        session.leave()
        assert not ray.is_initialized()
        assert not scratch.exists()
        assert ray_processes() == before


def test_workers_have_imported_what_trials_need_before_the_first_is_there() -> None:
    def modules() -> set[str]:
        import sys

        return {"torch._dynamo", "ray.tune"} & set(sys.modules)

    with ray_session(None, MACHINE, Share(1.0, 0.0, 2)) as session:
        session.wait()
        assert ray.get(ray.remote(modules).remote()) == {"torch._dynamo", "ray.tune"}
