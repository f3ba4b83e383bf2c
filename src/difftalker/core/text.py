"""Text from outside, such as file names, made fit to be shown and to be written."""

from __future__ import annotations


def printable(text: object, *, kept: str = "") -> str:
    r"""The text with everything escaped that is no printable character, apart from ``kept``.

    Control characters and escape sequences come out as ``\n`` or ``\x1b``, and the bytes of a
    file name that are no UTF-8 as ``\xff``: what is left neither steers a terminal nor fails to
    be encoded as UTF-8.
    """
    return "".join(c if c in kept or c.isprintable() else _escaped(c) for c in str(text))


def _escaped(char: str) -> str:
    byte = ord(char) - 0xDC00  # as os.fsdecode has a byte that is no UTF-8
    if 0x80 <= byte <= 0xFF:
        return f"\\x{byte:02x}"
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")
