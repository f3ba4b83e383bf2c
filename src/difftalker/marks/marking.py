"""All marks of one video, from its first picture to its finished file.

marker = Marker(Marks(), work, width, height)
image = marker.mark(image, time_s)      each picture: the watermark, and the visible label
marker.tags                             for the container
marker.finish(path)                     XMP, then the signature, last
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker.errors import UsageError
from difftalker.marks import credentials, metadata
from difftalker.marks.code import FIELD_BITS, Message
from difftalker.marks.identity import Identity, identity
from difftalker.marks.label import SHOWN_S, labelled
from difftalker.marks.watermark import Watermark
from difftalker.store.journal import file_hash

logger = logging.getLogger(__name__)

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Marks:
    """How a video says that it was generated."""

    off: str = ""
    """Why it carries no marks but the comment, which then states this; empty: it carries them."""
    aigc: bool = False
    """Whether it has the label of GB 45438 too, in its metadata and to be seen."""
    credentials: str | None = None
    """A folder with the key to sign with (``marks.identity``); None: the user's own."""

    def __post_init__(self) -> None:
        if self.off and not self.off.strip():
            raise UsageError("marks are turned off without a reason", wanted="a reason in words")
        if self.off and self.aigc:
            raise UsageError("the AIGC label together with no marks", wanted="one of them")

    def warn(self, output: str | Path) -> None:
        """Say in the log where a marked video carries fewer marks than it could."""
        if not self.off and Path(output).suffix.lower() == ".mkv":
            logger.warning(
                "%s: Matroska cannot carry content credentials; it gets the watermark and tags"
                " alone, .mp4 gets all marks",
                output,
            )


MARKED = Marks()
"""All marks, by the key of the user."""
UNMARKED = Marks(off="measured as the networks make it")
"""For pictures that are measured, not shown."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What was made."""

    comment: str
    """For people."""
    job: str
    """A hash of all that the video follows from, 32 hexadecimal digits or more."""
    avatar: str
    footage: Path | None = None
    """None where the whole picture is generated."""
    speech: Path | None = None


class Marker:
    """Marks one video."""

    def __init__(self, marks: Marks, work: Work, width: int, height: int) -> None:
        """``width`` and ``height`` are those of the pictures, pixels.

        A reason for no marks is logged.

        Raises:
            UsageError: there is no key where ``marks`` names one.
        """
        if marks.off:
            level = logging.INFO if marks == UNMARKED else logging.WARNING
            what = f"a video with the avatar {work.avatar}"
            logger.log(level, "%s carries no marks, for the reason given: %s", what, marks.off)
        self._marks, self._work, self._size = marks, work, (width, height)
        self._who: Identity | None = None if marks.off else identity(marks.credentials)

    @cached_property
    def _watermark(self) -> Watermark:
        assert self._who is not None
        job = int(self._work.job[: FIELD_BITS // 4], 16)
        return Watermark(Message(maker=self._who.maker, job=job), *self._size)

    def mark(self, image: Image, time_s: float) -> Image:
        """A picture (H, W, 3) with its marks; ``time_s`` is the time since the first one."""
        if self._who is None:
            return image
        if self._marks.aigc and time_s < SHOWN_S:
            image = labelled(image)
        return self._watermark.mark(image)

    @property
    def comment(self) -> str:
        """The file's comment."""
        left_out = f" It carries no marks: {self._marks.off}." if self._marks.off else ""
        return self._work.comment + left_out

    def tags(self, output: str | Path) -> dict[str, str]:
        """The container's tags beside the comment."""
        if self._who is None:
            return {}
        tags = {}
        if Path(output).suffix.lower() not in credentials.SUFFIXES:
            tags = {metadata.TYPE_TAG: self._source_type, metadata.JOB_TAG: self._work.job}
        if self._marks.aigc:
            tags[metadata.AIGC_TAG] = metadata.aigc_text(self._who.maker, self._work.job)
        return tags

    @property
    def _source_type(self) -> str:
        return credentials.GENERATED if self._work.footage is None else credentials.COMPOSITE

    def finish(self, path: Path) -> None:
        """Add to a finished file what comes last; where it can carry it.

        Raises:
            MediaError: it cannot be signed, or a source not be read.
            OSError: there is no room for it.
        """
        if self._who is None or path.suffix.lower() not in credentials.SUFFIXES:
            return
        signed = path.with_name(f".signed{path.name}")
        work, sources = self._work, {"footage": self._work.footage, "speech": self._work.speech}
        try:
            metadata.add_xmp(path, self._source_type, work.job)
            credentials.sign(
                path,
                signed,
                self._who,
                source_type=self._source_type,
                job={
                    "job": work.job,
                    "avatar": work.avatar,
                    "maker": f"{self._who.maker:06x}",
                    "watermark": f"{self._who.maker:06x}{work.job[: FIELD_BITS // 4]}",
                },
                ingredients=[
                    credentials.Ingredient(role=role, path=source, sha256=file_hash(source))
                    for role, source in sources.items()
                    if source is not None
                ],
            )
            signed.replace(path)
        finally:
            signed.unlink(missing_ok=True)
