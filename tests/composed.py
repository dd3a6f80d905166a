"""docker/compose.yaml as Compose reads it: variables filled in from .env.example and what a test gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent.parent / "docker"
TEXT = (FOLDER / "compose.yaml").read_text()
# ${NAME}, ${NAME:-default}, ${NAME:?what to do}
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::([-?])([^}]*))?\}")


def example() -> dict[str, str]:
    """The variables of .env.example, those without a value too."""
    lines = (FOLDER / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def services(**given: str) -> dict[str, Any]:
    """The services. Raises KeyError for a variable that must be given and is not."""

    def fill(found: re.Match[str]) -> str:
        name, how, text = found.groups()
        if value := given.get(name) or example().get(name):
            return value
        if how != "-":
            raise KeyError(f"{name}: {text}")
        return str(text)

    lines = [line for line in TEXT.splitlines() if not line.lstrip().startswith("#")]
    return dict(yaml.safe_load(VARIABLE.sub(fill, "\n".join(lines)))["services"])


SECRETS = {name: f"not-a-secret-{name.lower()}" for name, value in example().items() if not value}
