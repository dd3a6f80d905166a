"""The JSON Schema of a spec, generated from its pydantic classes, for editors that complete and check YAML.

    python -m search.spec.schema > search/specs/spec.schema.json

An editor with a YAML language server uses it for a spec that begins with
`# yaml-language-server: $schema=spec.schema.json`.
"""

from __future__ import annotations

import json
from typing import Any

from search.spec.study_spec import StudySpec
from trainer.config import TrainConfig
from trainer.keys import not_searched

Schema = dict[str, Any]


def schema() -> Schema:
    """The schema of `search.spec.study_spec.StudySpec`, with the config's keys under `set` and `space`."""
    spec = _untitled(StudySpec.model_json_schema())
    config = _untitled(TrainConfig.model_json_schema())["properties"]
    fixed = not_searched(TrainConfig)
    spec["$defs"]["Parameter"]["oneOf"] = [{"required": [kind]} for kind in ("log", "uniform", "choice")]
    spec["$defs"]["Parameter"] = {"anyOf": [spec["$defs"]["Parameter"], {"type": "array", "minItems": 1}]}
    spec["properties"]["set"] |= {"properties": config, "additionalProperties": False}
    # any other name may stand for linked parameters
    spec["properties"]["space"]["properties"] = {
        name: _parameter(field) for name, field in config.items() if name not in fixed
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "nanosweep spec", **spec}


def _parameter(field: Schema) -> Schema:
    """The schema of a parameter whose plain choices are values of the config key with the schema `field`."""
    description = {"description": field["description"]} if "description" in field else {}
    plain = {key: value for key, value in field.items() if key not in ("description", "default")}
    items = {"anyOf": [plain, {"type": "object"}]}
    return {**description, "$ref": "#/$defs/Parameter", "properties": {"choice": {"items": items}}, "items": items}


def _untitled(value: Any) -> Any:
    """The schema without pydantic's titles, which only repeat the names; a property called `title` is kept."""
    if isinstance(value, list):
        return [_untitled(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {k: _untitled(item) for k, item in value.items() if not (k == "title" and isinstance(item, str))}


def text() -> str:
    """The text of search/specs/spec.schema.json."""
    return json.dumps(schema(), indent=2, ensure_ascii=False)


if __name__ == "__main__":
    print(text())
