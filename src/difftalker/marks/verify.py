"""Reads all marks of a file and says what holds: ``difftalker verify``.

found = verify("out.mp4")
found.verdict, found.text
found.record()      JSON
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from difftalker.errors import MediaError, UsageError
from difftalker.marks import credentials, identity, metadata, watermark
from difftalker.marks.credentials import Signed
from difftalker.media.video import VideoInfo, probe_video, read_frames

WINDOW_S = 3.0
"""A watermark is looked for in so much of a video at once."""
SEARCHED_S = 120.0
"""How far from its start, by default."""
_OURS = "DiffTalker"

Verdict = Literal["intact", "altered", "marked", "stated", "unmarked"]
Judged = tuple[Verdict, str]
EXIT_CODES: Mapping[Verdict, int] = {
    "intact": 0,
    "altered": 3,
    "marked": 4,
    "stated": 5,
    "unmarked": 6,
}
"""The command's exit codes; 1 is a file that cannot be read, 2 wrong use."""


@dataclass(frozen=True, kw_only=True)
class Watermark:
    """The watermark as it was read."""

    maker: str
    """Six hexadecimal digits."""
    job: str
    """Six hexadecimal digits: the first ones of the job's identifier."""
    chance: float
    """How likely unmarked pictures would look so, at most."""
    start_s: float
    stop_s: float
    """Where it was read."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What the marks of a file say."""

    file: str
    verdict: Verdict
    """``intact``: credentials hold. ``altered``: there are credentials that do not hold, or there
    were some. ``marked``: the watermark alone is there. ``stated``: metadata alone says so, which
    anybody can write. ``unmarked``: nothing was found."""
    text: str
    """The same in sentences."""
    made_here: bool
    """Whether the key of this user made it, by the credentials or by the watermark."""
    credentials: Signed | None
    watermark: Watermark | None
    comment: str
    source_type: str
    """IPTC's digital source type in XMP or tags; empty where none is stated."""
    job: str
    """The job's identifier in XMP or tags; empty where none is stated."""
    aigc: Mapping[str, Any] | None
    """The label of GB 45438."""

    @property
    def exit_code(self) -> int:
        """The command's exit code."""
        return EXIT_CODES[self.verdict]

    def record(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**asdict(self), "exit_code": self.exit_code}


@dataclass(frozen=True, kw_only=True)
class _Stated:
    comment: str
    source_type: str
    job: str
    aigc: Mapping[str, Any] | None


def verify(
    path: str | Path, *, trust: str | Path | None = None, seconds: float = SEARCHED_S
) -> Verification:
    """Read the marks of a video; nothing is fetched from a network.

    ``trust`` is a file of certificates in PEM whose holders are trusted beside this user. The
    watermark is looked for in the first ``seconds``.

    Raises:
        MediaError: the file is missing, or it is no video and carries no credentials.
        UsageError: ``trust`` holds no certificates.
    """
    path = Path(path)
    if not path.is_file():
        raise MediaError(f"no such file: {path}", wanted="a video", fix="check the path")
    who = identity.known()
    anchors = "\n".join([who.anchor] if who else []) + _certificates(trust)
    signed = credentials.read(path, anchors)
    info: VideoInfo | None = None
    mark: Watermark | None = None
    try:
        info = probe_video(path)
        mark = _search(path, seconds)
    except MediaError:
        if signed is None:
            raise
    stated = _stated(path, info)
    verdict, text = _judged(path, signed, mark, stated)
    makers = {mark.maker} if mark else set()
    if signed and signed.job and signed.state == "trusted":
        makers.add(str(signed.job.get("maker")))
    return Verification(
        file=str(path),
        verdict=verdict,
        text=text,
        made_here=who is not None and f"{who.maker:06x}" in makers,
        credentials=signed,
        watermark=mark,
        **vars(stated),
    )


