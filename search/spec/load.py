"""Load a spec file and its base config: overrides (`--set`), `--scale`, and the default schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError, nearest
from data.paths import at_home, is_file
from search.spec.study_spec import Budget, Scale, StudySpec
from trainer import yaml_file
from trainer.config import TrainConfig, assign, has_key
from trainer.config import load as load_config
from trainer.yaml_file import Place, RefusedError, YamlFile

ROOT = Path(__file__).resolve().parent.parent.parent


def load_spec(
    path: Path, overrides: list[str] | None = None, scale: str | None = None
) -> tuple[StudySpec, TrainConfig, YamlFile]:
    """Read a spec file and its base config, each validated on its own (`search.spec.check.check` checks them together).

    overrides: `key=value` of the base config, as from `--set`; they are merged over the spec's own `set:`.
    scale: one of the spec's `scales`; the study is then called `<study>-<scale>`.
    Raises UserError with file, line and key.
    """
    file = yaml_file.read(path)
    spec = yaml_file.validate(StudySpec, file)
    if scale is not None:
        file = _scaled(file, spec, scale)
        spec = yaml_file.validate(StudySpec, file)
    spec = spec.model_copy(update={"scales": {}})  # the other scales are no part of the study
    changes = dict(spec.set)
    for text in overrides or []:
        key, sign, text_value = text.partition("=")
        if not sign:
            raise UserError(f"--set {text}: expected key=value", kind="form")
        changes[key] = yaml_file.scalar(text_value)
    for key in changes:
        if not has_key(key):
            raise file.refusal(("set", key), f"unknown key; {nearest(key, TrainConfig.model_fields)}", "unknown", key)
    if changes != spec.set:
        spec = spec.model_copy(update={"set": changes})
    base = load_config(find_base(spec.base, path, file))
    if spec.stopping is not None and spec.stopping.compares and "schedule" not in base.model_fields_set:
        changes = {"schedule": "wsd", **changes}
    if changes:
        merged = assign(base.model_dump(), changes)
        lines: dict[Place, int] = {p[1:]: line for p, line in file.lines.items() if p[:1] == ("set",) and p[1:]}
        base = yaml_file.validate(TrainConfig, YamlFile(file.name, merged, lines))
    return spec, base, file


def with_options(
    path: Path,
    overrides: Sequence[str],
    scale: str | None,
    name: str | None,
    storage: str | None,
    limits: Mapping[str, str | None] | None = None,
) -> tuple[StudySpec, TrainConfig, YamlFile]:
    """`load_spec` with what the command line changes: --set, --scale, --name, --storage, and the budget.

    limits: of the budget, as written after --trials, --tokens and --hours; None leaves the spec's. Raises UserError.
    """
    spec, base, file = load_spec(path, list(overrides), scale)
    changes = {key: value for key, value in (("study", name), ("storage", storage)) if value is not None}
    if changes:
        changed = YamlFile("--name", {**spec.model_dump(exclude_unset=True), **changes}, {})
        spec = yaml_file.validate(StudySpec, changed)
    for key, text in (limits or {}).items():
        if text is not None:
            limit = getattr(_budget(key, text), key)
            spec = spec.model_copy(update={"budget": spec.budget.model_copy(update={key: limit})})
    return spec, base, file


def _budget(key: str, text: str) -> Budget:
    """The budget that `--trials 8` gives. Raises RefusedError."""
    try:
        return yaml_file.validate(Budget, YamlFile(f"--{key}", {key: yaml_file.scalar(text)}, {}))
    except UserError as error:
        problem = error.problem if isinstance(error, RefusedError) else f"expected a number, got {text!r}"
        raise RefusedError(f"--{key} {text}", problem, ("budget", key), (key,), error.kind) from None


def find_base(base: str, spec_path: Path, file: YamlFile) -> Path:
    try:
        places = [at_home(base), spec_path.parent / base, ROOT / base]
    except UserError as error:
        raise file.refusal(("base",), str(error), error.kind) from None
    for place in places:
        if is_file(place):
            return place
    problem = f"no such file: {base} (looked in {Path.cwd()}, {spec_path.parent}, {ROOT})"
    raise file.refusal(("base",), problem, "missing")


def _scaled(file: YamlFile, spec: StudySpec, name: str) -> YamlFile:
    """The spec's YAML with the scale's values merged in; each value keeps the line number on which it stands."""
    if name not in spec.scales:
        hint = nearest(name, spec.scales) if spec.scales else "the spec has no scales"
        raise UserError(f"{file.name}: no scale {name}; {hint}", kind="unknown", keys=name)
    value: dict[str, Any] = {key: item for key, item in file.value.items() if key != "scales"}
    lines: dict[Place, int] = dict(file.lines)
    for key in Scale.model_fields:
        if key not in file.value["scales"][name]:
            continue
        replacement = file.value["scales"][name][key]
        value[key] = {**value.get(key, {}), **replacement} if key in ("set", "space") else replacement
        at = ("scales", name, key)
        lines |= {place[2:]: line for place, line in file.lines.items() if place[: len(at)] == at}
    value["study"] = f"{value['study']}-{name}"
    return YamlFile(file.name, value, lines)
