"""What an expert's task is built from, and what is then trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from difftalker.config import StageConfig
from difftalker.training.task import Log, Task


@dataclass(frozen=True, kw_only=True)
class ExpertOptions:
    """Options of the training of an expert, besides its dataset."""

    run: Path
    """Checkpoints, logs and whatever is computed once."""
    alignments: Path | None = None
    """A folder of GRID's word times (`.align`)."""
    speech: Path | None = None
    """A folder of further speech with its text (:mod:`difftalker.data.speech`)."""
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class ExpertJob:
    """One expert to train."""

    task: Task
    stage: StageConfig
    config: Mapping[str, Any]
    """Configuration of the network, for config.json."""
    unseen: Callable[[], Log]
    """The trained network's figures on clips held out."""
    about: str
    """What it does, for its card."""
    corpora: str
    """What it was trained on, with licences, for its card."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else its folder says of it."""
    net: nn.Module | None = None
    """What is kept of the task's model; None: all."""
    autocast: bool = True
    """Allow bfloat16 where the processor has fast instructions for it."""
