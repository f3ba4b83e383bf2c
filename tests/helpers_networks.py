"""What the tests of networks share: debug sizes, random weights, a tiny base model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from difftalker import config as configs
from difftalker.dubbing import networks
from difftalker.face.draw import CHANNELS
from difftalker.face.landmarks import (
    UPPER,
)
from difftalker.store import avatars
from difftalker.synthesis.autoencoder import (
    Autoencoder,
)
from difftalker.synthesis.net import SynthesisNet
from difftalker.synthesis.prior import Prior
from helpers import face_points

DEBUG = configs.debug().model


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stirred(net: nn.Module, seed: int = 0, spread: float = 0.2) -> Any:
    """The network with weights such that everything matters: none is zero any more."""
    generator = rng(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return net.eval()


def heard(frames: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Upper points (1, F, 37, 2) and windows (1, F, W, C)."""
    config = DEBUG.completion
    upper = torch.rand(1, frames, len(UPPER), 2, generator=rng(seed))
    size = (1, frames, config.window, config.feature_dim)
    return upper, torch.randn(size, generator=rng(seed + 1))


def prior(seed: int = 0) -> Prior:
    torch.manual_seed(seed)
    return Prior(DEBUG.prior, DEBUG.autoencoder.latent_channels).eval()


def synthesis(*, stir: bool) -> SynthesisNet:
    torch.manual_seed(1)
    net = SynthesisNet(DEBUG.synthesis, prior())
    if stir:
        stirred(net.branch), stirred(net.cross)
    return net.eval()


def inputs(frames: int = 2, size: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy and known latents, timesteps and drawn maps."""
    channels = DEBUG.autoencoder.latent_channels
    noisy, known = torch.randn(2, frames, channels, size, size, generator=rng())
    maps = torch.rand(frames, len(CHANNELS), 8 * size, 8 * size, generator=rng(1))
    return noisy, known, torch.tensor([500, 3])[:frames], maps


def autoencoder(*, attention: bool = False) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(dataclasses.replace(DEBUG.autoencoder, attention=attention)).eval()


def write_base_model(folder: Path) -> Path:
    """A tiny random model in the diffusers layout, built as Stable Diffusion 1.5 is."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")
    unet: Any = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        norm_num_groups=8,
    )
    unet.save_pretrained(folder / "unet")
    DDIMScheduler(prediction_type="epsilon", beta_schedule="scaled_linear").save_pretrained(
        folder / "scheduler"
    )
    return folder


def sd15_config(base_model: Path) -> configs.Config:
    """The preset with this base model, and its other sizes small."""
    return configs.override(
        configs.preset("sd15"),
        {
            "model.base_model": str(base_model),
            "model.size_px": "64",
            "model.completion.features": "mel",
            "model.completion.feature_dim": "80",
            "model.completion.width": "16",
            "model.sampling.steps": "2",
            "training.landmarks.steps": "1",
            "training.landmarks.batch": "2",
            "training.synthesis.steps": "1",
            "training.synthesis.batch": "2",
            "training.decoder.steps": "1",
            "training.decoder.batch": "2",
            "training.light.steps": "1",
            "training.light.batch": "2",
            "training.live.steps": "1",
            "training.live.batch": "2",
            "model.live.features": "mel-live",
            "model.live.feature_dim": "80",
            "model.live.width": "16",
            "training.span_frames": "12",
            "training.validation_clips": "1",
        },
    )


def write_untrained(folder: Path, parts: tuple[str, ...] = ()) -> Path:
    """Write an untrained avatar of the smallest preset, whose head holds still."""
    torch.manual_seed(0)
    nets = networks.build(DEBUG, parts=parts)
    if parts:
        nets.motion.fit([(np.repeat(face_points(0.03)[None, list(UPPER)], 60, 0), 25.0)])
    avatars.write(
        folder,
        name="nobody",
        config=nets.resolved(DEBUG),
        architecture=nets.architecture(),
        weights=nets.state(),
        facts={},
        card="untrained",
    )
    return folder
