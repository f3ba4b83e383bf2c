"""The preset ``paper`` trains through the public door, at the sizes of ``debug``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import difftalker
from difftalker import config as configs
from difftalker.store.calibration import UNMEASURED
from difftalker.training.artefacts import load
from difftalker.training.trainer import Trainer

SMALL = {
    "model.size_px": "64",
    "model.completion.features": "mel",
    "model.completion.feature_dim": "80",
    "model.completion.width": "16",
    "model.completion.audio_dim": "16",
    "model.autoencoder.channels": "8,16",
    "model.autoencoder.latent_channels": "4",
    "model.autoencoder.groups": "4",
    "model.prior.channels": "8,16",
    "model.prior.groups": "4",
    "model.prior.head_dim": "8",
    "model.prior.context_dim": "8",
    "model.synthesis.stem_channels": "4,4,8",
    "model.sampling.steps": "2",
    "training.validation_clips": "1",
    "training.span_frames": "12",
    **{
        f"training.{stage}.{name}": "2"
        for stage in ("landmarks", "autoencoder", "prior", "synthesis")
        for name in ("steps", "batch")
    },
}


def test_the_paper_trains_its_stages(dataset: Path, tmp_path: Path) -> None:
    trained = difftalker.train(
        [dataset],
        tmp_path / "avatar",
        consent="drawn faces",
        preset="paper",
        start="none",
        settings=SMALL,
        device="cpu",
    )
    assert trained.avatar == tmp_path / "avatar"
    for stage in ("landmarks", "autoencoder", "prior", "synthesis"):
        log = (trained.run / stage / "log.jsonl").read_text().splitlines()
        assert json.loads(log[0])["step"] == 2
    assert not (trained.run / "decoder" / "checkpoint").exists()
    left = load(trained.run / "decoder" / "artefact")
    begun = load(trained.run / "autoencoder" / "artefact")
    assert left.calibration == UNMEASURED
    for name, tensor in begun.weights["autoencoder"].items():
        assert torch.equal(left.weights["autoencoder"][name], tensor)
    assert not (trained.run / "made-latents").exists()


def test_without_averaging_limit_or_schedule_steps_are_adams(tmp_path: Path) -> None:
    task, config = Line(), dataclasses.replace(configs.paper().training.landmarks, steps=5, batch=1)
    Trainer(task, config, tmp_path, autocast=False).run()
    weight = torch.nn.Parameter(torch.zeros(()))
    adam = torch.optim.Adam([weight], lr=5e-4)
    for _ in range(5):
        adam.zero_grad()
        (1000 * weight - 1).square().backward()
        adam.step()
    assert float(task.model.weight) == float(weight) != 0


class Weight(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))


class Line:
    """One weight, drawn to 0.001 by a steep loss."""

    name, examples = "line", 1

    def __init__(self) -> None:
        self.model = Weight()

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        return {}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": (1000 * self.model.weight - 1).square()}

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        return ["line"]

    def validate(self) -> dict[str, float]:
        return {}

    def sheet(self) -> None:
        return None
