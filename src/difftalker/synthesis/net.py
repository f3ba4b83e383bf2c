"""Landmark-driven face synthesis: the frozen prior U-Net and the landmark branch (Section 2.4).

The branch is a trainable copy of the prior's encoder with convolutions over the drawn landmarks.
Its inputs are the clean latents above and the landmarks, not the noise, so it runs once a frame
while the prior runs once a step. Its features enter the frozen decoder through cross-attention,
whose output is zero at the start.

Landmarks do not show teeth and tongue. The speech around the frame may therefore be the prompt of
both U-Nets as well, or, in the ablation without landmarks (Section 3.4), in their place.

Shape letters: B frames, C latent channels, D channels of a level, H W its size, W speech features
in a window, L tokens of a prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.config import CompletionConfig, PriorConfig, SynthesisConfig
from difftalker.errors import AssetError
from difftalker.face.draw import CHANNELS
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
        """See the class."""
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
        """``extra`` is added after the first convolution."""
        embedding = self.time_embedding(self.time_proj(timesteps).to(latents.dtype))
        x = self.conv_in(latents) + extra
        skips = [x]
        for block in self.down_blocks:
            x, new = _run(block, x, embedding, context)
            skips += new
        middle = _run(self.mid_block, x, embedding, context)
        return Encoded(middle=middle, skips=skips, embedding=embedding)


class AudioPrompt(nn.Module):
    """Maps speech features to a prompt, one token a feature; its output is zero at the start.

    Its width is chosen so that it has about as many parameters as the stem over drawn landmarks,
    which it may replace. Features of zero stand for missing speech.
    """

    def __init__(self, speech: CompletionConfig, width: int, parameters: int) -> None:
        super().__init__()
        dim, window = speech.feature_dim, speech.window
        hidden = max(8, (parameters - window * width) // (dim + width + 1))
        self.position = nn.Parameter(torch.zeros(window, width))
        self.read = nn.Sequential(
            nn.LayerNorm(dim, elementwise_affine=False),
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, width, bias=False),
        )
        nn.init.zeros_(self.read[-1].weight)  # type: ignore[arg-type]

    def forward(self, windows: Tensor) -> Tensor:
        """(B, W, features) -> (B, W, D)."""
        tokens: Tensor = self.read(windows) + self.position
        return tokens


class LandmarkBranch(nn.Module):
    """A trainable copy of the prior's encoder, conditioned on drawn landmarks (Section 2.4)."""

    def __init__(self, config: SynthesisConfig, prior: Prior) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(UNetEncoder(prior.unet)).requires_grad_(True)
        stem = _new_stem(config, prior.unet.config.block_out_channels[0])
        self.stem = stem if config.uses_landmarks else None
        self.register_buffer("context", prior.context.clone())
        levels = prior.unet.config.block_out_channels
        self.lateral = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(levels)
        )

    def forward(self, maps: Tensor | None, known: Tensor, context: Tensor) -> list[Tensor]:
        """Maps (B, K, S, S) in 0..1, known latents (B, C, H, W) -> features a level, finest first.

        ``context`` (B, L, D) is the prompt. ``maps`` is None where speech replaces the landmarks.
        """
        steps = torch.zeros(len(known), device=known.device)
        drawn = 0.0 if maps is None or self.stem is None else self.stem(maps)
        encoded = self.encoder(known, steps, context, drawn)
        levels = _last_of_each_size([*encoded.skips, encoded.middle])
        # Coarse levels add their context to finer ones, as in a feature pyramid.
        for i in reversed(range(len(levels) - 1)):
            above = self.lateral[i](levels[i + 1])
            levels[i] = levels[i] + nnf.interpolate(above, size=levels[i].shape[-2:])
        return levels


