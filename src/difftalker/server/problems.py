"""Refusals over HTTP: the three parts of every error of DiffTalker, and a status."""

from __future__ import annotations

from typing import Any

from difftalker.errors import DiffTalkerError, UsageError


class Problem(Exception):
    """A request that is refused."""

    def __init__(self, status: int, error: DiffTalkerError) -> None:
        super().__init__(str(error))
        self.status, self.error = status, error


def refusal(status: int, found: str, *, wanted: str = "", fix: str = "") -> Problem:
    """A request that is refused for what was found."""
    return Problem(status, UsageError(found, wanted=wanted, fix=fix))


def missing(what: str, name: str) -> Problem:
    """There is no such thing, or it is somebody else's."""
    return refusal(404, f"no {what} is called {name!r:.80}", fix=f"see the list of {what}s")


def facts(error: DiffTalkerError) -> dict[str, Any]:
    """An error as JSON."""
    return {
        "kind": type(error).__name__,
        "message": str(error),
        "found": error.found,
        "wanted": error.wanted,
        "fix": error.fix,
    }
