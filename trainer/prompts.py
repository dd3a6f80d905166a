"""Prompts from a file, and the texts that were written for them, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data.errors import UserError


@dataclass(frozen=True)
class Prompt:
    """What a text begins with; place: for messages, file and line number."""

    place: str
    text: str


@dataclass(frozen=True)
class Written:
    """One text, its prompt before it, and how it was drawn; sample: 1 to of."""

    prompt: str
    temperature: float
    sample: int
    of: int
    text: str


def read_prompts(path: Path) -> list[Prompt]:
    """The lines of a file that are not blank. Raises UserError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); --prompts is a text file, one prompt per line") from None
    found = [Prompt(f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UserError(f"{path} has no prompt; write one per line")
    return found


def as_text(written: Sequence[Written]) -> str:
    """For people: texts alone where all are of one prompt and temperature, else each under a line that names them."""
    if len({(one.prompt, one.temperature) for one in written}) == 1:
        return "\n---\n".join(one.text for one in written) + "\n"
    return "\n".join(f"── {_title(one)} ──\n{one.text}\n" for one in written)


def _title(one: Written) -> str:
    prompt = f'"{one.prompt}"' if one.prompt else "a new document"
    number = f", {one.sample} of {one.of}" if one.of > 1 else ""
    return f"{prompt}, temperature {one.temperature:g}{number}"


def as_json(written: Sequence[Written], **about: object) -> str:
    """For programs: {**about, samples: [{prompt, temperature, sample, of, text}]}."""
    return json.dumps({**about, "samples": [asdict(one) for one in written]}, indent=1, ensure_ascii=False) + "\n"
