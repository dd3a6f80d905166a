"""A stopping rule that nobody has: what has to be written for it, and that everything follows from that.

Three files, in a copy of the code:

    search/stopping/threshold.py     the rule and its settings, as search/stopping/rule.py shows it (new)
    search/stopping/registry.py      its import and its name in YAML
    search/specs/spec.schema.json    written by `python -m search.spec.schema`

The tests of every rule (tests/test_search_stopping.py), of the rooms and of the schema then hold for it as they stand.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from search.stopping import rule
from tests.waiting import CEILING

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = "specs/spec.schema.json"
REGISTRY = (
    ("from search.stopping.rule import", "from search.stopping.threshold import ThresholdSettings\n"),
    ("    median: MedianSettings", "    threshold: ThresholdSettings | None = None\n"),
)


def example() -> str:
    """The rule that the docstring of search/stopping/rule.py shows."""
    lines = (rule.__doc__ or "").splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith(" " * 4))
    last = max(at for at, line in enumerate(lines) if line.startswith(" " * 4))
    return textwrap.dedent("\n".join(lines[first : last + 1])) + "\n"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code with one rule more."""
    folder = tmp_path_factory.mktemp("copy")
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("models", "data", "trainer", "search", "tests", "docker"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "search" / "stopping" / "threshold.py").write_text(example())
    registry = folder / "search" / "stopping" / "registry.py"
    text = registry.read_text()
    for before, line in REGISTRY:
        at = text.index("\n", text.index(before)) + 1
        text = text[:at] + line + text[at:]
    registry.write_text(text)
    schema = run(folder, "-m", "search.spec.schema")
    (folder / "search" / SCHEMA).write_text(schema)
    return folder


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=CEILING)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


def test_three_files_are_touched(copy: Path) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        paths = [path for path in (folder / "search").rglob("*") if path.is_file() and path.suffix != ".pyc"]
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    before, after = files(ROOT), files(copy)
    touched = {name for name in before | after if before.get(name) != after.get(name)}
    assert touched == {f"search/{name}" for name in ("stopping/threshold.py", "stopping/registry.py", SCHEMA)}


def test_every_test_of_a_rule_holds_for_a_new_one_as_it_stands(copy: Path) -> None:
    tests = [f"tests/test_search_{name}.py" for name in ("stopping", "schema")] + ["tests/test_architecture.py"]
    told = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", "threshold or current or circle")
    passed = int(told.splitlines()[-1].split(" passed")[0].split()[-1])
    assert passed >= 20, told
    assert " failed" not in told


def test_its_schema_is_in_the_file_that_editors_read(copy: Path) -> None:
    schema = json.loads((copy / "search" / SCHEMA).read_text())
    assert [*schema["$defs"]["Scheduler"]["properties"]][-1] == "threshold"
    assert schema["$defs"]["ThresholdSettings"]["properties"]["tolerance"]["default"] == 0.5


def test_a_study_with_it_ends_trials_and_resumes(copy: Path) -> None:
    code = "import search, json; from tests import simulated; from collections import Counter\n"
    code += "study = simulated.study(scheduler={'threshold': {'first_rung': 1000, 'tolerance': 2}}, dies=60.0)\n"
    code += "print(json.dumps([search.__file__, len(study.sessions), Counter(t.status for t in study.searched)]))"
    place, drivers, ends = json.loads(run(copy, "-c", code))
    assert Path(place).is_relative_to(copy)
    assert drivers == 2
    assert ends["pruned"] >= 5
    assert ends["completed"] >= 5
