"""Small real specs for tests: written as YAML, read and checked as a search reads them."""

from __future__ import annotations

from pathlib import Path

from search.spec.check import check
from search.spec.load import load_spec
from search.spec.study_spec import StudySpec
from search.strategy.advice import Facts
from search.strategy.sampler import Sampler
from trainer.config import TrainConfig
from trainer.yaml_file import YamlFile

BASE = "n_layer: 2\nn_head: 4\nn_embd: 128\nmax_tokens: 2M\n"
HEAD = "study: s\nbase: base.yaml\nbudget: {trials: 4}\n"  # what follows begins on line 4


def write(folder: Path, text: str, base: str = BASE, head: str = HEAD) -> Path:
    """A spec and its base as files; text: the spec from its fourth line on."""
    (folder / "base.yaml").write_text(base)
    path = folder / "spec.yaml"
    path.write_text(head + text)
    return path


def read(
    folder: Path, text: str, base: str = BASE, overrides: list[str] | None = None, head: str = HEAD
) -> tuple[StudySpec, TrainConfig, YamlFile]:
    """The spec and its base, checked whole. Raises UserError."""
    spec, config, file = load_spec(write(folder, text, base, head), overrides)
    check(spec, config, file)
    return spec, config, file


def space(**parameters: object) -> StudySpec:
    """A spec over some parameters, without files."""
    return StudySpec.model_validate(
        {"study": "s", "base": "base.yaml", "space": parameters, "budget": {"trials": 4}, "sampler": "random"}
    )


def sampler_of(spec: StudySpec) -> Sampler:
    """Its sampler over a default base config."""
    return Sampler(spec, TrainConfig(max_tokens=8000))


def facts(length: int) -> Facts:
    """Of trials of so many tokens on plenty of text."""
    return Facts(length, length, train_tokens=length, val_tokens=100_000)
