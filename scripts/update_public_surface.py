"""Writes down the public surface: names and signatures of the package, commands and options.

A test compares it with ``tests/golden/public_surface.txt``, so that it changes on purpose. After a
change that is meant::

    python scripts/update_public_surface.py
"""

from __future__ import annotations

import inspect
from collections import ChainMap
from collections.abc import Iterator
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from cyclopts import App, Argument

import difftalker
from difftalker.cli import app

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "public_surface.txt"


def commands(parent: App, name: str = "difftalker") -> Iterator[tuple[str, App]]:
    """Each app that runs something, as typed on the command line, sorted by name."""
    # Options for every command, --debug say, stand on the meta app.
    for one in (parent, parent.meta):
        if one.default_command is not None:
            yield name, one
    for child in sorted(set(parent) - set(parent.help_flags) - set(parent.version_flags)):
        yield from commands(parent[child], f"{name} {child}")


def option_line(argument: Argument) -> str:
    """One option: all its names, its choices, then what it is when left out."""
    positional = [] if argument.index is None else [argument.field_info.name.upper()]
    # Unique names: cyclopts counts a flag's negative among both.
    names = ", ".join(dict.fromkeys((*positional, *argument.names, *argument.negatives)))
    choices = argument.get_choices()
    text = f"{names} [{'|'.join(choices)}]" if choices else names
    if argument.required:
        return f"{text} (required)"
    default = argument.field_info.default
    if default is inspect.Parameter.empty or default is None:
        return text
    return f"{text} = {default.value if isinstance(default, Enum) else default}"


class Text:
    """What `inspect` writes as this text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def shown(value: object) -> Text | object:
    """A default, by its type where its own text has a memory address or is long."""
    plain = value is None or isinstance(value, str | int | float | tuple)
    return value if plain else Text(f"<{type(value).__name__}>")


def signature_line(name: str, function: Any) -> str:
    """A name with its parameters: their names, kinds, annotations as text, and defaults."""
    signature, empty = inspect.signature(function), inspect.Parameter.empty
    parameters = [
        one.replace(
            annotation=empty if one.annotation is empty else Text(str(one.annotation)),
            default=empty if one.default is empty else shown(one.default),
        )
        for one in signature.parameters.values()
    ]
    returned = Text(str(signature.return_annotation))
    return f"{name}{signature.replace(parameters=parameters, return_annotation=returned)}"


def member_lines(kind: type) -> Iterator[str]:
    """The public methods and properties of a class and of its bases in the package, sorted."""
    own = [vars(one) for one in kind.mro() if one.__module__.startswith("difftalker.")]
    for name, member in sorted(ChainMap(*map(dict, own)).items()):
        if name.startswith("_"):
            continue
        if isinstance(member, property | cached_property):
            getter: Any = member.fget if isinstance(member, property) else member.func
            yield f"{name}: {inspect.get_annotations(getter)['return']}"
        elif isinstance(member, classmethod | staticmethod):
            yield signature_line(f"{type(member).__name__} {name}", member.__func__)
        elif inspect.isfunction(member):
            yield signature_line(name, member)


def api_lines(name: str) -> Iterator[str]:
    """A public name of the package with its signature; a class with its public members."""
    value = getattr(difftalker, name)
    if not callable(value):
        yield f"{name}: {type(value).__name__}"
        return
    bases = f" < {value.mro()[1].__name__}" if isinstance(value, type) else ""
    yield signature_line(name, value) + bases
    if isinstance(value, type):
        yield from (f"    {line}" for line in member_lines(value))


def public_surface() -> str:
    """The whole surface as text, one name, member or option a line."""
    names = [line for name in sorted(difftalker.__all__) for line in api_lines(name)]
    lines = ["difftalker", *(f"    {line}" for line in names)]
    for name, command in commands(app):
        arguments = command.assemble_argument_collection()
        # A group of options that share a dataclass is an argument too, but none to type.
        typed = [one for one in arguments if one.show and one.name != "*"]
        lines += ["", f"$ {name}", *(f"    {option_line(one)}" for one in typed)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Renew the stored list."""
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text(public_surface(), encoding="utf-8")


if __name__ == "__main__":
    main()
