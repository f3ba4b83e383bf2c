"""Latents of a dataset's clips, kept from one run to the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from difftalker import config as configs
from difftalker.data.dataset import load_dataset
from difftalker.data.latents import encode_clips
from difftalker.synthesis.autoencoder import Autoencoder


def test_latents_are_kept_for_the_same_weights_alone(dataset: Path, tmp_path: Path) -> None:
    clips = load_dataset(dataset, validation_clips=1).train
    torch.manual_seed(0)
    net = Autoencoder(configs.debug().model.autoencoder)
    calls: list[int] = []

    def encoded() -> Any:
        calls.clear()
        return encode_clips(
            net,
            clips,
            tmp_path / "latents",
            stride=2,
            autocast=False,
            batch=7,
            progress=lambda done, total: calls.append(done),
        )

    first = encoded()
    assert calls == [7, 14, 21, 27]
    assert first.whole.shape == first.masked.shape == (27, 4, 8, 8)
    assert first.index.tolist()[:2] == [[0, 0], [0, 2]]
    assert np.array_equal(encoded().whole, first.whole)
    assert calls == []
    before = np.array(first.whole)
    with torch.no_grad():
        net.kl.encoder.conv_in.bias.add_(1)
    assert not np.array_equal(encoded().whole, before)
    assert len(calls) == 4


def test_latents_of_another_mask_are_not_taken(dataset: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Autoencoder(configs.debug().model.autoencoder)
    masked = []
    for mask in ("jaw", "mouth", "jaw"):
        clips = load_dataset(dataset, validation_clips=1, mask=mask).train
        latents = encode_clips(net, clips, tmp_path / "latents", stride=9, autocast=False)
        masked.append(np.array(latents.masked))
    assert not np.array_equal(masked[0], masked[1])
    assert np.array_equal(masked[0], masked[2])
