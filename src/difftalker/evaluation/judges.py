"""Judges: measures that need a network or files of their own, beside those of ``metrics``.

A judge says what it measures and looks at one video at a time. To add one: write its class in a
module of its own, add what it needs to ``JudgeOptions`` (and to ``difftalker evaluate``), and a
line to ``_OPENERS``. This module loads nothing heavy: that is left to the openers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from difftalker.store import experts as expert

if TYPE_CHECKING:
    from difftalker.evaluation.scoring import Figures, Footage, Output
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


def _lips(options: JudgeOptions) -> Judge | None:
    if "lips" not in expert.packaged():
        return None
    from difftalker.evaluation.lipreading import LipJudge

    return LipJudge(alignments=options.alignments, device=options.device)


def _closure(options: JudgeOptions) -> Judge | None:
    if options.alignments is None:
        return None
    from difftalker.evaluation.closure import ClosureJudge

    return ClosureJudge(options.alignments)


def _sync(options: JudgeOptions) -> Judge | None:
    from difftalker.evaluation.sync import SyncJudge

    if options.sync is None and "sync" not in expert.packaged():
        return None
    return SyncJudge(options.sync or "", device=options.device)


def _syncnet(options: JudgeOptions) -> Judge | None:
    from difftalker.evaluation.sync import OfficialSyncJudge

    return OfficialSyncJudge(options.syncnet, device=options.device) if options.syncnet else None


def _perceptual(options: JudgeOptions) -> Judge | None:
    from difftalker.evaluation.perceptual import PerceptualJudge

    return PerceptualJudge(options.alexnet, device=options.device)


_OPENERS: tuple[Callable[[JudgeOptions], Judge | None], ...] = (
    _sync,
    _syncnet,
    _perceptual,
    _lips,
    _closure,
)
"""Each gives a judge, or None where its files were not given or are not packaged."""


def open_judges(options: JudgeOptions) -> tuple[Judge, ...]:
    """All judges that can be had: the packaged experts, and those whose files were given.

    Raises:
        DiffTalkerError: a file that was given cannot be used.
    """
    opened = (opener(options) for opener in _OPENERS)
    return tuple(judge for judge in opened if judge is not None)
