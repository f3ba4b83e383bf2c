"""Writes down the public surface: the names of the package and each command with its options.

A test compares it with ``tests/golden/public_surface.txt``, so that it changes on purpose. After a
change that is meant::

    python scripts/update_public_surface.py
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

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


def public_surface() -> str:
    """The whole surface as text, one name or option a line."""
    lines = ["difftalker", *(f"    {name}" for name in sorted(difftalker.__all__))]
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
