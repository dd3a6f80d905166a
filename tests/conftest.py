"""Fixtures that several rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Ray reads this once, when it is first imported, which any test may be the first to do
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder with the sample texts (shakespeare/, tinystories/, gpt2/), named by NANOSWEEP_TEST_DATA."""
    folder = os.environ.get("NANOSWEEP_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs the sample texts: set NANOSWEEP_TEST_DATA to their folder")
    return Path(folder)
