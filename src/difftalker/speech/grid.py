"""The sentences of the GRID corpus: their grammar, words, sounds and word times.

Source: Cooke, Barker, Cunningham and Shao, "An audio-visual corpus for speech perception and
automatic speech recognition" (JASA 2006). Six places, one word each: "bin blue at f two now". The
letters of a clip's name spell its sentence: bbaf2n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from difftalker.errors import MediaError

UNITS_PER_S = 25000
"""Units a second of the times in `.align` files."""

SLOTS = ("command", "colour", "preposition", "letter", "digit", "adverb")
GRAMMAR: tuple[tuple[str, ...], ...] = (
    ("bin", "lay", "place", "set"),
    ("blue", "green", "red", "white"),
    ("at", "by", "in", "with"),
    tuple("abcdefghijklmnopqrstuvxyz"),
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    ("again", "now", "please", "soon"),
)
"""The words of each place."""

PAUSES = ("sil", "sp")
"""What `.align` files call times without speech."""

PRONUNCIATIONS = {
    word: tuple(phones.split())
    for word, phones in (
        line.strip().split("=")
        for line in """
        bin=b ih n; lay=l ey; place=p l ey s; set=s eh t; blue=b l uw; green=g r iy n; red=r eh d
        white=w ay t; at=ae t; by=b ay; in=ih n; with=w ih dh; again=ax g eh n; now=n aw
        please=p l iy z; soon=s uw n; zero=z ih r ow; one=w ah n; two=t uw; three=th r iy
        four=f ao; five=f ay v; six=s ih k s; seven=s eh v ax n; eight=ey t; nine=n ay n
        a=ey; b=b iy; c=s iy; d=d iy; e=iy; f=eh f; g=jh iy; h=ey ch; i=ay; j=jh ey; k=k ey
        l=eh l; m=eh m; n=eh n; o=ow; p=p iy; q=k y uw; r=aa; s=eh s; t=t iy; u=y uw; v=v iy
        x=eh k s; y=w ay; z=z eh d""".replace("\n", ";").split(";")
        if line.strip()
    )
}
"""British English in ARPAbet, without stress: GRID's speakers say "zed" and "four" without r."""

PHONES = tuple(sorted({phone for word in PRONUNCIATIONS.values() for phone in word}))


@dataclass(frozen=True, kw_only=True)
class Word:
    """One spoken word."""

    text: str
    start_s: float
    stop_s: float


def read_alignment(path: Path) -> list[Word]:
    """The words of an `.align` file in their order, pauses left out.

    Raises:
        MediaError: the file cannot be read, or a line is no "start stop word".
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line]
        words = [
            Word(text=text, start_s=int(a) / UNITS_PER_S, stop_s=int(b) / UNITS_PER_S)
            for a, b, text in lines
        ]
    except (OSError, ValueError) as error:
        raise MediaError(
            f"the word times {path} cannot be read: {error}",
            wanted=f"lines of start, stop (1/{UNITS_PER_S} s) and word",
        ) from error
    return [word for word in words if word.text not in PAUSES]


def sentence_of_name(name: str) -> tuple[str, ...] | None:
    """The six words that a clip's name spells, or None where it is no name of GRID's.

    Names may have more in front: "id2_vcd_swwp2s".
    """
    letters = name.rsplit("_", 1)[-1]
    if len(letters) != len(SLOTS):
        return None
    words = [_word(slot, letter) for slot, letter in enumerate(letters)]
    return tuple(w for w in words if w) if all(words) else None


def choices(words: Sequence[str]) -> tuple[int, ...]:
    """Which word of each place a sentence has.

    Raises:
        MediaError: it is no sentence of GRID's.
    """
    fits = len(words) == len(SLOTS)
    if not fits or any(w not in slot for w, slot in zip(words, GRAMMAR, strict=True)):
        raise MediaError(f"{' '.join(words)!r} is no sentence of GRID", wanted="six of its words")
    return tuple(slot.index(word) for word, slot in zip(words, GRAMMAR, strict=True))


def _word(slot: int, letter: str) -> str | None:
    """The word that a name's letter stands for; a digit stands for itself, z for zero."""
    if SLOTS[slot] == "digit":
        digit = "z123456789".find(letter)
        return GRAMMAR[slot][digit] if digit >= 0 else None
    return next((word for word in GRAMMAR[slot] if word[0] == letter), None)
