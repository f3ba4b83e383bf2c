"""English to be spoken: random sentences in the 28 characters a to z, space and apostrophe.

For teaching a network to spell speech, so the words matter more than the sense: common
words in simple frames, contractions, numbers, spelled letters, names, commands as in GRID (Cooke et
al. 2006), and rows of unrelated words from a lexicon. The words are in spoken_words.json.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

WORDS: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("spoken_words.json").read_text(encoding="utf-8")
)
LETTERS = "bcdefghijklmnopqrstuvwxyz"
"""Not a: synthesisers say the article instead."""
SUBJECTS = [
    *WORDS["pronouns"],
    *(f"{owner} {person}" for owner in WORDS["owners"] for person in WORDS["people"]),
]
COMMAND = (
    ["bin", "lay", "place", "set"],
    ["blue", "green", "red", "white"],
    ["at", "by", "in", "with"],
    list(LETTERS.replace("w", "")),
    WORDS["digits"],
    ["again", "now", "please", "soon"],
)
"""The words of a GRID sentence, place by place."""


def sentences(count: int, seed: int, lexicon: Sequence[str] = ()) -> list[str]:
    """``count`` sentences, drawn from a seed; ``lexicon`` gives further words.

    Single letters and names are capitals, as synthesisers want them: :func:`spelled` is what is
    heard.
    """
    chance = random.Random(seed)
    words = [word for word in lexicon if re.fullmatch(r"[a-z]{2,12}", word)] or WORDS["nouns"]
    kinds: list[Callable[[], str]] = [
        lambda: _command(chance),
        lambda: _statement(chance),
        lambda: _statement(chance),
        lambda: _contraction(chance),
        lambda: _question(chance),
        lambda: _numbers(chance),
        lambda: _letters(chance),
        lambda: _row(chance, words),
        lambda: _row(chance, words),
    ]
    return [chance.choice(kinds)() for _ in range(count)]


def spelled(text: str) -> str:
    """The text in the 28 characters that are written: a to z, space, apostrophe."""
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower()).split())


def _command(chance: random.Random) -> str:
    words = [chance.choice(place) for place in COMMAND]
    return " ".join(word.upper() if len(word) == 1 else word for word in words)


def _noun(chance: random.Random) -> str:
    which = chance.choice(WORDS["determiners"])
    adjective = chance.choice([*WORDS["adjectives"], *[""] * len(WORDS["adjectives"])])
    return " ".join(f"{which} {adjective} {chance.choice(WORDS['nouns'])}".split())


def _statement(chance: random.Random) -> str:
    parts = [chance.choice(SUBJECTS), chance.choice(WORDS["verbs"]), _noun(chance)]
    if chance.random() < 0.6:
        parts += [chance.choice(WORDS["places"]), _noun(chance)]
    if chance.random() < 0.4:
        parts.append(chance.choice(WORDS["adverbs"]))
    return " ".join(parts)


def _contraction(chance: random.Random) -> str:
    if chance.random() < 0.5:
        return f"{chance.choice(WORDS['contractions'])} {chance.choice(WORDS['actions'])}"
    subject, negation = chance.choice(SUBJECTS), chance.choice(WORDS["negations"])
    return f"{subject} {negation} {chance.choice(WORDS['places'])} {_noun(chance)}"


def _question(chance: random.Random) -> str:
    return f"{chance.choice(WORDS['questions'])} {_noun(chance)}"


def _numbers(chance: random.Random) -> str:
    words = [*WORDS["digits"], *WORDS["numbers"]]
    return " ".join(chance.choice(words) for _ in range(chance.randint(2, 6)))


def _letters(chance: random.Random) -> str:
    """A name and single letters, in either order, or letters alone."""
    letters = [chance.choice(LETTERS).upper() for _ in range(chance.randint(1, 5))]
    name = chance.choice(WORDS["names"]).capitalize()
    return " ".join(chance.choice([[name, *letters], [*letters, name], letters + letters[:2]]))


def _row(chance: random.Random, lexicon: Sequence[str]) -> str:
    known = [word for kind in ("nouns", "adjectives", "verbs", "places") for word in WORDS[kind]]
    drawn = [
        chance.choice(lexicon) if chance.random() < 0.6 else chance.choice(known)
        for _ in range(chance.randint(3, 6))
    ]
    return " ".join(drawn)