def _certificates(trust: str | Path | None) -> str:
    if trust is None:
        return ""
    try:
        text = Path(trust).read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise UsageError(f"{trust} cannot be read: {error.strerror}", fix="check it") from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise UsageError(f"{trust} holds no certificates", wanted="certificates in PEM")
    return "\n" + text


def _stated(path: Path, info: VideoInfo | None) -> _Stated:
    """What metadata says, which anybody can write."""
    tags = {name.upper(): text for name, text in info.tags.items()} if info else {}
    xmp = metadata.read_xmp(path) or (
        tags.get(metadata.TYPE_TAG, ""),
        tags.get(metadata.JOB_TAG, ""),
    )
    label: Mapping[str, Any] | None = None
    with suppress(ValueError):
        read = json.loads(tags.get(metadata.AIGC_TAG, "null"))
        label = read if isinstance(read, dict) else None
    return _Stated(
        comment=info.comment if info else "",
        source_type=xmp[0].rpartition("/")[2],
        job=xmp[1],
        aigc=label,
    )


def _search(path: Path, seconds: float) -> Watermark | None:
    """The first watermark of a video, window by window."""
    for luma, start_s, stop_s in _windows(path, seconds):
        if found := watermark.find(luma):
            return _read(found, start_s, stop_s)
    return None


def _read(found: watermark.Found, start_s: float, stop_s: float) -> Watermark:
    return Watermark(
        maker=f"{found.message.maker:06x}",
        job=f"{found.message.job:06x}",
        chance=found.chance,
        start_s=round(start_s, 3),
        stop_s=round(stop_s, 3),
    )


def _windows(path: Path, seconds: float) -> Iterator[tuple[NDArray[np.floating], float, float]]:
    """The mean luma (H, W) of each window, and its first and last time."""
    total, start_s, last_s = watermark.Mean(), 0.0, 0.0
    for frame in read_frames(path):
        if frame.time_s > seconds and total.count:
            break
        if total.count and frame.time_s - start_s >= WINDOW_S:
            yield total.value, start_s, frame.time_s
            total, start_s = watermark.Mean(), frame.time_s
        total.add(frame.image)
        last_s = frame.time_s
    if total.count:
        yield total.value, start_s, last_s


def _judged(path: Path, signed: Signed | None, mark: Watermark | None, stated: _Stated) -> Judged:
    """The verdict, and why."""
    if signed is not None:
        return _judged_by_credentials(signed, mark)
    seen = mark and f"the pictures carry the watermark of maker {mark.maker}, job {mark.job}"
    if stated.job and path.suffix.lower() in credentials.SUFFIXES:
        rest = f"; {seen}" if seen else ""
        return "altered", f"The credentials that belong to this file are gone or damaged{rest}."
    if seen:
        return "marked", f"Generated with {_OURS}: {seen}. It has no credentials."
    if stated.job or stated.source_type or stated.aigc or _OURS in stated.comment:
        return "stated", (
            "Metadata alone says that it was generated; without a signature or a watermark anybody"
            " may have written that."
        )
    return "unmarked", "No mark was found. That does not prove that nothing was generated."


def _judged_by_credentials(signed: Signed, mark: Watermark | None) -> Judged:
    if signed.state == "invalid":
        what = ", ".join(signed.failures)
        return "altered", f"The file was altered since it was signed, or its credentials: {what}."
    known = "known here" if signed.state == "trusted" else "not known here: trust it with --trust"
    kind = f" as {signed.source_type}" if signed.source_type else ""
    text = f"Signed{kind} by {signed.program}; nothing was altered since. The signer is {known}."
    if signed.job is None:
        return "intact", text
    wanted = str(signed.job.get("watermark"))
    if mark is None:
        return "intact", f"{text} No watermark was found."
    if mark.maker + mark.job != wanted:
        return "altered", f"{text} But its pictures carry the watermark of another video."
    return "intact", f"{text} The watermark in the pictures is that of the credentials."
