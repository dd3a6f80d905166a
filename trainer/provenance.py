"""Where an exported config comes from: the block `provenance:` on top of it.

`nanosweep export` writes it; loading a config checks it and takes nothing from it. It is read back here: by a full run,
which is logged under its study, and by the model card.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from data.errors import UserError
from trainer import yaml_file
from trainer.yaml_file import YamlFile

KEY = "provenance"


class Provenance(BaseModel):
    """The trial that a config was exported from. Texts that are not known are empty."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    study: str
    trial: Annotated[int, Field(ge=0)]
    name: str = ""
    """the point in a few words"""
    parameters: Annotated[int, Field(ge=0)] | None = None
    """of the model"""
    point: dict[str, Any] = {}
    """what was searched: the values that the sampler proposed"""
    leads: bool = False
    """whether the trial led its study when the config was exported"""
    objective: str = ""
    """the name of the metric"""
    value: float | None = None
    """of the objective, on the full validation split in the search's own run; null for a trial without one"""
    how_sure: str = ""
    status: str = ""
    tokens: Annotated[int, Field(ge=0)] = 0
    """that the trial was trained on"""
    trained: str = ""
    """when the trial last reported, UTC"""
    corpus: str = ""
    data_hash: str = ""
    """of text and tokenizer"""
    commit: str = ""
    dirty: bool | None = None
    """whether the code differed from the commit"""
    own_code: dict[str, str] = {}
    """sha256 of the source of the trial's own loss, optimizer and model, by reference"""


class _Head(BaseModel):
    provenance: Provenance


def parse(file: YamlFile) -> Provenance | None:
    """The block of a config file; None without one. Raises UserError, with its line, for one that is damaged."""
    if KEY not in file.value:
        return None
    try:
        return yaml_file.validate(_Head, YamlFile(file.name, {KEY: file.value[KEY]}, file.lines)).provenance
    except UserError as error:
        raise UserError(f"{error}; export the config again, or remove its block {KEY}") from None


def read(path: Path) -> Provenance | None:
    """Where a config file comes from; None for one that is nobody's export. Raises UserError as `parse` does."""
    return parse(yaml_file.read(path)) or _of_comments(path)


def dump(provenance: Provenance) -> str:
    """The block as YAML text; what is not known is left out."""
    plain = provenance.model_dump(mode="json", exclude_defaults=True)
    return str(
        yaml.dump({KEY: plain}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)  # whole lines
    )


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    # PyYAML would write `1e3` plain, which yaml_file reads as a number
    style = '"' if re.match(r"[-+.0-9]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def facts(path: Path) -> list[str]:
    """What a config file says about where it comes from, for people, a fact a line; [] for nobody's export."""
    provenance = parse(yaml_file.read(path))
    return describe(provenance) if provenance is not None else _comments(path)


def describe(provenance: Provenance) -> list[str]:
    """For people, a fact a line."""
    one = provenance
    size = "" if one.parameters is None else f"; {one.parameters:,} parameters"
    dirty = " with uncommitted changes" if one.dirty else ""
    lines = [
        f"{'best of' if one.leads else 'from'} study {one.study}, trial {one.trial} ({one.name}){size}",
        f"objective: {_score(one)}",
        f"how sure: {one.how_sure}" if one.how_sure else "",
        f"commit: {one.commit}{dirty}" if one.commit else "",
        f"data: {one.corpus}, hash {one.data_hash}" if one.data_hash else "",
        *(f"own code: {reference}, sha256 {digest}" for reference, digest in one.own_code.items()),
    ]
    return [line for line in lines if line]


def _score(one: Provenance) -> str:
    if one.value is None:
        return f"none: {one.status} after {one.tokens:,} tokens"
    return f"{one.objective} {one.value:.6g} on the full validation split, after {one.tokens:,} tokens"


def _comments(path: Path) -> list[str]:
    """The comments on top of a config that a release without the block exported; then comes how to use the file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or not lines[0].startswith("# nanosweep:"):
        return []
    ends = (i for i, line in enumerate(lines) if not line.startswith("# "))
    return [line.removeprefix("# ") for line in lines[: next(ends, len(lines))]]


def _of_comments(path: Path) -> Provenance | None:
    """Those comments read: the only record of it that such a file has."""
    text = "\n".join(_comments(path))
    title = re.search(r"^nanosweep: (?:best of|from) study (.+), trial (\d+) \(", text, re.M)
    data = re.search(r"^data: (.*), hash (\w+)$", text, re.M)
    if title is None:
        return None
    corpus, data_hash = (data[1], data[2]) if data and data[2] != "unknown" else ("", "")
    return Provenance(study=title[1], trial=int(title[2]), corpus=corpus, data_hash=data_hash)
