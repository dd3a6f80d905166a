"""Load a spec file and its base config: overrides (`--set`), `--scale`, and the default schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError, nearest
from data.paths import at_home, is_file
from search.spec.study_spec import Budget, Scale, StudySpec
from trainer import yaml_file
from trainer.complaints import Place
from trainer.config import TrainConfig, assign, has_key, load_with_file, override_origin, parse_override
from trainer.hints import hint
from trainer.yaml_file import OPTION, Origin, RefusedError, YamlFile

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = ROOT / "trainer" / "configs"
BASE: Place = ("base",)  # in the file that `load_spec` returns, the base config's keys have places below it


def load_spec(
    path: Path, overrides: list[str] | None = None, scale: str | None = None
) -> tuple[StudySpec, TrainConfig, YamlFile]:
    """Read a spec file and its base config, each validated on its own (`search.spec.check.check` checks them together).

    overrides: `key=value` of the base config, as from `--set`; they are merged over the spec's own `set:`.
    scale: one of the spec's `scales`; the study is then called `<study>-<scale>`.
    The file says where each value was written: the spec's keys by their place in it, a key of the base config by
    `("base", key)`, whether it stands in the base, under `set` or on the command line.
    Raises UserError with file, line and key.
    """
    file = yaml_file.read(path)
    _check_kind(file)
    spec = yaml_file.validate(StudySpec, file)
    if scale is not None:
        file = _scaled(file, spec, scale)
        spec = yaml_file.validate(StudySpec, file)
    spec = spec.model_copy(update={"scales": {}})  # the other scales are no part of the study
    changes = dict(spec.set)
    options: dict[Place, Origin] = {}
    for text in overrides or []:
        key, value = parse_override(text)
        changes[key] = value
        options["set", key] = override_origin(text)
    file = file.changed(file.value, options)
    for key in changes:
        if not has_key(key):
            problem = f"unknown key{_named(key, file)}; {hint(key, TrainConfig.model_fields)}"
            raise file.refusal(("set", key), problem, "unknown", key)
    if changes != spec.set:
        spec = spec.model_copy(update={"set": changes})
    base, base_file = load_with_file(find_base(spec.base, path, file))
    origins = _base_origins(file, base_file, changes)
    if spec.stopping is not None and spec.stopping.compares and "schedule" not in base.model_fields_set:
        changes = {"schedule": "wsd", **changes}
    if changes:
        merged = assign(base.model_dump(), changes)
        base = yaml_file.validate(TrainConfig, YamlFile(file.name, merged, {}, origins))
    below = {(*BASE, *place): origin for place, origin in origins.items()}
    return spec, base, YamlFile(file.name, file.value, file.lines, {**file.origins, **below})


def _named(key: str, file: YamlFile) -> str:
    """The key, where the place of the error does not say it: an option has more in it than the key."""
    return f" {key}" if ("set", key) in file.origins else ""


def _check_kind(file: YamlFile) -> None:
    """Refuse a file that is a config, or an exported one, by that name instead of key by key."""
    own = [key for key in file.value if key in TrainConfig.model_fields and key not in StudySpec.model_fields]
    if own and not {"base", "space", "budget"} & file.value.keys():
        problem = f"{file.name}: this is a config, not the spec of a search; use: nanosweep train {file.name}"
        raise UserError(problem, kind="config", line=file.lines[own[0],])


def _base_origins(file: YamlFile, base: YamlFile, changes: dict[str, Any]) -> dict[Place, Origin]:
    """Where each key of the base config was written: in the base, under `set`, or on the command line."""
    origins: dict[Place, Origin] = {}
    for place in base.lines:
        if place:
            origin = base.origin(place)
            origins[place] = Origin(origin.at, origin.key, origin.line, rank=0)
    for key in changes:
        at = tuple(key.split("."))
        origins = {place: origin for place, origin in origins.items() if place[: len(at)] != at}
        below = [place for place in file.lines if place[:2] == ("set", key)]
        origins |= {(*at, *place[2:]): file.origin(place) for place in [("set", key), *below]}
    return origins


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
    options = (("study", "--name", name), ("storage", "--storage", storage))
    changes = {key: value for key, _, value in options if value is not None}
    if changes:
        origins: dict[Place, Origin] = {
            (key,): Origin(f"{option} {value}", rank=OPTION) for key, option, value in options if key in changes
        }
        file = file.changed(file.value, origins)
        changed = file.changed({**spec.model_dump(exclude_unset=True), **changes}, {})
        spec = yaml_file.validate(StudySpec, changed)
    for key, text in (limits or {}).items():
        if text is not None:
            limit = getattr(_budget(key, text), key)
            file = file.changed(file.value, {("budget", key): Origin(f"--{key} {text}", rank=OPTION)})
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
    looked = list(dict.fromkeys(str(folder.resolve()) for folder in (Path.cwd(), spec_path.parent, ROOT)))
    problem = f"no such file: {base} ({_near_base(places, spec_path)}looked in {', '.join(looked)})"
    raise file.refusal(("base",), problem, "missing")


def _near_base(places: list[Path], spec: Path) -> str:
    """The nearest file to one that does not exist: beside where it would be, or among the ready configs."""
    folders = [CONFIGS, *(place.parent for place in reversed(places))]  # a later one wins
    files = {path.stem: path for folder in folders for path in folder.glob("*.y*ml") if path.name != spec.name}
    answer = nearest(places[0].stem, files) if files else ""
    if not answer.startswith("did you mean"):
        return ""
    path = files[answer.removeprefix("did you mean ").removesuffix("?")]
    return f"did you mean {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}? "


def _scaled(file: YamlFile, spec: StudySpec, name: str) -> YamlFile:
    """The spec's YAML with the scale's values merged in; each value keeps the line number on which it stands."""
    if name not in spec.scales:
        near = nearest(name, spec.scales) if spec.scales else "the spec has no scales"
        raise UserError(f"{file.name}: no scale {name}; {near}", kind="unknown", keys=name)
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
