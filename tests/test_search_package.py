"""What travels to a cluster: the code, the spec, its base config; nothing else; and not more than Ray takes."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from data.errors import UserError
from search.jobs import package
from search.jobs.package import LIMIT, Package, check_size, code, collect, write
from search.spec.load import load_spec
from tests import journals, specs

ROOT = Path(__file__).resolve().parent.parent
REST = "space:\n  learning_rate: {log: [1e-4, 1e-2]}\n"


def packed(path: Path, tmp_path: Path, scale: str | None = None) -> tuple[Package, Path]:
    """A spec's package, unpacked as Ray would."""
    spec, _, file = load_spec(path, scale=scale)
    found = collect(path, spec, file)
    archive, target = tmp_path / "package.zip", tmp_path / "unpacked"
    write(found, archive)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(target)
    return found, target


def loads_there(found: Package, target: Path, *words: str) -> str:
    """What the code in the package says of the spec in it: `nanosweep plan` in the unpacked folder."""
    lines = "import sys; from pathlib import Path; from search.spec.load import load_spec, ROOT\n"
    lines += "spec, base, file = load_spec(Path(sys.argv[1]), scale=sys.argv[2] or None)\n"
    lines += "print(ROOT == Path.cwd(), spec.study, base.n_embd)"
    done = subprocess.run(
        [sys.executable, "-c", lines, found.spec, *(words or ("",))],
        cwd=target,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_spec_of_the_checkout_keeps_its_place_and_works_where_it_is_unpacked(tmp_path: Path) -> None:
    found, target = packed(ROOT / "search/specs/quickstart.yaml", tmp_path)
    assert found.spec == "search/specs/quickstart.yaml"
    assert found.files[found.spec] == (ROOT / found.spec).read_bytes()
    assert loads_there(found, target).startswith("True quickstart ")


def test_all_that_a_job_writes_at_its_end_can_be_written_from_the_package_alone(tmp_path: Path) -> None:
    _, target = packed(specs.write(tmp_path, REST), tmp_path)
    journals.write_study(tmp_path / "runs/quick").close()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in (["report"], ["figures"], ["leaderboard"], ["export", "-o", str(tmp_path / "best.yaml")]):
        words = [sys.executable, "-m", "search", command[0], "quick", "--storage", str(tmp_path / "runs"), *command[1:]]
        done = subprocess.run(words, cwd=target, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/quick/report.html").stat().st_size > 10_000
    assert (tmp_path / "runs/quick/figures/trials.png").exists()


def test_the_package_holds_code_spec_and_base_and_nothing_that_lies_around(tmp_path: Path) -> None:
    path = specs.write(tmp_path, REST)
    (tmp_path / "token.env").write_text("s3cret")
    found, _ = packed(path, tmp_path)
    others = {name for name in found.files if not name.endswith(".py")}
    page = {name for name in others if name.startswith(("search/report/template/", "trainer/comparison"))}
    assert others - page == {"pyproject.toml", "submitted/spec.yaml", "base.yaml"}
    rooms = {name.split("/")[0] for name in found.files if name.endswith(".py")}
    assert rooms == {"search", "trainer", "models", "data"}


def test_of_a_checkout_only_modules_of_its_rooms_are_taken(tmp_path: Path) -> None:
    for name in (
        "search/a.py",
        "search/password.txt",
        "data/.env",
        "data/deep/b.py",
        "tests/c.py",
        "train.bin",
        "d.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("s3cret")
    assert set(code(tmp_path)) == {"search/a.py", "data/deep/b.py"}


def test_a_spec_outside_of_the_checkout_travels_with_its_base(tmp_path: Path) -> None:
    found, target = packed(specs.write(tmp_path, REST), tmp_path)
    assert loads_there(found, target) == "True s 128"


@pytest.mark.parametrize("given", ["{folder}/configs/base.yaml", "../configs/base.yaml"])
def test_a_base_of_another_place_is_carried_along_and_the_line_changed_alone(tmp_path: Path, given: str) -> None:
    (tmp_path / "specs").mkdir()
    path = specs.write(tmp_path / "specs", REST)
    (tmp_path / "configs").mkdir()
    (tmp_path / "specs" / "base.yaml").rename(tmp_path / "configs" / "base.yaml")
    text = path.read_text().replace("base: base.yaml", f"base: {given.format(folder=tmp_path)}  # mine")
    path.write_text(text)
    found, target = packed(path, tmp_path)
    before, after = text.splitlines(), found.files[found.spec].decode().splitlines()
    assert [a for a, b in zip(before, after, strict=True) if a != b] == [before[1]]
    assert loads_there(found, target) == "True s 128"


def test_a_scale_with_a_base_of_its_own_takes_that_along(tmp_path: Path) -> None:
    small = tmp_path / "elsewhere" / "small.yaml"
    small.parent.mkdir()
    small.write_text(specs.BASE.replace("n_embd: 128", "n_embd: 64"))
    scales = f"scales:\n  tiny:\n    base: {small}\n"
    found, target = packed(specs.write(tmp_path, REST + scales), tmp_path, scale="tiny")
    assert loads_there(found, target, "tiny") == "True s-tiny 64"


def test_a_base_that_cannot_be_changed_in_its_line_is_refused_in_one_line(tmp_path: Path) -> None:
    path = specs.write(tmp_path, REST)
    (tmp_path / "far").mkdir()
    (tmp_path / "base.yaml").rename(tmp_path / "far" / "b.yaml")
    space = "space: {learning_rate: {log: [1e-4, 1e-2]}}"
    path.write_text(f"{{study: s, base: {tmp_path}/far/b.yaml, budget: {{trials: 4}}, {space}}}\n")
    spec, _, file = load_spec(path)
    with pytest.raises(UserError, match=r"spec\.yaml:1: base: .*cannot be carried") as caught:
        collect(path, spec, file)
    assert "\n" not in str(caught.value)


def test_equal_files_make_an_equal_package_which_is_sent_once(tmp_path: Path) -> None:
    path = specs.write(tmp_path, REST)
    spec, _, file = load_spec(path)
    for name in ("a", "b"):
        write(collect(path, spec, file), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_our_limit_is_the_one_that_ray_has() -> None:
    from ray._private import ray_constants

    assert LIMIT == ray_constants.DASHBOARD_CLIENT_MAX_SIZE


def test_a_package_over_the_limit_is_refused_with_its_largest_files(tmp_path: Path) -> None:
    files = {**code(), "search/weights.py": os.urandom(2**20), "data/big.py": os.urandom(2**21)}
    archive = tmp_path / "package.zip"
    write(Package(files, ""), archive)
    check_size(archive, archive.stat().st_size)
    with pytest.raises(UserError) as caught:
        check_size(archive, 2**21)
    said = str(caught.value)
    assert "\n" not in said
    assert "more than the 2 MiB that Ray takes" in said
    assert said.index("data/big.py 2 MiB") < said.index("search/weights.py 1 MiB")


def test_writing_checks_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(package, "check_size", seen.append)
    write(Package({"a": b""}, "a"), tmp_path / "package.zip")
    assert seen == [tmp_path / "package.zip"]
