"""A fresh SQLite store of MLflow in a moment: its tables take seconds to make, so they are made once and copied."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from search.tracking.mlflow_store import DATABASE, connect
from tests.waiting import CEILING


@cache
def _template() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="nanosweep-store-")
    connect(f"sqlite:///{folder.name}/{DATABASE}", seconds=CEILING)
    return folder


def fresh_store(storage: Path) -> str:
    """Put an empty store into a storage. Returns its URI."""
    storage.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(_template().name) / DATABASE, storage / DATABASE)
    return f"sqlite:///{storage / DATABASE}"
