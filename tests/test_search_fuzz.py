"""Whatever stands in a spec, a config, a journal or a `--set`: it is read, or refused in one line; nothing is written.

NANOSWEEP_FUZZ=10000 pytest tests/test_search_fuzz.py    # so many inputs of all kinds together; by default 400
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import UserError
from search.cli.main import main
from search.results import export, table
from search.spec.check import check
from search.spec.load import ROOT, load_spec
from search.spec.study_spec import StudySpec
from search.strategy.stopping import rebuild
from search.study.folder import held, write_spec
from search.study.journal import NAME
from search.study.study import read_study
from tests import journals, mutations
from trainer.config import TrainConfig, load

WHOLE = int(os.environ.get("NANOSWEEP_FUZZ", "400"))
LONGEST = 5.0  # seconds of this process for one input: a hang, or a square where a line would do, is longer
CONFIGS = [path.read_text() for path in sorted((ROOT / "trainer/configs").glob("*.yaml"))]
SPECS = [path.read_text() for path in sorted((ROOT / "search/specs").glob("*.yaml"))]
KEYS = [*StudySpec.model_fields, *TrainConfig.model_fields]
OVERRIDE = st.builds(
    lambda key, sign, value: f"{key}{sign}{value}",
    st.sampled_from([*TrainConfig.model_fields, "lr", ""]) | st.text(max_size=8),
    st.sampled_from(["=", "", "==", " = "]),
    st.sampled_from([*mutations.TEXTS, *mutations.WORDS, *map(str, mutations.NUMBERS)]) | st.text(max_size=20),
)

OVERRIDES = st.just([]) | st.lists(OVERRIDE, max_size=2)


def fuzz(share: float) -> Callable[[Any], Any]:
    """So many examples of all; the same ones each time where there are few."""
    return settings(
        max_examples=max(1, round(WHOLE * share)),
        deadline=None,
        derandomize=WHOLE < 1000,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def one_line() -> Iterator[None]:
    """What happens inside ends well or in a UserError of one printable line, and soon."""
    begun = time.process_time()
    try:
        yield
    except UserError as error:
        said = str(error)
        assert said.strip()
        assert said.isprintable(), f"not one printable line: {said!r}"
        assert len(said) < 2500, f"{len(said)} characters: {said[:300]}"
    assert time.process_time() - begun < LONGEST


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to read in: what is left of it must be what was there. Relative paths lead into it."""
    folder = tmp_path_factory.mktemp("fuzz") / "a" / "b"
    folder.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@fuzz(0.15)
@given(content=mutations.yaml_texts(CONFIGS, KEYS), overrides=OVERRIDES)
def test_any_config_is_read_or_refused_in_one_line(place: Path, content: bytes, overrides: list[str]) -> None:
    (place / "c.yaml").write_bytes(content)
    with one_line():
        load(place / "c.yaml", overrides)


@fuzz(0.45)
@given(
    content=mutations.yaml_texts(SPECS, KEYS),
    overrides=OVERRIDES,
    scale=st.none() | st.none() | st.sampled_from(["tiny", "cpu", "", "../x"]) | st.text(max_size=8),
    name=st.none() | st.sampled_from(mutations.NAMES) | st.text(max_size=70),
)
def test_any_spec_is_checked_or_refused_in_one_line_and_its_study_stays_in_the_storage(
    place: Path, content: bytes, overrides: list[str], scale: str | None, name: str | None
) -> None:
    (place / "spec.yaml").write_bytes(content)
    before = files(place.parent.parent)
    storage = place / "runs"
    with one_line():
        spec, base, file = load_spec(place / "spec.yaml", overrides, scale)
        check(spec, base, file)
        assert spec.folder.name == spec.study
        spec = spec.model_copy(update={"storage": str(storage), "study": spec.study})
        with held(spec.folder):
            write_spec(spec)
            assert {path.parent for path in storage.rglob("*") if path.is_file()} == {storage / spec.study}
    with one_line():
        main_name(place, name)
    assert files(place.parent.parent) == before


def main_name(place: Path, name: str | None) -> None:
    """`--name`: as the command reads it."""
    from argparse import Namespace

    from search.cli.main import _load

    if name is not None:
        spec = ROOT / "search/specs/quickstart.yaml"
        limits = {"trials": None, "tokens": None, "hours": None}
        options = Namespace(spec=spec, set=[], scale=None, name=name, storage=str(place / "runs"), **limits)
        spec, _, _ = _load(options)
        assert spec.folder.parent == place / "runs"


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A journal of every kind of record."""
    folder = tmp_path_factory.mktemp("journal") / "quick"
    ledger = journals.write_study(folder)
    taken = {"study": "old", "trial": 0, "point": {"learning_rate": 1e-3}, "status": "completed", "tokens": 8000}
    ledger.write("prior", trials=[{**taken, "scores": {"8000": 4.0}, "objective": 4.0}])
    ledger.write("point", trial=7, point={"learning_rate": 2e-3}, config=TrainConfig().model_dump(), of=1, round=1)
    journals.start(ledger, 7)
    journals.report(ledger, 7, journals.LENGTH, 4.1)
    journals.end(ledger, 7, "completed")
    ledger.write("test", trial=7, metrics={"test_loss": 1.0, "test_perplexity": 2.7, "test_bits_per_byte": 1.4})
    ledger.close()
    return (folder / NAME).read_text().splitlines()


@fuzz(0.4)
@given(data=st.data())
def test_any_journal_is_read_or_refused_in_one_line(place: Path, lines: list[str], data: st.DataObject) -> None:
    folder = place / "study"
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_bytes(data.draw(mutations.journals(lines)))
    before = files(place.parent.parent)
    with one_line():
        study = read_study(folder)
        with one_line():
            table.render(study).encode()
        with one_line():
            table.as_json(study, "loss").encode()
        with one_line():
            export.text(study).encode()
        with one_line():
            rebuild(StudySpec.model_validate(journals.header()["spec"]), study)
    assert files(place.parent.parent) == before


def test_the_command_says_it_in_one_line_too(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "spec.yaml").write_text('study: "a\\u001b[2Jb\\nc"\n')
    assert main(["plan", str(place / "spec.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("nanosweep: ")
    assert said.count("\n") == 1
    assert said.strip().isprintable()
