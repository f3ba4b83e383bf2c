"""Do the lips close where the speech has a p, b or m? None of these can be said with open lips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from difftalker.errors import UsageError
from difftalker.evaluation.footage import Figures, Footage, Output
from difftalker.evaluation.judges.base import JudgeOptions
from difftalker.face.detect.track import FaceTrack
from difftalker.face.lips import relative_opening
from difftalker.speech.grid import PRONUNCIATIONS, Word, read_alignment

CLOSED_BELOW = 0.03
"""Opening of the inner lips, in face scales, at which lips count as closed: in 97 % of the p, b and
m of GRID's training clips they come as near, and in 36 % of the open vowels."""
MARGIN_S = 0.04
"""How long before and after the sound its closure may lie: word times are good to about a frame."""
LIP_SOUNDS = ("b", "m", "p")

Span = tuple[float, float]


class ClosureJudge:
    """``closure``: share of the p, b and m whose lips close, where word times are known."""

    name = "closure"
    measures = ("closure",)

    def __init__(self, alignments: Path) -> None:
        """``alignments`` is a folder with `CLIP.align`, as GRID has them.

        Raises:
            UsageError: there is no such folder, or nothing of that kind in it.
        """
        if not alignments.is_dir():
            raise UsageError(f"{alignments} is no folder", wanted="one with GRID's .align files")
        if not any(alignments.glob("*.align")):
            raise UsageError(
                f"the folder {alignments} holds no .align file",
                wanted="GRID's word times, CLIP.align for each clip",
                fix="name the folder of one speaker, such as alignments/s1",
            )
        self._alignments = alignments
        self.facts: Mapping[str, Any] = {"closed_below": CLOSED_BELOW, "margin_s": MARGIN_S}

    @classmethod
    def opened(cls, options: JudgeOptions) -> Self | None:
        """The judge of an evaluation's options; None where no word times are given."""
        return None if options.alignments is None else cls(options.alignments)

    def judge(self, clip: Footage, output: Output, made: FaceTrack) -> Figures:
        """The share of one video; not a number where no words are heard or known."""
        if output.voice is None:
            return {}
        times = self._alignments / f"{output.voice.path.stem}.align"
        if not times.is_file():
            return {}
        spans = lip_sounds(read_alignment(times))
        return {"closure": closure(relative_opening(made.points_px), made.times_s, spans)}


def lip_sounds(words: Sequence[Word]) -> list[Span]:
    """When p, b and m are said, (start, stop) in seconds.

    The sounds of a word are taken to be of the same length; words not of GRID are passed over.
    """
    spans = []
    for word in words:
        phones = PRONUNCIATIONS.get(word.text, ())
        edges = np.linspace(word.start_s, word.stop_s, len(phones) + 1)
        spans += [
            (float(edges[i]), float(edges[i + 1]))
            for i, phone in enumerate(phones)
            if phone in LIP_SOUNDS
        ]
    return spans


def closure(
    opening: NDArray[np.floating], times_s: NDArray[np.float64], spans: Sequence[Span]
) -> float:
    """Share of the spans in which lips close.

    ``opening`` (F,) is that of the inner lips, in face scales; not a number without a face. Lips
    close in a span if the least opening within it, 0.04 s before and after included, is below 0.03.
    A span in which no frame shows a face does not count.
    """
    least = []
    for start, stop in spans:
        within = (times_s >= start - MARGIN_S) & (times_s <= stop + MARGIN_S)
        seen = opening[within & np.isfinite(opening)]
        if len(seen):
            least.append(float(seen.min()))
    return float(np.mean(np.array(least) < CLOSED_BELOW)) if least else np.nan
