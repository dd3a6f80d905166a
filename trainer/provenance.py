"""Where an exported config comes from: the block `provenance:` on top of it.

`nanosweep export` writes it; loading a config checks the block but uses nothing of it. A full run reads it, to be
logged under its study, and so does the model card.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from trainer import yaml_file
from trainer.yaml_file import RefusedError, YamlFile

KEY = "provenance"


class Provenance(BaseModel):
    """The trial that a config was exported from. Unknown texts are empty."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    study: str
    trial: Annotated[int, Field(ge=0)]
    name: str = ""
    """the trial's point in a few words"""
    parameters: Annotated[int, Field(ge=0)] | None = None
    """number of the model's parameters"""
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
    """training tokens of the trial"""
    trained: str = ""
    """when the trial last reported, UTC"""
    corpus: str = ""
    data_hash: str = ""
    """hash of text and tokenizer; of all tokenizers, where the study has several"""
    own_data_hash: str = ""
    """hash of text and the trial's own tokenizer, where it is another than data_hash"""
    commit: str = ""
    dirty: bool | None = None
    """whether the code differed from the commit"""
    dtype: str = ""
    """what `dtype: auto` was on the study's CPUs, for all its trials"""
    own_code: dict[str, str] = {}
    """sha256 of the source of the trial's own loss, optimizer and model, by reference"""
    config: dict[str, Any] = {}
    """the config below as it was exported: what differs has been edited since"""

    @property
    def text_hash(self) -> str:
        """Hash of the data that the trial was trained on; empty where unknown."""
        return self.own_data_hash or self.data_hash


class _Head(BaseModel):
    provenance: Provenance


def parse(file: YamlFile) -> Provenance | None:
    """The block of a config file; None without one. Raises UserError, with its line, for one that is damaged."""
    if KEY not in file.value:
        return None
    try:
        return yaml_file.validate(_Head, YamlFile(file.name, {KEY: file.value[KEY]}, file.lines)).provenance
    except RefusedError as error:
        problem = f"{error.problem}; export the config again, or remove its block {KEY}"
        raise RefusedError(error.head, problem, error.place, error.keys, error.kind, error.line) from None


def read(path: Path) -> Provenance | None:
    """Read the provenance of a config file; None if it is no export. Raises UserError as `parse` does."""
    return parse(yaml_file.read(path)) or _of_comments(path)


def dump(provenance: Provenance) -> str:
    """The block as YAML text; fields at their defaults are left out."""
    plain = provenance.model_dump(mode="json", exclude_defaults=True)
    if provenance.config:
        plain["config"] = _OneLine(plain["config"])
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


class _OneLine(dict[str, Any]):
    """A mapping for machines: on one line, it does not hide the config that is to be read."""


def _represent_one_line(dumper: _Dumper, mapping: _OneLine) -> yaml.Node:
    return dumper.represent_mapping("tag:yaml.org,2002:map", mapping, flow_style=True)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(_OneLine, _represent_one_line)


def edits(path: Path) -> dict[str, tuple[Any, Any]]:
    """What has been edited in an exported config since: {key: (value as exported, value now)}, None for a missing key.

    Empty for a config that is no export, and for one of a release that did not record it.
    """
    file = yaml_file.read(path)
    provenance = parse(file)
    if provenance is None or not provenance.config:
        return {}
    before, now = provenance.config, {key: value for key, value in file.value.items() if key != KEY}
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    return {key: (before.get(key), now.get(key)) for key in keys}


def describe_edits(path: Path) -> str:
    """`learning_rate 0.01 (exported: 0.003)`, one after the other; empty without any."""
    return ", ".join(f"{key} {_value(now)} (exported: {_value(before)})" for key, (before, now) in edits(path).items())


def _value(value: Any) -> str:
    return "unset" if value is None else " ".join(str(value).split())


def facts(path: Path) -> list[str]:
    """The provenance of a config file for people, one fact per line; [] if it is no export."""
    provenance = parse(yaml_file.read(path))
    return describe(provenance) if provenance is not None else _comments(path)


def describe(provenance: Provenance) -> list[str]:
    """Format for people, one fact per line."""
    p = provenance
    size = "" if p.parameters is None else f"; {p.parameters:,} parameters"
    dirty = " with uncommitted changes" if p.dirty else ""
    lines = [
        f"{'best of' if p.leads else 'from'} study {p.study}, trial {p.trial} ({p.name}){size}",
        f"objective: {_score(p)}",
        f"how sure: {p.how_sure}" if p.how_sure else "",
        f"commit: {p.commit}{dirty}" if p.commit else "",
        f"data: {p.corpus}, hash {p.data_hash}" if p.data_hash else "",
        f"dtype: auto was {p.dtype} in the study" if p.dtype else "",
        *(f"own code: {reference}, sha256 {digest}" for reference, digest in p.own_code.items()),
    ]
    return [line for line in lines if line]


def _score(provenance: Provenance) -> str:
    if provenance.value is None:
        return f"none: {provenance.status} after {provenance.tokens:,} tokens"
    value = f"{provenance.objective} {provenance.value:.6g}"
    return f"{value} on the full validation split, after {provenance.tokens:,} tokens"


def _comments(path: Path) -> list[str]:
    """The first comment lines of a config that an old release without the block exported; usage hints follow them."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or not lines[0].startswith("# nanosweep:"):
        return []
    ends = (i for i, line in enumerate(lines) if not line.startswith("# "))
    return [line.removeprefix("# ") for line in lines[: next(ends, len(lines))]]


def _of_comments(path: Path) -> Provenance | None:
    """Parse those comments: such a file has no other record of its provenance."""
    text = "\n".join(_comments(path))
    title = re.search(r"^nanosweep: (?:best of|from) study (.+), trial (\d+) \(", text, re.M)
    data = re.search(r"^data: (.*), hash (\w+)$", text, re.M)
    if title is None:
        return None
    corpus, data_hash = (data[1], data[2]) if data and data[2] != "unknown" else ("", "")
    return Provenance(study=title[1], trial=int(title[2]), corpus=corpus, data_hash=data_hash)
