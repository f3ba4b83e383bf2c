"""Training as a job: plain data that a command line, a server or a batch fills in alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar

from difftalker.config import STAGES
from difftalker.core.jobs import Cancel, Job, OnEvent, never, no_event

if TYPE_CHECKING:
    from difftalker.training.api import Trained


@dataclass(frozen=True, kw_only=True)
class TrainJob(Job):
    """Train an avatar; the fields are the arguments of ``training.api.train``."""

    kind: ClassVar[str] = "train"
    inputs: ClassVar[tuple[str, ...]] = ("footage", "start", "face", "people")
    outputs: ClassVar[tuple[str, ...]] = ("output",)
    suffix: ClassVar[str] = ""

    footage: tuple[str, ...]
    """Video files, folders of them, or one dataset made by ``prepare``."""
    output: str
    """The avatar's folder."""
    consent: str = ""
    """Who agreed to this avatar, and how."""
    preset: str = "tiny"
    completion: str = "default"
    features: str = ""
    """Speech features in place of the preset's."""
    quality: str = "auto"
    """``best``, ``light``: the light network alone, or ``auto``: that with preset tiny."""
    size: int | None = None
    """Side of the crops, 256, 384 or 512 pixels; None: by the footage."""
    minutes: float | None = None
    """How long it may take; 0: until all steps are taken, None: an hour for the light network."""
    start: str = ""
    """An avatar to begin from; by default the packaged one, ``none``: at random."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Single values of the preset, such as ``{"training.prior.steps": "200"}``."""
    stages: tuple[str, ...] = STAGES
    face: str = "largest"
    clips: tuple[str, ...] = ()
    """Which of the footage; empty: all."""
    people: str = ""
    """A folder with a dataset of each of other people, whose speech and lips are learned too."""
    run_folder: str = ""
    """Where checkpoints, logs and sheets go; by default ``OUTPUT-run``."""
    name: str = ""
    """What the avatar is called; by default as its folder."""
    source: str = ""
    """Corpus and licence of the footage, for the card."""
    command: str = "difftalker.train"
    """What was called, for the card."""
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    """Number of CPU threads; 0: all."""

    def run(self, on_event: OnEvent = no_event, cancel: Cancel = never) -> Trained:
        """Train as the job says.

        ``on_event`` is called for each clip prepared, each step and each stage of the report;
        ``cancel`` is asked there.

        Raises:
            Cancelled: ``cancel`` returned True; the same job goes on from there.
            DiffTalkerError: as :func:`difftalker.training.api.train`.
        """
        from difftalker.training.api import train

        values = {one.name: getattr(self, one.name) for one in fields(self)}
        run_folder, people = (values.pop(name) or None for name in ("run_folder", "people"))
        return train(
            values.pop("footage"),
            values.pop("output"),
            run=run_folder,
            people=people,
            on_event=on_event,
            cancel=cancel,
            **values,
        )
