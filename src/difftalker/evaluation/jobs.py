"""An evaluation as a job: plain data that a command line, a server or a batch fills in alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from difftalker.core.device import pick_device, use_threads
from difftalker.core.jobs import Cancel, Job, OnEvent, never, no_event, reporting
from difftalker.face.detect.people import Choice
from difftalker.media.limits import Limits, limited


@dataclass(frozen=True, kw_only=True)
class EvaluateJob(Job):
    """Measure an avatar on footage that it has not seen."""

    kind: ClassVar[str] = "evaluate"
    avatar: str
    """A packaged avatar's name, or a folder."""
    footage: tuple[str, ...]
    """Video files, or folders of them."""
    report: str
    """The folder for the report."""
    face: str = "largest"
    """Whose face, of several people; see ``face.detect.people.Choice``."""
    clips: tuple[str, ...] = ()
    """Which of the footage; empty: all."""
    rows: tuple[str, ...] = ()
    """What to measure, names of ``evaluation.systems.SYSTEMS``; empty: all."""
    ablations: tuple[str, ...] = ()
    """Rows of other avatars, ``NAME=AVATAR``."""
    predictions: tuple[str, ...] = ()
    """Rows of other programs' videos, ``NAME=FOLDER``."""
    renderer: str = "auto"
    sampler: str | None = None
    steps: int | None = None
    alignments: str | None = None
    """A folder of GRID's word times."""
    sync: str | None = None
    """A sync expert in place of the packaged one."""
    syncnet: str | None = None
    """SyncNet's official weights."""
    alexnet: str | None = None
    """AlexNet's weights, for LPIPS."""
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    """Number of CPU threads; 0: all."""
    limits: Limits = field(default_factory=Limits)
    """What is refused as too large."""

    def run(self, on_event: OnEvent = no_event, cancel: Cancel = never) -> dict[str, Any]:
        """Carry it out; returns the report. See :func:`difftalker.jobs.run`."""
        from difftalker.data.footage import find_footage
        from difftalker.dubbing.avatar import load
        from difftalker.evaluation import run
        from difftalker.evaluation.judges.base import JudgeOptions
        from difftalker.evaluation.judges.table import open_judges
        from difftalker.evaluation.systems import named_paths

        whom = Choice.parse(self.face)
        with limited(self.limits):
            videos = find_footage([Path(one) for one in self.footage], self.clips)
            use_threads(self.threads)
            device = pick_device(self.device)
            judges = open_judges(
                JudgeOptions(
                    device=device,
                    alignments=_path(self.alignments),
                    sync=_path(self.sync),
                    syncnet=_path(self.syncnet),
                    alexnet=_path(self.alexnet),
                )
            )
            speaker = load(self.avatar, device=device)
            others = named_paths(self.ablations)
            programs = named_paths(self.predictions)
            return run.evaluate(
                speaker,
                videos,
                Path(self.report),
                rows=self.rows or None,
                ablations={name: load(one, device=device) for name, one in others.items()},
                predictions={name: Path(one) for name, one in programs.items()},
                judges=judges,
                face=whom,
                renderer=self.renderer,
                sampler=self.sampler,
                steps=self.steps,
                seed=self.seed,
                progress=reporting(on_event, cancel),
            )


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
