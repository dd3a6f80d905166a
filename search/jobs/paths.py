"""Paths of this machine in a study's config, on its way to a cluster: made absolute there, or refused. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data import corpora, tokenizers
from data.errors import UserError
from data.paths import at_home
from models.config import GPT2_SHAPES
from search.spec import space
from search.spec.study_spec import StudySpec
from trainer.config import TrainConfig
from trainer.yaml_file import YamlFile


@dataclass(frozen=True)
class Paths:
    """changes: `key=value` for `--set`, with absolute paths. there: paths that are read on a cluster elsewhere."""

    changes: list[str]
    there: list[Path]


def absolute(spec: StudySpec, base: TrainConfig, file: YamlFile, address: str | None) -> Paths:
    """What must change in the config so that a job finds the same files: a job has another working directory.

    address: of a cluster on other machines, where only an absolute path can mean anything; None: on this machine.
    Raises UserError for a path that cannot be meant.
    """
    changes, there = [], []
    earlier = Path(spec.warm_start or "/")
    if len(earlier.parts) > 1 and not earlier.is_absolute():
        raise UserError(
            f"{file.where(('warm_start',))}: {earlier}: a job has its own working directory; give the study's name in "
            "the storage, or an absolute path"
        )
    for field in _SPLIT:
        for value in space.values_of(field, spec, base):
            head, path, tail = _split(field, value)
            if path is None:
                continue
            where = at_home(path)
            if address is not None:
                if not where.is_absolute() or str(path).startswith("~"):
                    raise UserError(
                        f"{field}: {value} is a path of this machine; {address} reads it on the cluster: give an "
                        f"absolute path that all its nodes share (--set {field}={head}/shared/{path.name}{tail})"
                    )
                there.append(where)
            elif not path.is_absolute():
                if value != getattr(base, field):
                    raise UserError(
                        f"{file.where(('space',))}: {value}: give an absolute path, as a job has its own "
                        f"working directory ({head}{where.absolute()}{tail})"
                    )
                changes.append(f"{field}={head}{where.absolute()}{tail}")
    return Paths(changes, there)


def _split(field: str, value: str | None) -> tuple[str, Path | None, str]:
    """`text:a/b` as (`text:`, a/b, ``); the path is None where the value names no file or folder of one's own."""
    if value is None:
        return "", None, ""
    head, path, tail = _SPLIT[field](value)
    return head, Path(path) if path else None, tail


def _split_weights(source: str) -> tuple[str, str, str]:
    return "", "" if source in GPT2_SHAPES else source, ""


# the fields that may name a path of this machine, and what splits their value around it
_SPLIT = {"corpus": corpora.split_path, "tokenizer": tokenizers.split_path, "init_from": _split_weights}
