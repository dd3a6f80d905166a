"""Files that a config names by path: found by a job on this machine, and not guessed on another."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import UserError
from search.jobs.paths import absolute
from tests import specs

HEAD = "http://head:8265"
LR = "space:\n  learning_rate: {log: [1e-4, 1e-2]}\n"


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("corpus=stories:120", []),
        ("corpus=hf:roneneldan/TinyStories#text", []),
        ("corpus=text:a/b.txt", ["corpus=text:{here}/a/b.txt"]),
        ("corpus=text:/a/b.txt", []),
        ("corpus=jsonl:b.jsonl#text", ["corpus=jsonl:{here}/b.jsonl#text"]),
        ("corpus=parquet:b#c", ["corpus=parquet:{here}/b#c"]),
        ("corpus=hf:./mine#text", ["corpus=hf:{here}/mine#text"]),
        ("tokenizer=gpt2", []),
        ("tokenizer=gpt2:ranks", ["tokenizer=gpt2:{here}/ranks"]),
        ("tokenizer=gpt2 init_from=weights", ["init_from={here}/weights"]),
    ],
)
def test_on_this_machine_paths_become_absolute(tmp_path: Path, given: str, expected: list[str]) -> None:
    spec, base, file = specs.load_spec(specs.write(tmp_path, LR), given.split())
    found = absolute(spec, base, file, None)
    assert found.changes == [text.format(here=tmp_path) for text in expected]


def test_elsewhere_an_absolute_path_is_taken_at_its_word_and_said(tmp_path: Path) -> None:
    spec, base, file = specs.load_spec(specs.write(tmp_path, LR), ["corpus=text:/shared/b.txt"])
    found = absolute(spec, base, file, HEAD)
    assert (found.changes, found.there) == ([], [Path("/shared/b.txt")])


def test_elsewhere_a_path_of_this_machine_is_refused_with_what_to_do(tmp_path: Path) -> None:
    spec, base, file = specs.load_spec(specs.write(tmp_path, LR), ["corpus=jsonl:mine.jsonl#text"])
    with pytest.raises(UserError) as caught:
        absolute(spec, base, file, HEAD)
    assert "\n" not in str(caught.value)
    assert "--set corpus=jsonl:/shared/mine.jsonl#text" in str(caught.value)


def test_a_relative_path_among_the_choices_of_a_space_is_refused(tmp_path: Path) -> None:
    rest = "space:\n  init_from: {choice: [/a/weights, ./weights]}\n"
    spec, base, file = specs.load_spec(
        specs.write(tmp_path, rest, base=specs.BASE + "tokenizer: gpt2\ninit_from: /a/weights\n")
    )
    with pytest.raises(UserError, match="give an absolute path"):
        absolute(spec, base, file, None)


def test_an_earlier_study_is_given_by_name_or_absolute_path(tmp_path: Path) -> None:
    for given in ("before", "/shared/runs/before"):
        spec, base, file = specs.load_spec(specs.write(tmp_path, f"{LR}warm_start: {given}\n"))
        absolute(spec, base, file, None)
    spec, base, file = specs.load_spec(specs.write(tmp_path, f"{LR}warm_start: runs/before\n"))
    with pytest.raises(UserError, match=r"spec\.yaml:6: warm_start: runs/before.*own working directory"):
        absolute(spec, base, file, None)
