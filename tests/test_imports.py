"""No two modules import each other, however late: not inside a function, not for types alone."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "difftalker"
OUTSIDE = {"difftalker", "difftalker.__main__"}
"""The package's own names, which are lazy, and what starts it."""


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module of the package."""
    return {dotted_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def dotted_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, known: set[str]) -> Iterator[str]:
    """The package's modules that a file imports: at its head, in functions and for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            submodules = [name for name in inner if name in known]
            yield from submodules
            if len(submodules) < len(node.names):
                yield node.module


@functools.cache
def import_graph() -> dict[str, set[str]]:
    """Module -> the modules that it imports, wherever in its text."""
    paths = modules()
    known = set(paths) - OUTSIDE
    return {name: set(imported(paths[name], known)) - {name} for name in sorted(known)}


def cycles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The groups of nodes that reach each other: strongly connected, of two nodes or more."""
    reach = {name: reached(name, graph) for name in graph}
    groups = {frozenset(b for b in reach[a] if a in reach[b]) for a in graph if a in reach[a]}
    return [set(group) for group in sorted(groups, key=sorted)]


def reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    """The nodes at the end of every path of one step or more."""
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph[name]
    return seen


def test_a_cycle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set[str]()}
    assert cycles(graph) == [{"b", "c"}]


def test_imports_in_functions_and_for_types_are_seen() -> None:
    assert "difftalker.evaluation.jobs" in import_graph()["difftalker.cli.evaluate"]


def test_no_modules_import_each_other() -> None:
    assert cycles(import_graph()) == []
