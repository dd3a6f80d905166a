"""README says what is there: its tree names every file, its commands exist, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands() -> list[str]:
    """Each command of the `sh` blocks, continuation lines joined, comments and prompts removed."""
    text = "\n".join(blocks("sh")).replace("\\\n", " ")
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_readme_exists(line: str) -> None:
    words = [word for word in shlex.split(line) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
        assert {w for w in words[1:] if "=" not in w} <= set(targets)
    elif words[0] == "nanosweep":
        check_nanosweep(words[1:])
    elif words[:2] == ["python", "-m"] or "-m" in words[:4]:
        module = words[words.index("-m") + 1]
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists() or (ROOT / module / "__main__.py").exists()
    elif words[:2] == ["docker", "compose"]:
        check_compose(words)
    elif words[0] == "cp":
        assert (ROOT / words[1]).exists()
    else:
        assert words[0] in ("git", "cd", "ray", "pip", "export", ".venv/bin/nanosweep"), line
    for word in words:
        if re.match(r"(search/specs|trainer/configs)/", word):
            assert (ROOT / word).exists(), word


def check_compose(words: list[str]) -> None:
    assert words[2] == "-f"
    services = yaml.safe_load((ROOT / words[3]).read_text())["services"]
    if "--profile" in words:
        profiles = [profile for service in services.values() for profile in service.get("profiles", [])]
        assert words[words.index("--profile") + 1] in profiles
    if "exec" in words:
        service, command, *rest = words[words.index("exec") + 1 :]
        assert service in services
        assert command == "nanosweep"
        check_nanosweep(rest)
        assert all((ROOT / word.removeprefix("/app/")).is_file() for word in rest if word.startswith("/app/"))


def check_nanosweep(words: list[str]) -> None:
    from search.cli.main import parser

    if words[0] == "train":
        from search.run.full_run import parser as parser_of_train

        parser_of_train().parse_args(words[1:])
    elif words[0] == "sample":
        from trainer.sample import parser as parser_of_sample

        parser_of_sample().parse_args(words[1:])
    else:
        parser().parse_args(words)
