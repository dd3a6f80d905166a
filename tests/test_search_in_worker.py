"""Our packages are imported from where the driver has them, in workers and in commands, whatever the working directory
holds; an import that fails is said with its file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

from data.errors import UserError
from search.run import in_worker, trainable
from search.run.train_workers import Notes, describe
from tests import foreign

ROOT = Path(__file__).resolve().parent.parent
OURS = "{m for m in sys.modules if m.split('.')[0] in ('search', 'trainer', 'models', 'data')}"


def python(folder: Path, code: str, stdin: bytes = b"") -> str:
    """What a fresh Python prints whose sys.path begins with that folder."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {code}"]
    done = subprocess.run(command, input=stdin, capture_output=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_a_worker_imports_ours_whatever_its_path_begins_with(tmp_path: Path) -> None:
    foreign.fill(tmp_path, trainer=True)
    sent = cloudpickle.dumps([trainable.trainable(), in_worker.call("data.own_code", "is_reference")])
    code = f"import pickle; sent = pickle.load(sys.stdin.buffer); print({OURS}, sent[1]('a:b'))"
    assert python(tmp_path, code, sent) == "set() True"  # nothing of ours is imported by unpickling


def test_the_controller_of_a_full_run_has_imported_ours_before_it_hears_of_an_error(tmp_path: Path) -> None:
    foreign.fill(tmp_path, trainer=True)
    sent = cloudpickle.dumps(Notes(str(tmp_path / "notes"))), cloudpickle.dumps(UserError("x"))
    code = "import pickle; print(*(type(pickle.loads(each)).__name__ for each in eval(sys.stdin.read())))"
    assert python(tmp_path, code, repr(sent).encode()) == "Notes UserError"


@pytest.mark.parametrize("module", ["trainer.config, trainer.__main__", "search.run.trainable, search.leaderboard"])
def test_a_command_imports_ours_where_the_working_directory_is_first(module: str, tmp_path: Path) -> None:
    foreign.fill(tmp_path, trainer=module.startswith("search"))
    places = "print(*{m.__file__ for n, m in sys.modules.items() if n in ('data.dataset', 'models.config')})"
    printed = python(tmp_path, f"import {module}, models.config, data.dataset; {places}").split()
    assert sorted(printed) == [str(ROOT / "data/dataset.py"), str(ROOT / "models/config.py")]


def test_a_package_of_that_name_that_is_there_already_is_named(tmp_path: Path) -> None:
    foreign.fill(tmp_path)
    said = python(tmp_path, "import models\ntry: import search\nexcept ImportError as error: print(error)")
    assert str(tmp_path / "models/__init__.py") in said
    assert str(ROOT) in said


@pytest.mark.parametrize("text", ["\n\nraise KeyError('x')\n", "\n\ndef f(:\n", "\n\nimport no_such_module_of_ours\n"])
def test_an_import_that_fails_is_said_with_file_and_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = [*sys.path]
    said = in_worker.call("broken", "f", otherwise=str)({})
    assert f"{tmp_path / 'broken.py'}:3: " in said
    assert "\n" not in said
    with pytest.raises(ImportError) as refused:
        in_worker.call("broken", "f")({})
    assert str(refused.value) == said
    assert describe({0: refused.value})["kind"] == "bug"  # it would fail again: nothing is tried another time
    assert sys.path == before
