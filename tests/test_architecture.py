"""Who may import whom. If one of these fails, move the code, not the lines below."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("models", "data", "trainer", "search")
MAY_IMPORT = {
    "models": {"models"},
    "data": {"data"},
    "trainer": {"trainer", "models", "data"},
    "search": {"search", "trainer", "models", "data"},
}
# the rooms of search/, from the ground up: each imports itself and those before it
ROOMS = (
    *("stats", "stopping", "spec", "study", "strategy", "results", "report"),
    *("tracking", "service", "run", "jobs", "cli"),
)
TOP = {"__init__", "__main__", "leaderboard"}  # in no room: what users start and import
# the adapters: the only files that know these libraries
VENDORS = {
    "ray": {
        "search/run/trainable.py",
        "search/run/driver.py",
        "search/run/scheduler.py",
        "search/run/searcher.py",
        "search/run/ray_session.py",
        "search/run/resources.py",
        "search/run/room.py",
        "search/run/settle_dtype.py",
        "search/run/watch.py",
        "search/run/nodes.py",
        "search/jobs/ray_jobs.py",
        "search/run/train_workers.py",
    },
    "optuna": {"search/strategy/sampler.py", "search/results/importance.py"},
    "mlflow": {
        "search/tracking/mlflow_store.py",
        "search/tracking/mlflow_runs.py",
        "search/tracking/registry.py",
        "search/tracking/champion.py",
    },
    "transformers": {"trainer/model_comparison.py"},
    "matplotlib": {"search/report/figures.py"},
}
SHORTEST, LONGEST = 30, 500  # lines: a file has one duty, and is read in one sitting


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def named(path: Path) -> set[str]:
    """Every module that a file imports, those inside functions included; `from a import b` names a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import; name the whole path"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def imported(path: Path) -> set[str]:
    """The top-level names among them."""
    return {name.split(".")[0] for name in named(path)}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = imported(path) & {*PACKAGES, "tests"}
    assert ours <= MAY_IMPORT[package], f"{path.name} imports {sorted(ours - MAY_IMPORT[package])}"


def test_search_consists_of_its_rooms() -> None:
    assert {path.name for path in (ROOT / "search").iterdir() if (path / "__init__.py").exists()} == {*ROOMS}
    assert {path.stem for path in (ROOT / "search").glob("*.py")} == TOP


def test_every_room_is_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {*setuptools["packages"]} >= {*PACKAGES, *(f"search.{room}" for room in ROOMS)}


@pytest.mark.parametrize("path", sorted((ROOT / "search").glob("*/*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_itself_and_those_before_it(path: Path) -> None:
    allowed = {*ROOMS[: ROOMS.index(path.parent.name) + 1]}
    rooms = {name.split(".")[1] for name in named(path) if name.startswith("search.")}
    assert rooms <= allowed, f"{path.parent.name}/{path.name} imports upward: {sorted(rooms - allowed)}"


def test_no_files_import_each_other_in_a_circle() -> None:
    modules = {module_of(path): path for path in sources() if path.name != "__init__.py"}
    arrows = {module: named(path) & modules.keys() - {module} for module, path in modules.items()}
    while leaves := [module for module, targets in arrows.items() if not targets]:
        for module in leaves:
            del arrows[module]
        arrows = {module: targets - {*leaves} for module, targets in arrows.items()}
    assert not arrows, f"these import each other, or what does: {sorted(arrows)}"


@pytest.mark.parametrize("vendor", sorted(VENDORS))
def test_only_the_adapters_know_the_vendors(vendor: str) -> None:
    knowing = {str(path.relative_to(ROOT)) for path in sources() if vendor in imported(path)}
    assert knowing <= VENDORS[vendor], f"{vendor} is imported in {sorted(knowing - VENDORS[vendor])}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    text = path.read_text()
    lines = len(text.splitlines())
    assert lines <= LONGEST
    assert lines >= SHORTEST or path.stem in ("__init__", "__main__"), "merge it with what it belongs to"
    assert ast.get_docstring(ast.parse(text)), "a file opens with what it is for"


def test_docker_is_no_package() -> None:
    # it would shadow the docker SDK that MLflow imports
    assert not (ROOT / "docker" / "__init__.py").exists()


def test_importing_a_room_loads_nothing_heavy() -> None:
    code = "import sys, search.cli.main, search.spec.study_spec, search.study.study\n"
    code += "import search.report.gallery, search.report.figures\n"
    code += "import trainer.config, models.config, data.dataset\n"
    code += "heavy = ('torch', 'ray', 'optuna', 'mlflow', 'pandas', 'datasets', 'matplotlib')\n"
    code += "print([m for m in heavy if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scoring_and_sampling_do_not_load_the_compiler() -> None:
    # torch._dynamo takes longer to import than torch: only optimizers and `compile: true` need it
    code = "import sys, trainer.loop, trainer.sample, search.run.study_run; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
