"""The search: spec, samplers, schedulers, journal, leaderboard, and the nanosweep command."""

import sys
from pathlib import Path

# a `trainer/` in the working directory must not win over ours, see trainer/__init__.py
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
try:
    from trainer import import_beside
finally:
    del sys.path[0]

import_beside("trainer")