class WindowCrossAttention(nn.Module):
    """Decoder features attend to landmark features within windows; the output is zero at the start.

    A learned bias starts as one that falls with distance, as geometry is local (windows and learned
    relative bias: Liu et al., "Swin Transformer", 2021).
    """

    def __init__(
        self, config: SynthesisConfig, channels: int, guide_channels: int, embedding: int
    ) -> None:
        super().__init__()
        self.heads, self.window = config.heads, config.window
        self.norm = nn.GroupNorm(_groups(channels), channels)
        self.norm_guide = nn.GroupNorm(_groups(guide_channels), guide_channels)
        self.when = nn.Linear(embedding, channels)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(guide_channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 2 * channels),
            nn.GELU(),
            nn.Linear(2 * channels, channels),
        )
        for last in (self.out, self.mlp[-1]):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.bias = nn.Parameter(_distance_bias(config.heads, config.window))

    def keys_values(self, guide: Tensor) -> tuple[Tensor, Tensor]:
        """Guide (B, G, H, W) -> keys and values, (windows, heads, places, D / heads) each."""
        tokens = _to_windows(self.norm_guide(guide), self._side(guide))
        k, v = (self._split(y) for y in self.kv(tokens).chunk(2, -1))
        return k, v

    def forward(self, x: Tensor, guide: tuple[Tensor, Tensor], embedding: Tensor) -> Tensor:
        """(B, D, H, W), keys and values, (B, E) -> (B, D, H, W)."""
        side = self._side(x)
        now = self.when(nnf.silu(embedding))[:, :, None, None]
        queries = self._split(self.q(_to_windows(self.norm(x) + now, side)))
        k, v = guide
        # With an axis for the windows torch takes its fast attention, without one it does not.
        bias = self._bias_of(side).to(queries.dtype)[None]
        seen = nnf.scaled_dot_product_attention(queries, k, v, attn_mask=bias)
        y = self.out(seen.transpose(1, 2).flatten(2))
        tokens = _to_windows(x, side)
        everywhere = now.flatten(1).repeat_interleave(len(tokens) // len(x), 0)[:, None]
        y = y + self.mlp(tokens + y + everywhere)
        return x + _from_windows(y, side, x.shape[-2:])

    def _side(self, x: Tensor) -> int:
        """The largest side up to the window's at which windows fill the map."""
        height, width = x.shape[-2:]
        sides = range(min(self.window, height, width), 0, -1)
        return next(s for s in sides if height % s == 0 and width % s == 0)

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1))
        return heads.transpose(1, 2)

    def _bias_of(self, side: int) -> Tensor:
        """(heads, side^2, side^2) from the table of relative places."""
        place = torch.arange(side, device=self.bias.device)
        gap = place[:, None] - place[None] + self.window - 1
        table = self.bias[:, gap[:, None, :, None], gap[None, :, None, :]]
        return table.flatten(3, 4).flatten(1, 2)


@dataclass(frozen=True)
class Guidance:
    """Conditions from the landmark branch, computed once for all steps of sampling."""

    keys_values: list[tuple[Tensor, Tensor]]
    context: Tensor
    """(B, L, D): the prompt of the prior."""


class SynthesisNet(nn.Module):
    """Prior and landmark branch together (Figure 1, Section 2.4)."""

    def __init__(
        self, config: SynthesisConfig, prior: Prior, speech: CompletionConfig | None = None
    ) -> None:
        """``speech`` gives the size of speech windows, where the network uses audio."""
        super().__init__()
        self.config, self._speech = config, speech or CompletionConfig()
        self.prior = prior.requires_grad_(config.tune_prior)
        self.branch = LandmarkBranch(config, prior)
        self.prompt = _new_prompt(config, prior, self._speech)
        channels = tuple(prior.unet.config.block_out_channels)
        embedding = prior.unet.time_embedding.linear_2.out_features
        # After the middle, and after each up block: (decoder channels, branch channels).
        places = [(channels[-1], channels[-1])]
        places += [
            (c, g) for c, g in zip(channels[::-1], (*channels[-2::-1], channels[0]), strict=True)
        ]
        self.cross = nn.ModuleList(WindowCrossAttention(config, c, g, embedding) for c, g in places)

    def guide(
        self, known: Tensor, *, maps: Tensor | None = None, windows: Tensor | None = None
    ) -> Guidance:
        """Compute the conditions of frames with known latents (B, C, H, W), masked below.

        ``maps`` (B, K, S, S), 0..1, are drawn landmarks, ``windows`` (B, W, features) speech
        features. The network ignores those that it does not use. Where it uses audio, None means
        that there is no speech.
        """
        if self.prompt is None:
            context = self.branch.context.expand(len(known), -1, -1)  # type: ignore[operator]
        else:
            heard = self._nothing(known) if windows is None else windows
            # The prompt it replaces is the origin, so that training starts at the prior.
            context = self.prior.context.mean(1, keepdim=True) + self.prompt(heard)
        levels = self.branch(maps if self.config.uses_landmarks else None, known, context)
        sources = [levels[-1], *levels[-2::-1], levels[0]]
        pairs = zip(self.cross, sources, strict=True)
        return Guidance([c.keys_values(s) for c, s in pairs], context)  # type: ignore[operator]

    def _nothing(self, known: Tensor) -> Tensor:
        speech = self._speech
        return known.new_zeros(len(known), speech.window, speech.feature_dim)

    def forward(self, noisy: Tensor, timesteps: Tensor, guidance: Guidance) -> Tensor:
        """Noisy latents (B, C, H, W), timesteps (B,) -> conditioned prediction, (B, C, H, W)."""
        unet, context = self.prior.unet, guidance.context
        encoded: Encoded = UNetEncoder.forward(unet, noisy, timesteps, context)
        first, *rest = zip(self.cross, guidance.keys_values, strict=True)
        x = first[0](encoded.middle, first[1], encoded.embedding)
        skips = encoded.skips
        for block, (cross, keys_values) in zip(unet.up_blocks, rest, strict=True):
            count = len(block.resnets)
            x = _run(block, x, encoded.embedding, context, tuple(skips[-count:]))
            skips = skips[:-count]
            x = cross(x, keys_values, encoded.embedding)
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))  # type: ignore[no-any-return]


