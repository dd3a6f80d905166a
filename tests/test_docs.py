"""README and docs/ are true: what they print runs in a clean clone, or says what it needs, and is parsed at least."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from pydantic import BaseModel

from search.cli.main import parser
from search.service import background
from search.spec import study_spec
from search.spec.check import check
from search.spec.load import load_spec
from tests.pages import ROOT, Block, blocks, commands, headings, links, pages, prose
from tests.waiting import CEILING, until
from trainer.config import TrainConfig, has_key, load

PAGES = pages()
BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in BLOCKS if block.language == "sh"]
SPEC = "study: page\nbase: trainer/configs/stories.yaml\n"
SPACE, BUDGET = {"learning_rate": {"log": [1e-4, 1e-2]}}, {"trials": 4}
PLAIN = {".", "cat", "cd", "cp", "export", "git", "grep", "head", "kubectl", "pip", "printf", "pytest", "ray", "ssh"}
MARK = "NANOSWEEP_PAGE"  # in the environment of all that a page starts
PORTS = {8265: "127.0.0.1", 5000: "127.0.0.1", 6379: "0.0.0.0"}  # of `nanosweep up`, as printed


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


# what runs


class Clone:
    """A clean clone, with what is not committed yet, and a user in it who has nothing else."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder / "nanosweep"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.folder)], check=True, timeout=CEILING)
        changed = subprocess.run(["git", "diff", "HEAD", "--name-only"], cwd=ROOT, capture_output=True, text=True)
        for path in changed.stdout.split():
            if (ROOT / path).is_file():
                (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / path, self.folder / path)
        (self.folder / ".venv").symlink_to(sys.prefix)  # as `make setup` leaves it
        ours = ("RAY_", "MLFLOW_", "NANOSWEEP_", "XDG_", "HF_", "TIKTOKEN_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        path = f"{Path(sys.executable).parent}:{kept.get('PATH', '')}"
        here = {"PATH": path, "PYTHONPATH": str(self.folder), "HOME": str(home), MARK: str(self.folder)}
        self.environment = kept | here | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(self, script: str, log: Path, seconds: float) -> int:
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-eu", "-o", "pipefail", "-c", script],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return -1

    def end(self) -> None:
        """End whatever the page has left behind."""
        if (self.folder / "runs" / ".service").exists():
            down = [sys.executable, "-m", "search", "down"]
            subprocess.run(down, cwd=self.folder, env=self.environment, capture_output=True, timeout=CEILING)
        until(lambda: not self.killed(), "the end of what a page started")

    def killed(self) -> list[psutil.Process]:
        """What lived until now."""
        left = self.processes()
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        return left

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == str(self.folder):
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def clone(tmp_path: Path, home: Path) -> Iterator[Clone]:
    if not (ROOT / ".git").exists():
        pytest.skip("a clone needs a git checkout")
    made = Clone(tmp_path, home)
    try:
        yield made
    finally:
        made.end()


def script(page: Path) -> str:
    """The page's blocks as one shell session, which says before each where it stands."""
    parts = []
    for block in blocks(page):
        if block.needs is None and block.language in ("sh", "python"):
            text = block.text if block.language == "sh" else f"python - <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK\n"
            parts.append(f"echo '##### {block}'\n{text}")
    return "\n".join(parts)


@pytest.mark.slow
@pytest.mark.timeout(3 * CEILING)  # a page is many commands
@pytest.mark.parametrize("page", [page for page in PAGES if script(page)], ids=name)
def test_the_blocks_of_a_page_run_in_a_clean_clone_as_printed(page: Path, clone: Clone, tmp_path: Path) -> None:
    text = script(page)
    if "nanosweep up" in text and not all(background.free(port, host) for port, host in PORTS.items()):
        pytest.skip(f"one of the ports {', '.join(map(str, PORTS))} is taken on this machine")
    log = tmp_path / "log"
    code = clone.run(text, log, 2 * CEILING)
    said = log.read_text(errors="replace")
    assert code == 0, f"exit code {code}\n{said[-6000:]}"
    assert not (clone.folder / "runs" / ".service" / "state.json").exists(), "a page that says up says down"
    assert not list(clone.folder.glob("mlflow.db*")), "MLflow made a store in the working directory"


# what is parsed


def test_every_block_has_a_language_that_is_looked_at() -> None:
    assert {block.language for block in BLOCKS} <= {"sh", "python", "yaml", "text"}


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_every_command_exists(block: Block) -> None:
    for words in commands(block.text):
        check_command(words)
        for word in words:
            path = word.removeprefix("/app/")
            if re.match(r"(search/specs|trainer/configs|docker)/\S+\.\w+$", path) and path != "docker/.env":
                assert (ROOT / path).is_file(), path
    assert commands(block.text)


def check_command(words: list[str]) -> None:
    command = words[0].rpartition("/")[2]
    if command == "nanosweep":
        check_nanosweep(words[1:])
    elif command == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    elif words[:2] == ["docker", "compose"]:
        check_compose(words)
    elif command in ("python", "torchrun") or words[:3] == ["ray", "job", "submit"]:
        if "-m" in words:
            check_module(words[words.index("-m") + 1], words[words.index("-m") + 2 :])
    else:
        assert command in PLAIN, words


def check_module(module: str, words: list[str]) -> None:
    if module == "search":
        check_nanosweep(words)
    elif module == "trainer":
        from trainer.__main__ import parser as of_trainer

        of_trainer().parse_args(words)
    else:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def check_nanosweep(words: list[str]) -> None:
    if words[0] == "train":
        from search.run.full_run import parser as of_train

        given = of_train().parse_args(words[1:])
    elif words[0] == "sample":
        from trainer.sample import parser as of_sample

        given = of_sample().parse_args(words[1:])
    else:
        given = parser().parse_args(words)
    for text in getattr(given, "set", None) or []:
        assert has_key(text.partition("=")[0]), text
    if (scale := getattr(given, "scale", None)) and (ROOT / given.spec).exists():
        assert scale in yaml.safe_load((ROOT / given.spec).read_text())["scales"]


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


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_within_sentences_exist(page: Path) -> None:
    known = {*subcommands(), "COMMAND"}
    named = set(re.findall(r"`nanosweep ([a-z]+)", prose(page)))
    assert named <= known
    modules = re.findall(r"`(?:python -m|torchrun [^`]*-m) ([a-z_.]+)", prose(page))
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for path in re.findall(r"`((?:search/specs|trainer/configs|tests|docker)/[\w./-]+)`", prose(page)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=str)
def test_yaml_is_a_spec_a_config_or_a_part_of_one(block: Block, tmp_path: Path) -> None:
    value = yaml.safe_load(block.text)
    path = tmp_path / "block.yaml"
    if set(value) <= set(TrainConfig.model_fields):
        path.write_text(block.text)
        load(path)
        return
    assert set(value) <= set(study_spec.StudySpec.model_fields), set(value)
    missing = {"study": "page", "base": "trainer/configs/stories.yaml", "space": SPACE, "budget": BUDGET}
    rest = {key: item for key, item in missing.items() if key not in value}
    path.write_text(block.text + (yaml.safe_dump(rest) if rest else ""))
    for scale in (None, *value.get("scales", {})):
        check(*load_spec(path, scale=scale))


# what is complete


def subcommands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command; train and sample have their own."""
    from search.run.full_run import parser as of_train
    from trainer.sample import parser as of_sample

    action = next(one for one in parser()._actions if isinstance(one, argparse._SubParsersAction))
    return {**action.choices, "train": of_train(), "sample": of_sample()}


def test_every_command_and_option_is_on_its_page() -> None:
    page = prose(ROOT / "docs" / "commands.md")
    sections = dict(re.findall(r"^### `nanosweep ([a-z]+)`\n(.*?)(?=^##|\Z)", page, re.M | re.S))
    assert set(sections) == set(subcommands())
    for command, made in subcommands().items():
        options = {option for action in made._actions for option in action.option_strings if option.startswith("--")}
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", sections[command]))
        assert named == options - {"--help"}, command


def test_every_key_of_a_spec_and_of_a_config_is_on_its_page() -> None:
    named = set(re.findall(r"`([a-z_0-9]+)`", read("docs/search-spec.md")))
    parts: list[Any] = [getattr(study_spec, part) for part in dir(study_spec)]
    models = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
    keys = {key for model in (*models, TrainConfig) for key in model.model_fields}
    assert keys <= named, sorted(keys - named)


def test_the_room_table_names_every_room() -> None:
    rooms = set(re.findall(r"^\| `(search/[a-z]+/)`", read("docs/architecture.md"), re.M))
    assert rooms == {f"search/{path.parent.name}/" for path in (ROOT / "search").glob("*/__init__.py")}


def test_readme_is_finished_by_a_newcomer() -> None:
    assert len(read("README.md").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES[1:], ids=name)
def test_a_page_opens_with_the_questions_that_it_answers(page: Path) -> None:
    title, questions = page.read_text().split("\n\n")[:2]
    assert title.startswith("# ")
    assert questions.endswith("?*"), questions


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), target
        assert not anchor or anchor in headings(place), target


def test_every_page_is_linked_from_readme() -> None:
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= set(links(PAGES[0]))


def read(path: str) -> str:
    return (ROOT / path).read_text()
