"""What a judge is: a measure that needs a network or files of its own, beside ``metrics``.

A judge says what it measures and looks at one video at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from difftalker.evaluation.footage import Figures, Footage, Output
from difftalker.face.detect.track import FaceTrack


class Judge(Protocol):
    """Who gives figures to a video by means that not every machine has."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of all figures that it gives."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """For report.json: which weights by their sha256, how right they are by their own card."""

    def judge(self, clip: Footage, output: Output, made: FaceTrack) -> Figures:
        """The figures of one video; what does not apply to it is not a number, or left out.

        ``made`` holds the landmarks found on the output, at the footage's times. Crops of both
        videos are shared: ``clip.crops()`` and ``clip.crops(output.video)``.
        """


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """What judges are opened with; a file that is not given leaves out the judge that needs it."""

    device: str = "cpu"
    """Where networks compute."""
    alignments: Path | None = None
    """A folder of GRID's word times, `CLIP.align`."""
    sync: Path | None = None
    """A sync expert made by `difftalker train-expert sync`, in place of the packaged one."""
    syncnet: Path | None = None
    """SyncNet's official weights."""
    alexnet: Path | None = None
    """AlexNet's weights, for LPIPS."""
