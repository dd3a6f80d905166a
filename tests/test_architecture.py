"""Who may import whom. If one of these fails, move the code, not the lines below."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("search", "trainer", "models", "data")
MAY_IMPORT = {
    "models": {"models"},
    "data": {"data"},
    "trainer": {"trainer", "models", "data"},
    "search": {"search", "trainer", "models", "data"},
}
# the adapters: the only files that know these libraries
VENDORS = {
    "ray": {
        "search/trainable.py",
        "search/driver.py",
        "search/scheduler.py",
        "search/searcher.py",
        "search/resources.py",
        "search/pulse.py",
        "search/watch.py",
        "search/nodes.py",
        "search/jobs.py",
        "search/train_workers.py",
    },
    "optuna": {"search/sampler.py", "search/importance.py"},
    "mlflow": {"search/mlflow_store.py", "search/mlflow_runs.py", "search/registry.py", "search/champion.py"},
    "transformers": {"search/compare.py"},
    "matplotlib": {"search/figures.py"},
}
LONGEST = 500  # lines: read in one sitting


def sources() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Top-level names of every import in a file, those inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    ours = imported(path) & {*ROOMS, "tests"}
    assert ours <= MAY_IMPORT[room], f"{path.name} imports {sorted(ours - MAY_IMPORT[room])}"


@pytest.mark.parametrize("vendor", sorted(VENDORS))
def test_only_the_adapters_know_the_vendors(vendor: str) -> None:
    knowing = {str(path.relative_to(ROOT)) for path in sources() if vendor in imported(path)}
    assert knowing <= VENDORS[vendor], f"{vendor} is imported in {sorted(knowing - VENDORS[vendor])}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST
    assert ast.get_docstring(ast.parse(text)), "a file opens with what it is for"


def test_docker_is_no_package() -> None:
    # it would shadow the docker SDK that MLflow imports
    assert not (ROOT / "docker" / "__init__.py").exists()


def test_importing_a_room_loads_nothing_heavy() -> None:
    code = "import sys, search.cli, search.spec, search.study, search.gallery, search.figures\n"
    code += "import trainer.config, models.config, data.dataset\n"
    code += "heavy = ('torch', 'ray', 'optuna', 'mlflow', 'pandas', 'datasets', 'matplotlib')\n"
    code += "print([m for m in heavy if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
