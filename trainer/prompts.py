"""Read prompts from a file; format the texts that a model wrote for them, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data.errors import UserError


@dataclass(frozen=True)
class Prompt:
    """The text to be continued; place: file and line number, for messages."""

    place: str
    text: str


@dataclass(frozen=True)
class Written:
    """One text that a model wrote, with its prompt and temperature. sample: its number, from 1 to `of`."""

    prompt: str
    temperature: float
    sample: int
    of: int
    text: str


def read_prompts(path: Path) -> list[Prompt]:
    """Read the lines of a file that are not blank. Raises UserError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); --prompts is a text file, one prompt per line") from None
    prompts = [Prompt(f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise UserError(f"{path} has no prompt; write one per line")
    return prompts


def as_text(written: Sequence[Written]) -> str:
    """Format for people: only the texts if all have one prompt and temperature, else each under a line that names
    both."""
    if len({(item.prompt, item.temperature) for item in written}) == 1:
        return "\n---\n".join(item.text for item in written) + "\n"
    return "\n".join(f"── {_title(item)} ──\n{item.text}\n" for item in written)


def _title(item: Written) -> str:
    prompt = f'"{item.prompt}"' if item.prompt else "a new document"
    number = f", {item.sample} of {item.of}" if item.of > 1 else ""
    return f"{prompt}, temperature {item.temperature:g}{number}"


def as_json(written: Sequence[Written], **facts: object) -> str:
    """Format as JSON, for programs: {**facts, samples: [{prompt, temperature, sample, of, text}]}."""
    return json.dumps({**facts, "samples": [asdict(item) for item in written]}, indent=1, ensure_ascii=False) + "\n"
