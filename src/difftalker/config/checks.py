"""The checks that configs make at their birth."""

from __future__ import annotations

from difftalker.errors import UsageError


def check(ok: bool, name: str, found: object, wanted: str) -> None:
    """Refuse the value ``found`` of a setting if it is not ``ok``.

    Raises:
        UsageError: it is not.
    """
    if not ok:
        raise UsageError(f"{name} is {found!r:.80}", wanted=wanted)


def positive(config: object, *names: str) -> None:
    """Refuse what is not above 0."""
    for name in names:
        check(getattr(config, name) > 0, name, getattr(config, name), "a positive number")


def not_negative(config: object, *names: str) -> None:
    """Refuse what is below 0."""
    for name in names:
        check(getattr(config, name) >= 0, name, getattr(config, name), "0 or more")


def shares(config: object, *names: str) -> None:
    """Refuse what is no share, 0 to 1."""
    for name in names:
        value = getattr(config, name)
        check(0 <= value <= 1, name, value, f"0 <= {name} <= 1")


def up_to(highest: int, config: object, *names: str) -> None:
    """Refuse what is not from 1 to ``highest``: a file's numbers decide what is allocated."""
    for name in names:
        value = getattr(config, name)
        check(0 < value <= highest, name, value, f"1 to {highest}")


def channels(widths: tuple[int, ...]) -> None:
    """Refuse the widths of a network's levels if they are too many or too wide."""
    fits = 0 < len(widths) <= 8 and all(0 < one <= 4096 for one in widths)
    check(fits, "channels", widths, "up to 8 numbers from 1 to 4096")
