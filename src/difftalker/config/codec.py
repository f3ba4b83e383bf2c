"""Configs from JSON values and from words of the command line, strictly.

Our own reader, not cattrs: strict bools and numbers, and errors that say what was found and what
was wanted, would take as many hooks as the reader has lines.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from difftalker.config.schema import Config
from difftalker.errors import UsageError

C = TypeVar("C")


def from_dict(kind: type[C], values: Mapping[str, Any], where: str = "the configuration") -> C:
    """Build a config from JSON values, strictly.

    Raises:
        UsageError: a key is unknown or missing, or a value has the wrong type.
    """
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(values) - set(known)):
        raise UsageError(
            f"unknown key {unknown[0]!r:.80} in {where}", wanted=", ".join(sorted(known))
        )
    try:
        return kind(**{k: _value(hints[k], v, f"{where}.{k}") for k, v in values.items()})
    except TypeError as error:
        raise UsageError(f"{where} is incomplete: {error}") from error


def override(config: Config, settings: Mapping[str, str]) -> Config:
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
        raise UsageError(
            f"unknown configuration key {key!r}", wanted=f"at {name!r}: {', '.join(names)}"
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
            return tuple(number(part) for part in text.split(",") if text)
        return type(old)(text)
    except (ValueError, KeyError) as error:
        kind = type(old).__name__
        raise UsageError(f"{key} = {text!r}", wanted=f"a value like {old!r} ({kind})") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} is {value!r:.80}", wanted="an object")
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if isinstance(hint, types.GenericAlias) and hint.__origin__ is tuple:
        part = hint.__args__[0]
        wanted = (int, float) if part is float else (part,)
        if isinstance(value, list | tuple) and all(type(v) in wanted for v in value):
            return tuple(part(v) for v in value)
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif type(value) is hint:
        return value
    raise UsageError(f"{where} is {value!r:.80}", wanted=f"a value of type {hint}")
