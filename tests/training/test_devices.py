"""Training beside an accelerator, as far as a CPU can tell.

The device ``meta`` stands for one: tensors there have no values. What was left on the CPU cannot be
computed with them, and what has to be read, or sized by values, cannot be had.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines.made import SMALL
from difftalker import config as configs
from difftalker.baselines import systems
from difftalker.baselines.base import BaselineOptions
from difftalker.core.device import autocast
from difftalker.data.dataset import load_dataset
from difftalker.training.options import TrainOptions
from difftalker.training.run import Run
from difftalker.training.task import Prepares
from difftalker.training.trainer import Trainer
from helpers_training import Finished


@contextmanager
def with_zeros() -> Iterator[None]:
    """Let what is made on meta be stored: as zeros."""
    cpu = Tensor.cpu

    def zeros(tensor: Tensor, *given: Any) -> Tensor:
        on_meta = tensor.device.type == "meta"
        return torch.zeros(tensor.shape, dtype=tensor.dtype) if on_meta else cpu(tensor, *given)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Tensor, "cpu", zeros)
        # Where a sampler's table has the first of its times.
        patched.setattr(Tensor, "nonzero", lambda tensor: torch.zeros(1, tensor.ndim).long())
        yield


def trainer_on_meta(finished: Finished, folder: Path, stage: str) -> Trainer:
    """A stage's trainer as on an accelerator, its examples prepared."""
    shutil.copytree(finished.folder, folder)
    shutil.rmtree(folder / stage)
    options = TrainOptions(dataset=finished.dataset, run=folder, stages=(stage,), device="meta")
    with with_zeros():
        trainer = Run(configs.debug(), options).trainer(stage)
        if isinstance(trainer.task, Prepares):
            trainer.task.prepare()
    return trainer


@pytest.mark.filterwarnings("ignore:.*no-op")
@pytest.mark.parametrize("stage", configs.STAGES)
def test_a_step_computes_all_on_its_device_and_waits_for_nothing(
    stage: str, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta has none
    trainer = trainer_on_meta(finished, tmp_path / "run", stage)
    takes_a_step(trainer)


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_so_does_a_step_of_a_baseline(
    name: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    system, data = systems.SYSTEMS[name], load_dataset(dataset, validation_clips=1)
    config = systems.configuration(system, data, "mel", SMALL[name])
    net = system.network(config).to("meta")
    net.remember(data.train)
    options = BaselineOptions(run=tmp_path, features="mel", device="meta")
    with with_zeros():
        stages = list(system.stages(net, config, data, options))
    for stage in stages:
        folder = tmp_path / stage.task.name
        trainer = Trainer(stage.task, stage.config, folder, autocast=False, device="meta")
        if isinstance(stage.task, Prepares):
            with with_zeros():
                stage.task.prepare()
        takes_a_step(trainer)


def takes_a_step(trainer: Trainer) -> None:
    """Take one, and see that all of it is on meta and that weights have changed."""
    trainer.task.model.train()
    before = {name: weights._version for name, weights in trainer.parameters.items()}
    numbers = trainer.one_step(trainer.batches.batch(0))
    assert {one.device.type for one in trainer.parameters.values()} == {"meta"}
    assert any(weights._version > before[name] for name, weights in trainer.parameters.items())
    with pytest.raises(NotImplementedError, match="no data"):
        numbers.read()


def test_an_accelerator_computes_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(torch, "autocast", lambda *given, **named: asked.append((*given, named)))
    autocast("cuda")
    autocast("cuda:1", False)
    autocast("mps")
    assert asked == [
        ("cuda", torch.bfloat16, {"enabled": True}),
        ("cuda", torch.bfloat16, {"enabled": False}),
        ("mps", torch.bfloat16, {"enabled": False}),
    ]
