"""The loss of the landmarks, Eq. 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from difftalker import config as configs
from difftalker.data.dataset import load_dataset
from difftalker.face.landmarks import LOWER, UPPER
from difftalker.landmarks.completion import CompletionNet
from difftalker.training.tasks import LandmarkTask


def test_the_landmark_loss_is_eq_1(dataset: Path) -> None:
    data = load_dataset(dataset, validation_clips=1)
    torch.manual_seed(0)
    model = CompletionNet(configs.debug().model.completion).eval()
    task = LandmarkTask(model, data, span=12)
    task.fit()
    batch = task.batch(np.array([0, 4]), torch.Generator().manual_seed(0))
    with torch.no_grad():
        mse = float(task.loss(batch, torch.Generator())["mse"])
        out = model(batch["points"][:, :, list(UPPER)], batch["windows"]).points
    gaps = (out - batch["points"]).double().numpy()[:, :, list(LOWER)]
    by_hand = [gap[0] ** 2 + gap[1] ** 2 for gap in gaps.reshape(-1, 2)]
    assert mse == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)
