"""Files that say when each word is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from difftalker.errors import MediaError
from difftalker.speech.grid import Word
from difftalker.speech.words import MOST_BYTES, read_words

SAID = [("bin", 0.51, 0.73), ("blue", 0.73, 0.96)]
VTT = """WEBVTT - times of words

NOTE none of these is a cue

1
00:00.510 --> 00:00.730 align:start
<v Speaker>bin</v>

00:00:00.730 --> 00:00:00.960
blue
"""
SRT = """1
00:00:00,510 --> 00:00:00,730
bin

2
00:00:00,730 --> 00:00:00,960
blue
""".replace("\n", "\r\n")
RECORDS = [{"word": text, "start": start, "end": stop} for text, start, stop in SAID]
FILES = {
    "a.align": "0 12750 sil\n12750 18250 bin\n18250 24000 blue\n24000 25000 sil\n",
    "a.vtt": VTT,
    "a.srt": SRT,
    "a.json": json.dumps(RECORDS[::-1]),
    "b.json": json.dumps({"words": RECORDS}),
    "c.json": json.dumps({"segments": [{"words": RECORDS[:1]}, {"words": RECORDS[1:]}]}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_words_with_their_times_in_order(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(FILES[name], encoding="utf-8", newline="")
    assert read_words(path) == [Word(text=t, start_s=a, stop_s=b) for t, a, b in SAID]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"{"),
        ("a.json", b'{"words": 3}'),
        ("a.json", b'[{"word": "a", "start": 1}]'),
        ("a.json", b'[{"word": "a", "start": 1, "end": 0.5}]'),
        ("a.json", b'[{"word": "a", "start": NaN, "end": NaN}]'),
        ("a.json", b"[" * 100_000),
        ("a.json", b"[]"),
        ("a.vtt", b"WEBVTT\n\nno cue"),
        ("a.vtt", b"\xff\xfe\x00"),
        ("a.align", b"1 2"),
        ("a.vtt", b" " * (MOST_BYTES + 1)),
    ],
)
def test_what_has_no_words_is_refused_with_what_is_wanted(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=r"a\.") as refused:
        read_words(tmp_path / name)
    assert refused.value.wanted
