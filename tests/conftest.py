"""Fixtures that several rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Ray reads this once, when it is first imported, which any test may be the first to do
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if "PYTEST_XDIST_WORKER" in os.environ:  # each has a core: more threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a worker of pytest-xdist slow files begin first, so that no worker waits for the other's last one."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder with the sample texts (shakespeare/, tinystories/, gpt2/), named by NANOSWEEP_TEST_DATA."""
    folder = os.environ.get("NANOSWEEP_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs the sample texts: set NANOSWEEP_TEST_DATA to their folder")
    return Path(folder)
