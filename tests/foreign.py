"""A working directory that holds packages named as ours, as every nanoGPT user has one."""

from __future__ import annotations

from pathlib import Path

BROKEN = "raise OSError('this is not the package that was meant')\n"


def fill(folder: Path, *, trainer: bool = False) -> Path:
    """Write `data` without __init__.py (a namespace) and the package `models`; trainer: also a module of that name."""
    for package, module in (("data", "dataset"), ("data", "own_code"), ("models", "gpt"), ("models", "config")):
        (folder / package).mkdir(parents=True, exist_ok=True)
        (folder / package / f"{module}.py").write_text(BROKEN)
    (folder / "models/__init__.py").write_text("")
    if trainer:
        (folder / "trainer.py").write_text(BROKEN)
    return folder
