"""What comes from outside is shown without steering the terminal."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from difftalker.core.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name.mp4", "plain name.mp4"),
        ("Größe 中文.mp4", "Größe 中文.mp4"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31mred\x1b$B", r"\x1b[31mred\x1b$B"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        (os.fsdecode(b"a\xff.mp4"), r"a\xff.mp4"),
        ("\u202egpm.exe\u2028", r"\u202egpm.exe\u2028"),
        ("\ud800", r"\ud800"),
    ],
)
def test_only_printable_characters_are_left(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_characters_may_be_kept() -> None:
    assert printable("a\nb\x1b", kept="\n") == "a\nb\\x1b"


@given(st.text())
def test_any_text_can_be_shown_and_is_not_escaped_twice(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
    assert printable(shown) == shown
