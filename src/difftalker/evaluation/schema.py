"""The layout of report.json, version 2, as a JSON Schema, and a check against it.

``python -m difftalker.evaluation.schema`` prints it. It uses few keywords of draft 2020-12, those
that ``problems`` knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_NUMBER = {"type": ["number", "null"]}
_COUNT = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> Any:
    """An object of exactly these properties."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def _named(each: Mapping[str, Any]) -> Any:
    """An object whose property names are data: rows, measures, clips."""
    return {"type": "object", "additionalProperties": each}


_ESTIMATE = _object(
    {"mean": _NUMBER, "low": _NUMBER, "high": _NUMBER, "n": _COUNT}, {"note": _TEXT}
)
_AVATAR = _object(
    {
        "name": _TEXT,
        "preset": _TEXT,
        "size_px": _COUNT,
        "features": _TEXT,
        "sampler": _TEXT,
        "steps": _COUNT,
        "trained": _named(_object({"steps": _COUNT, "minutes": _NUMBER})),
        "clips_train": {"type": ["integer", "null"]},
    },
    {"parameters": _COUNT},
)
_CLIP = _object(
    {"name": _TEXT, "source": _TEXT},
    {
        "sha256": _TEXT,
        "frames": _COUNT,
        "frames_with_face": _COUNT,
        "rows": _named(_named({"type": ["number", "null", "string"]})),
        "failed": _named(_named(_TEXT)),
        "notes": _named(_TEXT),
        "error": _TEXT,
    },
)  # fmt: skip

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "difftalker evaluate, report.json",
    **_object(
        {
            "version": {"type": "integer", "const": 2},
            "avatar": _AVATAR,
            "settings": _object(
                {"sampler": _TEXT, "steps": _COUNT, "seed": _COUNT}, {"face": _TEXT}
            ),
            "ablations": _named(_AVATAR),
            "programs": _named(_object({"folder": _TEXT})),
            "judges": _named(
                {
                    "type": "object",
                    "properties": {"measures": {"type": "array", "items": _TEXT}},
                    "required": ["measures"],
                }
            ),
            "rows": _named(_named(_ESTIMATE)),
            "clips": {"type": "array", "items": _CLIP},
            "speed": _object(
                {
                    "frames_per_second": _NUMBER,
                    "frames": _COUNT,
                    "locate_seconds": _NUMBER,
                    "dub_seconds": _NUMBER,
                    "evaluate_seconds": _NUMBER,
                }
            ),
            "memory": _object({"peak_mb": _NUMBER}),
            "machine": {"type": "object"},
        }
    ),
}
"""Schema of a whole report."""

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def problems(value: Any, schema: Mapping[str, Any] = SCHEMA, place: str = "report") -> list[str]:
    """What in a value, as JSON gives it, is not as the schema says; empty where all is."""
    types = schema.get("type", [])
    allowed = [
        one for name in ([types] if isinstance(types, str) else types) for one in _TYPES[name]
    ]
    if allowed and (not isinstance(value, tuple(allowed)) or isinstance(value, bool)):
        return [f"{place} is {type(value).__name__}, not {types}"]
    if "const" in schema and value != schema["const"]:
        return [f"{place} is {value}, not {schema['const']}"]
    if "minimum" in schema and value < schema["minimum"]:
        return [f"{place} is {value}, below {schema['minimum']}"]
    if isinstance(value, dict):
        return list(_in_object(value, schema, place))
    if isinstance(value, list) and "items" in schema:
        return [
            p
            for i, one in enumerate(value)
            for p in problems(one, schema["items"], f"{place}[{i}]")
        ]
    return []  # fmt: skip


def _in_object(value: dict[str, Any], schema: Mapping[str, Any], place: str) -> Iterator[str]:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    yield from (
        f"{place}.{key} is missing" for key in schema.get("required", ()) if key not in value
    )
    for key, one in value.items():
        if key in known:
            yield from problems(one, known[key], f"{place}.{key}")
        elif others is False:
            yield f"{place}.{key} is not known"
        else:
            yield from problems(one, others, f"{place}.{key}")


if __name__ == "__main__":
    print(json.dumps(SCHEMA, indent=1))
