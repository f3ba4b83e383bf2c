"""Options of one run of training, as its stages read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from difftalker.config import STAGES


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of one run of training."""

    dataset: Path
    """A folder made by `difftalker prepare`."""
    people: Path | None = None
    """A folder with such a dataset of each of other people, ``people/PERSON``, whose speech and
    lips the completion learns too."""
    run: Path
    """Where checkpoints, logs and sheets go; a run that was stopped goes on from here."""
    stages: tuple[str, ...] = STAGES
    start: str = ""
    """An avatar, by name or folder, whose networks the stages begin from."""
    keep: bool = True
    """Whether stages that are not chosen stay as they are in that avatar; else they are yet to be
    trained."""
    seed: int = 0
    device: str = "cpu"
    threads: int = 0
    """Number of CPU threads; 0: all."""
