"""Frozen dataclasses of plain data, to JSON and strictly back.

cattrs would coerce values (``"5"`` to 5) and report a group of exceptions; here a wrong value ends
in one line that names it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any, Literal, TypeVar

from difftalker.errors import UsageError

C = TypeVar("C")


def to_dict(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON knows them; tuples become lists."""
    return {name: _plain(getattr(value, name)) for name in _hints(type(value))}  # type: ignore[arg-type]


def from_dict(kind: type[C], values: Mapping[str, Any], where: str = "the configuration") -> C:
    """Build a dataclass from JSON values, strictly.

    Fields may be of the types bool, int, float and str, literals of strings, optional ones, tuples
    and mappings of these, and dataclasses of such fields.

    Raises:
        UsageError: a key is unknown or missing, or a value has the wrong type.
    """
    hints = _hints(kind)  # type: ignore[arg-type]
    if unknown := sorted(values.keys() - hints.keys()):
        raise UsageError(
            f"unknown key {unknown[0]!r:.80} in {where}", wanted=", ".join(sorted(hints))
        )
    try:
        return kind(**{k: _value(hints[k], v, f"{where}.{k}") for k, v in values.items()})
    except TypeError as error:
        raise UsageError(f"{where} is incomplete: {error}") from error


@functools.cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    """Names and types of a dataclass's fields."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def plain(value: Any) -> Any:
    """A value as JSON knows it: paths as text, what is no finite number as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return fspath(value) if isinstance(value, PathLike) else value


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin in (types.UnionType, typing.Union):  # of one type and None
        (inner,) = (part for part in parts if part is not type(None))
        return None if value is None else _value(inner, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_value(parts[0], each, f"{where}[{i}]") for i, each in enumerate(value))
    if origin is not None and _is_mapping(origin) and isinstance(value, Mapping):
        return {str(key): _value(parts[1], each, f"{where}.{key}") for key, each in value.items()}
    if origin is Literal and value in parts:
        return value
    if hint is float and type(value) in (int, float):
        return float(value)
    if type(value) is hint:
        return value
    raise UsageError(f"{where} is {value!r:.80}", wanted=_wanted(hint))


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _wanted(hint: Any) -> str:
    if dataclasses.is_dataclass(hint):
        return "an object"
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    return f"a value of type {hint}"
