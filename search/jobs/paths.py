"""Paths of this machine in a study's config, on its way to a cluster: made absolute there, or refused. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.paths import at_home
from search.spec import space
from search.spec.study_spec import StudySpec
from trainer.config import TrainConfig
from trainer.config_paths import FIELDS, split
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
    for field in FIELDS:
        for value in space.values_of(field, spec, base):
            head, path, tail = split(field, value)
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
