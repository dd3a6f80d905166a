"""References to the user's own code: what is one, where modules are looked for, what each failure answers."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data import own_code
from data.errors import UserError
from data.own_code import is_reference, load, source_files, source_hash
from tests.waiting import CEILING

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory of one's own, with `sys.path` as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def own(text: str) -> object:
    return load(text, allow_code=True, kind="loss")


def refused(text: str, **options: bool) -> str:
    with pytest.raises(UserError) as raised:
        load(text, **{"allow_code": True, "kind": "loss"} | options)  # type: ignore[arg-type]
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(f"loss {text}")
    return message


@pytest.mark.parametrize("text", ["my_module:MyLoss", "a.b.c:d", "_a:_B", "ünï:Cöde", "text:notes"])
def test_two_identifiers_around_a_colon_are_a_reference(text: str) -> None:
    assert is_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        *("bpe:512", "gpt2:a/b", "text:a.txt", "stories:20000", "hf:org/name", "jsonl:a#b", "cross_entropy"),
        *("", ":", "a:", ":b", "a:b:c", "a b:c", "a.:b", ".a:b", "a:b.c", "a:class", "import:x", "../a:b", None, 3),
    ],
)
def test_everything_else_is_no_reference(text: object) -> None:
    assert not is_reference(text)


def test_the_kinds_of_a_field_win_over_a_module_of_that_name() -> None:
    assert not is_reference("text:notes", kinds=("text", "hf"))
    assert is_reference("mine.text:notes", kinds=("text", "hf"))


def test_a_name_of_the_working_directory_is_loaded(here: Path) -> None:
    (here / "mine_a.py").write_text("from mine_b import VALUE\nclass MyLoss:\n    value = VALUE\n")
    (here / "mine_b.py").write_text("VALUE = 3\n")
    assert own("mine_a:MyLoss").value == 3  # type: ignore[attr-defined]


def test_without_permission_nothing_is_imported(here: Path) -> None:
    (here / "mine_c.py").write_text("from pathlib import Path\nPath('ran').touch()\nX = 1\n")
    message = refused("mine_c:X", allow_code=False)
    assert "--allow-code" in message
    assert "runs the code" in message
    source_hash("mine_c:X")
    assert not (here / "ran").exists()
    own("mine_c:X")
    assert (here / "ran").exists()


def test_changed_source_is_imported_anew_and_hashes_otherwise(here: Path) -> None:
    file = here / "mine_d.py"
    file.write_text("X = 1\n")
    first, digest = own("mine_d:X"), source_hash("mine_d:X")
    file.write_text("X = 2\n")  # as long as before, within the same second
    assert (first, own("mine_d:X")) == (1, 2)
    assert source_hash("mine_d:X") != digest
    assert digest == hashlib.sha256(b"X = 1\n").hexdigest()


def test_unchanged_source_is_imported_once(here: Path) -> None:
    (here / "mine_e.py").write_text("class X: pass\n")
    assert own("mine_e:X") is own("mine_e:X")


def test_another_working_directory_means_another_module(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, value in (("one", 1), ("two", 2)):
        (here / folder).mkdir()
        (here / folder / "mine_f.py").write_text(f"X = {value}\n")
        monkeypatch.chdir(here / folder)
        assert own("mine_f:X") == value
    assert load("mine_f:X", allow_code=True, kind="loss", directory=here / "one") == 1


def test_a_package_is_hashed_whole(here: Path) -> None:
    (here / "mine_g").mkdir()
    (here / "mine_g" / "__init__.py").write_text("")
    (here / "mine_g" / "part.py").write_text("from mine_g.other import X\n")
    (here / "mine_g" / "other.py").write_text("X = 1\n")
    assert own("mine_g.part:X") == 1
    digest = source_hash("mine_g.part:X")
    assert [file.name for file in source_files("mine_g.part:X")] == ["__init__.py", "other.py", "part.py"]
    (here / "mine_g" / "other.py").write_text("X = 2\n")
    assert source_hash("mine_g.part:X") != digest
    assert own("mine_g.part:X") == 2


def test_an_installed_module_is_hashed_by_its_own_file() -> None:
    (file,) = source_files("numpy.random:default_rng")
    assert file.parts[-3:] == ("numpy", "random", "__init__.py")
    assert source_hash("numpy.random:default_rng") == hashlib.sha256(file.read_bytes()).hexdigest()
    assert callable(own("numpy.random:default_rng"))


def test_what_only_pythonpath_names_is_not_found(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "elsewhere").mkdir()
    (here / "elsewhere" / "mine_h.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(here / "elsewhere")
    assert "no module mine_h" in refused("mine_h:X")


def test_a_users_data_folder_does_not_shadow_ours(here: Path) -> None:
    for package in ("data", "models", "trainer", "search"):
        (here / package).mkdir()
        (here / package / "__init__.py").write_text("raise RuntimeError('not ours')\n")
        (here / package / "mine.py").write_text("X = 1\n")
    (here / "mine_i.py").write_text("from models.config import GPT2_SHAPES\nfrom data.errors import UserError as X\n")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from data.own_code import load, UserError\n"
        "assert load('mine_i:X', allow_code=True, kind='loss') is UserError"
    )
    # -P: as the console script starts, without the working directory on sys.path
    subprocess.run([sys.executable, "-P", "-c", code], cwd=here, check=True, timeout=CEILING)
    assert "models is a package of this program" in refused("models.mine:X")


def test_an_installed_name_in_the_working_directory_is_refused(here: Path) -> None:
    (here / "numpy.py").write_text("X = 1\n")
    (here / "random.py").write_text("X = 1\n")
    assert "rename yours" in refused("numpy:X")
    assert "rename yours" in refused("random:X")


def test_a_folder_needs_an_init(here: Path) -> None:
    (here / "mine_j").mkdir()
    (here / "mine_j" / "part.py").write_text("X = 1\n")
    assert "no __init__.py" in refused("mine_j.part:X")


def test_missing_modules_and_names_answer_with_the_nearest(here: Path) -> None:
    (here / "mine_k.py").write_text("class MyLoss: pass\n")
    assert "did you mean mine_k?" in refused("mine_kk:MyLoss")
    assert "did you mean MyLoss?" in refused("mine_k:MyLos")
    assert "has no module part" in refused("mine_k.part:MyLoss")
    assert "__main__" in refused("__main__:MyLoss")
    assert "module:Name" in refused("mine_k")


@pytest.mark.parametrize(
    ("source", "line", "reason"),
    [
        ("X = 1\nX = (\n", 2, "SyntaxError"),
        ("X = 1\n\nraise ValueError('two\\nlines')\n", 3, "ValueError: two\\nlines"),
        ("import no_such_module_at_all\n", 1, "ModuleNotFoundError"),
        ("import json\njson.loads('{')\n", 2, "JSONDecodeError"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
    ],
)
def test_a_failed_import_names_file_and_line(here: Path, source: str, line: int, reason: str) -> None:
    file = here / "mine_l.py"
    file.write_text(source)
    message = refused("mine_l:X")
    assert f"{file}:{line}: " in message
    assert reason in message
    assert "mine_l" not in sys.modules
    file.write_text("X = 1\n")
    assert own("mine_l:X") == 1


def test_importing_the_resolver_changes_nothing() -> None:
    code = "import sys; before = list(sys.path); import data.own_code; assert sys.path == before"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=CEILING)
    assert set(own_code.OUR_PACKAGES) == {"search", "trainer", "models", "data"}
