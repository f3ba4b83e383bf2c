"""How long a training takes: so many minutes in all, shared out among its stages.

    RUN/budget.json    minutes of the whole and of each stage, as first shared out

A training of given time ends when the time is over, wherever it is: on a slow machine it has
learned less.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from difftalker.config import STAGES, Config, StageConfig
from difftalker.core.files import write_whole
from difftalker.errors import UsageError
from difftalker.training.sources import OF_DIFFUSION

DEFAULT_MINUTES = 60.0
"""For the light network alone."""
SHARES = {
    "landmarks": 1.0,
    "autoencoder": 4.0,
    "prior": 4.0,
    "synthesis": 5.0,
    "decoder": 2.0,
    "light": 12.0,
    "live": 1.0,
}
"""How the time is shared out among the stages that there are."""
WITH_DIFFUSION = {"landmarks": 2.0}
"""What differs where the diffusion is trained: its pictures are drawn after these landmarks."""
AT_THE_END = 0.12
"""Share of the time for what the stages do before their first step, and the report at the end."""
LEAST_MINUTES = 0.25
"""For a stage."""
MOST_STEPS = 100_000
"""Enough that a stage ends by its time."""
LIGHT_BATCH, LIGHT_RATE = 8, 4e-4
"""The batch and peak of the learning rate with which the light network is tuned in a given time."""
WATCH_STEPS = 100
"""Between validations of it."""


def with_budget(config: Config, minutes: float, spent_minutes: float, run: Path) -> Config:
    """The configuration with the time of each stage; a run that goes on keeps what it began with.

    ``spent_minutes`` of the whole have passed before the first stage.

    Raises:
        UsageError: no time is left for the stages.
    """
    path = run / "budget.json"
    if path.is_file():
        stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
    else:
        stages = _shared_out(config, minutes, spent_minutes)
        run.mkdir(parents=True, exist_ok=True)
        record = {"minutes": minutes, "stages": stages}
        write_whole(path, json.dumps(record, indent=1) + "\n")
    changed: dict[str, Any] = {
        name: _limited(name, getattr(config.training, name), stages[name]) for name in stages
    }
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **changed))


def left_minutes(config: Config, run: Path, minutes: float) -> float:
    """How long a training will still take, its measurements at the end included."""
    left = minutes * AT_THE_END
    for stage in STAGES:
        known = run / stage / "checkpoint" / "facts.json"
        spent_s = json.loads(known.read_text())["seconds"] if known.is_file() else 0.0
        left += max(0.0, getattr(config.training, stage).minutes - spent_s / 60)
    return left


def _shared_out(config: Config, minutes: float, spent_minutes: float) -> dict[str, float]:
    """Minutes of each stage that is to be trained."""
    left_out = () if config.training.diffusion else OF_DIFFUSION
    due = [s for s in STAGES if s not in left_out and getattr(config.training, s).steps]
    left = minutes * (1 - AT_THE_END) - spent_minutes
    if left < LEAST_MINUTES * len(due):
        raise UsageError(
            f"{minutes:g} minutes, of which {spent_minutes:.1f} went into preparing the footage",
            wanted=f"{LEAST_MINUTES * len(due):g} more for {len(due)} stages",
            fix="give it more time with --minutes, or less footage",
        )
    of = SHARES | (WITH_DIFFUSION if config.training.diffusion else {})
    whole = sum(of[name] for name in due)
    return {name: round(left * of[name] / whole, 3) for name in due}


def _limited(name: str, stage: StageConfig, minutes: float) -> StageConfig:
    limited = dataclasses.replace(stage, minutes=minutes, steps=MOST_STEPS, warmup_steps=20)
    if name != "light":
        return limited
    return dataclasses.replace(
        limited, batch=LIGHT_BATCH, learning_rate=LIGHT_RATE, validate_every=WATCH_STEPS, ema=0.99
    )
