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

from dataclasses import dataclass

from torch import Tensor, nn

from difftalker.config import CompletionConfig, SynthesisConfig
from difftalker.synthesis.branch import LandmarkBranch, new_prompt
from difftalker.synthesis.cross_attention import WindowCrossAttention
from difftalker.synthesis.prior import Prior, encode, run_block


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
        self.prompt = new_prompt(config, prior, self._speech)
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
            speech = self._no_speech(known) if windows is None else windows
            # The prompt it replaces is the origin, so that training starts at the prior.
            context = self.prior.context.mean(1, keepdim=True) + self.prompt(speech)
        levels = self.branch(maps if self.config.uses_landmarks else None, known, context)
        sources = [levels[-1], *levels[-2::-1], levels[0]]
        pairs = zip(self.cross, sources, strict=True)
        return Guidance([c.keys_values(s) for c, s in pairs], context)  # type: ignore[operator]

    def _no_speech(self, known: Tensor) -> Tensor:
        speech = self._speech
        return known.new_zeros(len(known), speech.window, speech.feature_dim)

    def forward(self, noisy: Tensor, timesteps: Tensor, guidance: Guidance) -> Tensor:
        """Noisy latents (B, C, H, W), timesteps (B,) -> conditioned prediction, (B, C, H, W)."""
        unet, context = self.prior.unet, guidance.context
        encoded = encode(unet, noisy, timesteps, context)
        first, *rest = zip(self.cross, guidance.keys_values, strict=True)
        x = first[0](encoded.middle, first[1], encoded.embedding)
        skips = encoded.skips
        for block, (cross, keys_values) in zip(unet.up_blocks, rest, strict=True):
            count = len(block.resnets)
            x = run_block(block, x, encoded.embedding, context, tuple(skips[-count:]))
            skips = skips[:-count]
            x = cross(x, keys_values, encoded.embedding)
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))  # type: ignore[no-any-return]
