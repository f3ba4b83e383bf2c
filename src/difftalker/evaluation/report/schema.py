"""The layout of report.json, version 2, as a JSON Schema of draft 2020-12.

``python -m difftalker.evaluation.report.schema`` prints it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    {"parameters": _COUNT, "renderer": _TEXT},
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
)

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "difftalker evaluate, report.json",
    **_object(
        {
            "version": {"type": "integer", "const": 2},
            "avatar": _AVATAR,
            "settings": _object(
                {"sampler": _TEXT, "steps": _COUNT, "seed": _COUNT},
                {"face": _TEXT, "renderer": _TEXT},
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


if __name__ == "__main__":
    print(json.dumps(SCHEMA, indent=1))
