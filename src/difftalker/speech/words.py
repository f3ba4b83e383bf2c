"""When each word is said, as files have it: WebVTT, SubRip, GRID's `.align`, or JSON."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from difftalker.core.text import printable
from difftalker.errors import MediaError
from difftalker.speech.grid import Word, read_alignment

MOST_BYTES = 4_000_000
MOST_WORDS = 50_000
WANTED = "WebVTT, SubRip, GRID's .align, or JSON: a list of {word, start, end}, times in seconds"
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{3})"
_CUE = re.compile(rf"\s*{_TIME}\s+-->\s+{_TIME}(?:\s.*)?")
_TAG = re.compile(r"<[^>]*>")


def read_words(path: Path) -> list[Word]:
    """The words, or lines, of a file in the order of their times, seconds.

    Raises:
        MediaError: it cannot be read, is too large, or has no words.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        words = _read(path)
    except (OSError, ValueError, RecursionError) as error:
        raise MediaError(f"the words of {path}: {error}", wanted=WANTED) from error
    if not 0 < len(words) <= MOST_WORDS:
        found = f"the file of words {path} has {len(words)} of them"
        raise MediaError(found, wanted=f"1 to {MOST_WORDS}; {WANTED}")
    return sorted(words, key=lambda word: (word.start_s, word.stop_s))


def _read(path: Path) -> list[Word]:
    if path.suffix == ".align":
        return read_alignment(path)
    text = path.read_text(encoding="utf-8-sig")
    return _of_json(json.loads(text)) if path.suffix == ".json" else _of_cues(text)


def _of_cues(text: str) -> list[Word]:
    """The cues of WebVTT or SubRip."""
    words = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        lines = block.split("\n")
        for number, line in enumerate(lines):
            if times := _CUE.fullmatch(line):
                said = _TAG.sub("", " ".join(lines[number + 1 :]))
                parts = times.groups()
                words.append(_word(said, _seconds(parts[:4]), _seconds(parts[4:])))
                break
    return [word for word in words if word.text]


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, thousandths = (int(part or 0) for part in parts)
    return 3600 * hours + 60 * minutes + seconds + thousandths / 1000


def _of_json(found: Any) -> list[Word]:
    """A list of words; or an object with one, or with segments that have one, as Whisper writes."""
    if isinstance(found, dict) and isinstance(found.get("segments"), list):
        return [word for segment in found["segments"] for word in _of_json(segment)]
    listed = found.get("words") if isinstance(found, dict) else found
    if not isinstance(listed, list):
        raise ValueError("no list of words")
    return [_of_record(one) for one in listed]


def _of_record(one: Any) -> Word:
    try:
        return _word(str(one["word"]), float(one["start"]), float(one["end"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"a word {str(one)!r:.80}") from error


def _word(text: str, start_s: float, stop_s: float) -> Word:
    if not (math.isfinite(start_s) and math.isfinite(stop_s) and 0 <= start_s <= stop_s):
        raise ValueError(f"a word from {start_s} to {stop_s} s")
    return Word(text=printable(" ".join(text.split()))[:200], start_s=start_s, stop_s=stop_s)
