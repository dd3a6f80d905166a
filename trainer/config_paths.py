"""The paths of this machine in a config: `corpus: text:a.txt`, `tokenizer: gpt2:ranks`, `init_from: weights/`.

A relative one is looked for from the working directory. Whoever takes a config elsewhere makes it absolute first.
"""

from __future__ import annotations

from pathlib import Path

from data import corpora, tokenizers
from data.paths import at_home
from models.config import GPT2_SHAPES
from trainer.config import TrainConfig, replace


def _split_weights(source: str) -> tuple[str, str, str]:
    return "", "" if source in GPT2_SHAPES else source, ""


# the fields that may name a path, and what splits their value around it
_SPLIT = {"corpus": corpora.split_path, "tokenizer": tokenizers.split_path, "init_from": _split_weights}
FIELDS = tuple(_SPLIT)


def split(field: str, value: str | None) -> tuple[str, Path | None, str]:
    """`text:a/b` as (`text:`, a/b, ``); the path is None where the value names no file or folder of one's own."""
    if value is None:
        return "", None, ""
    head, path, tail = _SPLIT[field](value)
    return head, Path(path) if path else None, tail


def anchor(config: TrainConfig, directory: Path) -> TrainConfig:
    """The config with its relative paths made absolute, as they are meant in that working directory.

    A path that leads nowhere from there stays as it is: the whole place may have been moved, or be on another machine.
    """
    changes = {}
    for field in FIELDS:
        head, path, tail = split(field, getattr(config, field))
        if path is not None and not at_home(path).is_absolute() and (directory / path).exists():
            changes[field] = f"{head}{directory / path}{tail}"
    return replace(config, **changes) if changes else config
