"""Where a study's values were written: whose line an error names that comes long after the spec was read. Pure."""

from __future__ import annotations

from contextlib import AbstractContextManager

from search.spec.points import fields
from search.spec.study_spec import StudySpec
from trainer.complaints import Place
from trainer.yaml_file import YamlFile


def place_of(key: str, value: object, spec: StudySpec) -> Place:
    """The place of a config key's value in the file that `load_spec` returns: in the space, among the start points, or
    in the base config with what `set` and the command line change of it."""
    for name, parameter in spec.space.items():
        if key not in fields(name, parameter):
            continue
        for index, option in enumerate(parameter.choice or []):
            if parameter.linked and option.get(key) == value:
                return ("space", name, "choice", index, key)
            if not parameter.linked and option == value:
                return ("space", name, "choice", index)
        if parameter.choice is None and value in (parameter.log or parameter.uniform or []):
            return ("space", name)
    for index, point in enumerate(spec.start):
        for name, started in point.items():
            if name not in spec.space or key not in fields(name, spec.space[name]):
                continue
            if (started.get(key) if isinstance(started, dict) else started) == value:
                return ("start", index, name)
    return ("base", *key.split("."))


def blamed(file: YamlFile, spec: StudySpec, **values: object) -> AbstractContextManager[None]:
    """`YamlFile.blamed` for keys of the config, wherever a study has their values."""
    return file.blamed(values, lambda key: place_of(key, values[key], spec))
