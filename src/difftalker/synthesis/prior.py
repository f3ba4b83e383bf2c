"""The prior: a denoising U-Net over faces, frozen in the second stage (Section 2.4).

Shape letters: B frames, C latent channels, D channels of a level, H W its size, L tokens of a
prompt, E width of the timestep's embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from difftalker.config import PriorConfig
from difftalker.errors import AssetError
from difftalker.synthesis.autoencoder import from_layout


class Prior(nn.Module):
    """The U-Net that denoises faces; (B, C, H, W) and timesteps (B,) -> prediction (B, C, H, W).

    ``PriorConfig.prediction`` is what it predicts: ``epsilon`` or ``v_prediction``.
    """

    def __init__(
        self, config: PriorConfig, latent_channels: int, *, unet: Mapping[str, Any] | None = None
    ) -> None:
        """``unet`` is a diffusers configuration to build from in place of ``config``."""
        super().__init__()
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        self.config = config
        self.unet: Any = (
            UNet2DConditionModel.from_config(dict(unet))
            if unet
            else _new_unet(config, latent_channels)
        )
        self.context: Tensor
        tokens = config.context_tokens
        self.register_buffer(
            "context", torch.zeros(1, tokens, self.unet.config.cross_attention_dim)
        )

    @classmethod
    def from_diffusers(cls, path: str | Path) -> Prior:
        """Load the ``unet`` of a model in the diffusers layout, with an empty prompt.

        Raises:
            AssetError: a part is not there, or the package transformers is missing.
        """
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        unet: Any = from_layout(UNet2DConditionModel, path, "unet")
        context = _empty_prompt(path, unet.config.cross_attention_dim)
        config = PriorConfig(
            channels=tuple(unet.config.block_out_channels),
            layers=unet.config.layers_per_block,
            groups=unet.config.norm_num_groups,
            context_dim=unet.config.cross_attention_dim,
            context_tokens=context.shape[1],
            prediction=_scheduler_prediction(path),
        )
        prior = cls(config, unet.config.in_channels, unet=unet.config)
        prior.unet = unet
        prior.context = context
        return prior

    def forward(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """(B, C, H, W), (B,) -> (B, C, H, W)."""
        context = self.context.expand(len(noisy), -1, -1)
        out: Tensor = self.unet(noisy, timesteps, context).sample
        return out


@dataclass(frozen=True)
class Encoded:
    """Features of a U-Net's encoder, for its decoder."""

    middle: Tensor
    """(B, D, H, W): features of the lowest level."""
    skips: list[Tensor]
    """One feature map for each skip connection, finest first."""
    embedding: Tensor
    """(B, E): embedding of the timestep."""


def encode(
    unet: Any, latents: Tensor, timesteps: Tensor, context: Tensor, extra: Tensor | float = 0.0
) -> Encoded:
    """Run the encoder of a U-Net: latents (B, C, H, W), timesteps (B,), context (B, L, D).

    ``unet`` owns the blocks: a diffusers U-Net or a ``UNetEncoder``. ``extra`` is added after the
    first convolution.
    """
    embedding = unet.time_embedding(unet.time_proj(timesteps).to(latents.dtype))
    x = unet.conv_in(latents) + extra
    skips = [x]
    for block in unet.down_blocks:
        x, new = run_block(block, x, embedding, context)
        skips += new
    middle = run_block(unet.mid_block, x, embedding, context)
    return Encoded(middle=middle, skips=skips, embedding=embedding)


class UNetEncoder(nn.Module):
    """Down blocks and middle of a U-Net, as a module of its own."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.time_proj, self.time_embedding = unet.time_proj, unet.time_embedding
        self.conv_in, self.down_blocks, self.mid_block = (
            unet.conv_in,
            unet.down_blocks,
            unet.mid_block,
        )

    def forward(
        self, latents: Tensor, timesteps: Tensor, context: Tensor, extra: Tensor | float = 0.0
    ) -> Encoded:
        """Latents (B, C, H, W), timesteps (B,), context (B, L, D); see ``encode``."""
        return encode(self, latents, timesteps, context, extra)


def run_block(
    block: Any, x: Tensor, embedding: Tensor, context: Tensor, skips: tuple[Tensor, ...] = ()
) -> Any:
    """Call a block of a diffusers U-Net, with the context if it attends."""
    inputs: dict[str, Any] = {"hidden_states": x, "temb": embedding}
    if getattr(block, "has_cross_attention", False):
        inputs["encoder_hidden_states"] = context
    if skips:
        inputs["res_hidden_states_tuple"] = skips
    return block(**inputs)


def _new_unet(config: PriorConfig, latent_channels: int) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    levels, low = len(config.channels), config.attention_levels
    return UNet2DConditionModel(
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        down_block_types=("DownBlock2D",) * (levels - low) + ("CrossAttnDownBlock2D",) * low,
        up_block_types=("CrossAttnUpBlock2D",) * low + ("UpBlock2D",) * (levels - low),
        cross_attention_dim=config.context_dim,
        attention_head_dim=tuple(c // config.head_dim for c in config.channels),
        norm_num_groups=config.groups,
    )


def _scheduler_prediction(path: str | Path) -> str:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler: Any = from_layout(DDIMScheduler, path, "scheduler")
    return str(scheduler.config.prediction_type)


def _empty_prompt(path: str | Path, width: int) -> Tensor:
    """The text encoder's output for an empty prompt, (1, L, D); one zero token without encoder."""
    if Path(path).is_dir() and not (Path(path) / "text_encoder").is_dir():
        return torch.zeros(1, 1, width)
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise AssetError(
            "the text encoder of the base model needs the package transformers",
            fix="install it with `pip install 'difftalker[sd15]'`",
        ) from error
    tokenizer = from_layout(CLIPTokenizer, path, "tokenizer")
    encoder = from_layout(CLIPTextModel, path, "text_encoder")
    tokens = tokenizer(
        "", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    with torch.no_grad():
        context: Tensor = encoder(tokens.input_ids).last_hidden_state
    return context