def _run(
    block: Any, x: Tensor, embedding: Tensor, context: Tensor, skips: tuple[Tensor, ...] = ()
) -> Any:
    """Call a block of a diffusers U-Net, with the context if it attends."""
    inputs: dict[str, Any] = {"hidden_states": x, "temb": embedding}
    if getattr(block, "has_cross_attention", False):
        inputs["encoder_hidden_states"] = context
    if skips:
        inputs["res_hidden_states_tuple"] = skips
    return block(**inputs)


def _last_of_each_size(maps: list[Tensor]) -> list[Tensor]:
    """One map for each size, the deepest, from the largest size down."""
    by_size = {tuple(m.shape[-2:]): m for m in maps}
    return [by_size[size] for size in sorted(by_size, reverse=True)]


def _to_windows(x: Tensor, side: int) -> Tensor:
    """(B, D, H, W) -> (B * windows, side * side, D)."""
    cut: Tensor = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)


def _from_windows(tokens: Tensor, side: int, size: tuple[int, ...]) -> Tensor:
    """The inverse of :func:`_to_windows` for a map of (H, W) = ``size``."""
    rows, columns = size[0] // side, size[1] // side
    cut: Tensor = tokens.unflatten(0, (-1, rows, columns)).unflatten(3, (side, side))
    # Channels stay last in memory, as convolutions want them.
    return cut.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _distance_bias(heads: int, window: int) -> Tensor:
    """(heads, 2 window - 1, 2 window - 1): Gaussians of growing width about a place's own."""
    gap = torch.arange(2 * window - 1) - (window - 1)
    squared = (gap[:, None] ** 2 + gap[None] ** 2).float()
    widths = 0.5 * 2.0 ** torch.arange(heads)
    return -squared / (2 * widths[:, None, None] ** 2)


def _groups(channels: int) -> int:
    return next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0)


def _new_stem(config: SynthesisConfig, width: int) -> nn.Sequential:
    """Convolutions from drawn landmarks to the first level of the encoder."""
    channels = (len(CHANNELS), *config.stem_channels)
    return nn.Sequential(
        *(
            layer
            for a, b in pairwise(channels)
            for layer in (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.SiLU())
        ),
        nn.Conv2d(channels[-1], width, 3, padding=1),
    )


def _new_prompt(
    config: SynthesisConfig, prior: Prior, speech: CompletionConfig
) -> AudioPrompt | None:
    """A prompt as large as the stem over landmarks; None where the network uses no audio."""
    if not config.uses_audio:
        return None
    stem = _new_stem(config, prior.unet.config.block_out_channels[0])
    parameters = sum(p.numel() for p in stem.parameters())
    return AudioPrompt(speech, prior.context.shape[-1], parameters)


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
