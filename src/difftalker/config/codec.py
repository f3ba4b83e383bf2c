"""Configs from words of the command line, and as they were saved (JSON: ``core.codec``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from difftalker.core.codec import from_dict
from difftalker.errors import UsageError

C = TypeVar("C")

RENAMED = {
    "hears_opening": "opening_from_speech",
    "rests": "hold_in_silence",
    "in_step": "align_sound",
    "deaf_share": "no_speech_share",
}
"""Former names of settings, which saved avatars and runs may have, and their names."""
LEVELS = 3
"""How deep settings lie at most: ``training.synthesis_recipe.no_speech_share``."""


def from_saved(kind: type[C], values: Mapping[str, Any], where: str) -> C:
    """A config from the JSON of an avatar or run, whose settings may have their former names.

    Raises:
        UsageError: as of :func:`difftalker.core.codec.from_dict`.
    """
    return from_dict(kind, _renamed(values, LEVELS), where)


def _renamed(values: Any, levels: int) -> Any:
    if not levels or not isinstance(values, Mapping):
        return values
    former = {old: new for old, new in RENAMED.items() if new not in values}
    return {former.get(key, key): _renamed(each, levels - 1) for key, each in values.items()}


def override(config: C, settings: Mapping[str, str]) -> C:
    """Replace single values: ``{"training.prior.steps": "200"}``.

    Raises:
        UsageError: the key is unknown, or the value has the wrong type.
    """
    for key, text in settings.items():
        config = _replaced(config, key.split("."), text, key)
    return config


def _replaced(config: Any, path: list[str], text: str, key: str) -> Any:
    name, *rest = path
    names = [f.name for f in dataclasses.fields(config)]
    if name not in names:
        near = [RENAMED[name]] if name in RENAMED else get_close_matches(name, names, 1)
        raise UsageError(
            f"unknown configuration key {key!r}",
            wanted=f"at {name!r}: {', '.join(names)}",
            fix=f"use {near[0]}" if near else "",
        )
    old = getattr(config, name)
    if dataclasses.is_dataclass(old) != bool(rest):
        raise UsageError(
            f"the configuration key {key!r} does not name one value",
            wanted="a key such as training.prior.steps",
        )
    new = _replaced(old, rest, text, key) if rest else _parsed(old, text, key)
    return dataclasses.replace(config, **{name: new})


def _parsed(old: Any, text: str, key: str) -> Any:
    try:
        if isinstance(old, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(old, tuple):
            number = type(old[0]) if old else float
            parts = text.strip("()[] ").split(",")
            return tuple(number(part) for part in parts if part.strip())
        return type(old)(text)
    except (ValueError, KeyError) as error:
        kind = type(old).__name__
        raise UsageError(f"{key} = {text!r}", wanted=f"a value like {old!r} ({kind})") from error
