"""What is imported is declared in pyproject.toml, and what is declared is pinned in constraints.txt."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("search", "trainer", "models", "data")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in requirements}


def imported(folders: tuple[str, ...]) -> dict[str, str]:
    """Top-level names that the files of some folders import, ours and Python's left out, with a file of each."""
    names: dict[str, str] = {}
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                modules = [node.module]
            names.update({module.partition(".")[0]: str(path.relative_to(ROOT)) for module in modules})
    ours = {*ROOMS, "tests", *sys.stdlib_module_names}
    return {name: file for name, file in names.items() if name not in ours}


def undeclared(folders: tuple[str, ...], declared: set[str]) -> dict[str, str]:
    providers = packages_distributions()
    return {
        name: file
        for name, file in imported(folders).items()
        if not declared & {normal(distribution) for distribution in providers.get(name, [name])}
    }


EXTRAS = PROJECT["optional-dependencies"]


def test_what_the_program_imports_is_declared() -> None:
    assert undeclared((*ROOMS, "docker"), distributions([*PROJECT["dependencies"], *EXTRAS["compat"]])) == {}


def test_what_the_tests_import_is_declared() -> None:
    every = [*PROJECT["dependencies"], *(need for extra in EXTRAS.values() for need in extra)]
    assert undeclared(("tests",), distributions(every)) == {}


def test_what_is_declared_is_pinned() -> None:
    pins = {normal(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    every = [*PROJECT["dependencies"], *(need for extra in EXTRAS.values() for need in extra)]
    assert distributions(every) - pins - {normal(PROJECT["name"])} == set()
