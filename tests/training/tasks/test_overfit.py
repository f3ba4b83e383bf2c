"""Every stage learns: on one batch its loss falls far below where it began."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from difftalker import config as configs
from difftalker.config import STAGES
from difftalker.training.options import TrainOptions
from difftalker.training.run import Run
from difftalker.training.task import Fits, Prepares, Task
from difftalker.training.trainer import Trainer

STEPS = 40


class OneBatch:
    """A task that has a single batch, and the same noise in each step."""

    def __init__(self, task: Task) -> None:
        self._task, self.name, self.examples = task, task.name, task.examples
        if isinstance(task, Fits):
            task.fit()
        if isinstance(task, Prepares):
            task.prepare()
        some = np.linspace(0, task.examples - 1, 4).astype(np.int64)
        self._batch = task.batch(some, torch.Generator().manual_seed(0))
        self.describe, self.validate, self.sheet = task.describe, dict, lambda: None

    @property
    def model(self) -> nn.Module:
        return self._task.model

    def batch(self, *_: object) -> dict[str, Tensor]:
        return self._batch

    def loss(self, batch: dict[str, Tensor], *_: object) -> dict[str, Tensor]:
        return self._task.loss(batch, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def begun(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose stages before the last are trained for a few steps, as the last one wants."""
    folder = tmp_path_factory.mktemp("run")
    stages = ("autoencoder", "prior", "synthesis", "decoder")
    config = configs.debug()
    # The least squares fit leaves the networks little to learn: here they begin at the mean face.
    completion = replace(config.model.completion, least_squares=False, dropout=0.0)
    live = replace(config.model.live, least_squares=False, dropout=0.0)
    config = replace(config, model=replace(config.model, completion=completion, live=live))
    untuned = replace(config.training.decoder, steps=0)
    config = replace(config, training=replace(config.training, decoder=untuned))
    run = Run(config, TrainOptions(dataset=dataset, run=folder, stages=stages))
    run.train()
    return run


# Decoder and light have a critic: of their losses, the distance of pictures has to fall.
@pytest.mark.parametrize(
    ("stage", "number", "share"),
    [
        ("landmarks", "loss", 0.85),
        ("autoencoder", "loss", 0.5),
        ("prior", "loss", 0.35),
        ("synthesis", "loss", 0.65),
        ("decoder", "distance", 0.7),
        ("light", "distance", 0.75),
        ("live", "loss", 0.9),
    ],
)
def test_a_stage_overfits_one_batch(
    begun: Run, stage: str, number: str, share: float, tmp_path: Path
) -> None:
    config = replace(
        getattr(begun.config.training, stage),
        steps=STEPS,
        learning_rate=3e-3,
        validate_every=STEPS,
        checkpoint_every=STEPS,
    )
    task = OneBatch(begun.trainer(stage).task)
    Trainer(task, config, tmp_path, autocast=False).run()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    losses = [one[number] for one in map(json.loads, lines) if number in one]
    assert len(losses) == STEPS
    assert 0 < losses[-1] < share * losses[0]


def test_every_stage_is_among_them() -> None:
    marks = test_a_stage_overfits_one_batch.pytestmark  # type: ignore[attr-defined]
    assert tuple(stage for stage, _, _ in marks[0].args[1]) == STAGES
