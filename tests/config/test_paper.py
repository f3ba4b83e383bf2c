"""``docs/paper.md`` lists every field in which the default departs from the paper, and no other."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from difftalker import config as configs

PAGE = Path(__file__).parents[2] / "docs" / "paper.md"
ROW = re.compile(r"^\| .* \| `((?:model|training)\.[\w.]+)` \| `(.+)` \| `(.+)` \|$", re.MULTILINE)


def fields(config: Any, where: str = "") -> dict[str, Any]:
    """Every value of a config by its dotted name, as JSON has it."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= fields(value, f"{where}{field.name}.")
        else:
            found[where + field.name] = json.loads(json.dumps(value))
    return found


def listed() -> dict[str, tuple[Any, Any]]:
    """Fields on the page: the value of the paper, and of the default."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    return {name: (json.loads(paper), json.loads(tiny)) for name, paper, tiny in rows}


def test_the_page_has_the_values_of_both_presets() -> None:
    paper, tiny, rows = fields(configs.paper()), fields(configs.tiny()), listed()
    assert rows
    for name, (wanted, default) in rows.items():
        assert (paper[name], tiny[name]) == (wanted, default), name
        assert wanted != default, name


def test_every_departure_is_on_the_page() -> None:
    paper, tiny = fields(configs.paper()), fields(configs.tiny())
    differ = {name for name in paper if paper[name] != tiny[name]}
    assert differ - {"model.preset"} == set(listed())
