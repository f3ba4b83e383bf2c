"""All networks of an avatar together: built from a configuration, or from saved weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from difftalker.config import ModelConfig
from difftalker.errors import AvatarError
from difftalker.landmarks.completion import CompletionNet
from difftalker.landmarks.head_motion import HeadMotion
from difftalker.synthesis.autoencoder import Autoencoder
from difftalker.synthesis.light import LightNet
from difftalker.synthesis.net import SynthesisNet
from difftalker.synthesis.prior import Prior

Weights = dict[str, dict[str, Tensor]]
"""File name to named tensors."""


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """The networks of the diffusion."""

    autoencoder: Autoencoder
    synthesis: SynthesisNet


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks of one avatar."""

    completion: CompletionNet
    motion: HeadMotion
    diffusion: Diffusion | None = None
    """Avatars with a light network may do without."""
    light: LightNet | None = None
    """One pass in place of the diffusion; avatars with a diffusion may do without."""
    live: CompletionNet | None = None
    """Completion of frames as they come; avatars may do without."""

    @property
    def autoencoder(self) -> Autoencoder:
        """That of the diffusion; AvatarError where there is none."""
        return self._diffusion.autoencoder

    @property
    def synthesis(self) -> SynthesisNet:
        """That of the diffusion; AvatarError where there is none."""
        return self._diffusion.synthesis

    @property
    def _diffusion(self) -> Diffusion:
        if self.diffusion is None:
            raise AvatarError("networks without diffusion", wanted="an avatar that has it")
        return self.diffusion

    def state(self) -> Weights:
        """Everything that has to be saved, by part."""
        return {part: dict(net.state_dict()) for part, net in self._parts().items()}

    def architecture(self) -> dict[str, Any]:
        """The diffusers configuration of ``vae`` and ``unet``: what to build before loading."""
        if self.diffusion is None:
            return {}
        nets = {"vae": self.autoencoder.kl, "unet": self.synthesis.prior.unet}
        # Names that begin with _ say nothing of the network; one is the base model's folder.
        return {
            k: {x: y for x, y in net.config.items() if not x.startswith("_")}
            for k, net in nets.items()
        }

    def resolved(self, config: ModelConfig) -> ModelConfig:
        """The configuration with what a base model brought written out, and no base model."""
        if self.diffusion is None:
            return dataclasses.replace(config, base_model="")
        return dataclasses.replace(
            config,
            base_model="",
            autoencoder=self.autoencoder.config,
            prior=self.synthesis.prior.config,
        )

    def load(self, weights: Mapping[str, Mapping[str, Tensor]]) -> Networks:
        """Take saved weights, of any floating type; returns itself.

        Raises:
            AvatarError: they are of other networks.
        """
        for part, net in self._parts().items():
            try:
                net.load_state_dict(weights[part])
            except (RuntimeError, KeyError) as error:
                reason = str(error).splitlines()[-1].strip()
                raise AvatarError(
                    f"the weights of {part} do not fit the avatar's configuration ({reason})",
                    fix="take the avatar's folder anew from where it came",
                ) from error
        return self

    def to(self, device: str) -> Networks:
        """Move everything to a device, ready for use; returns itself."""
        for net in self._parts().values():
            net.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
            net.requires_grad_(False)
        return self

    def rounded(self) -> Networks:
        """Hold the weights that autocast rounds to bfloat16 at each call as such; returns itself.

        Those of convolutions and linear layers; what they compute stays the same to the bit.
        """
        for net in self._parts().values():
            for layer in net.modules() if not isinstance(net, CompletionNet | HeadMotion) else ():
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    layer.to(torch.bfloat16)
        return self

    def _parts(self) -> dict[str, nn.Module]:
        parts: dict[str, nn.Module | None] = {"completion": self.completion, "motion": self.motion}
        if self.diffusion:
            parts |= {"autoencoder": self.autoencoder, "synthesis": self.synthesis}
        parts |= {"light": self.light, "live": self.live}
        return {name: net for name, net in parts.items() if net is not None}


def build(
    config: ModelConfig,
    architecture: Mapping[str, Any] | None = None,
    *,
    parts: Collection[str] = (),
    diffusion: bool = True,
) -> Networks:
    """New networks, untrained but for what ``config.base_model`` brings.

    ``architecture`` is what :meth:`Networks.architecture` gave for networks to be loaded; ``parts``
    say whether ``light`` and ``live`` are among them.
    """
    return Networks(
        completion=CompletionNet(config.completion),
        motion=HeadMotion(),
        diffusion=_build_diffusion(config, architecture or {}) if diffusion else None,
        light=build_light(config) if "light" in parts else None,
        live=CompletionNet(config.live) if "live" in parts else None,
    )


def _build_diffusion(config: ModelConfig, shape: Mapping[str, Any]) -> Diffusion:
    autoencoder = build_autoencoder(config, shape.get("vae"))
    prior = build_prior(config, shape.get("unet"))
    synthesis = SynthesisNet(config.synthesis, prior, config.completion)
    return Diffusion(autoencoder=autoencoder, synthesis=synthesis)


def build_light(config: ModelConfig) -> LightNet:
    """A new light network."""
    return LightNet(config.light, config.synthesis, config.completion)


def build_autoencoder(config: ModelConfig, vae: Mapping[str, Any] | None = None) -> Autoencoder:
    """A new autoencoder, that of the base model, or one of a diffusers configuration."""
    if config.base_model:
        return Autoencoder.from_diffusers(config.base_model)
    return Autoencoder(config.autoencoder, vae=vae)


def build_prior(config: ModelConfig, unet: Mapping[str, Any] | None = None) -> Prior:
    """A new prior, that of the base model, or one of a diffusers configuration."""
    if config.base_model:
        return Prior.from_diffusers(config.base_model)
    return Prior(config.prior, config.autoencoder.latent_channels, unet=unet)
