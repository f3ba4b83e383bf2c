"""Whether what an avatar's file says of its networks can be built at all, found out without memory.

An avatar may come from anywhere. Its architecture is checked word by word against what diffusers'
classes take; then the networks are built on torch's device ``meta``, where tensors have shapes and
no content, compared with the shapes in the files of weights, and run once. What passes needs no
more memory than its files are large, twice over.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch

from difftalker.config import ModelConfig
from difftalker.core.weights import difference, shapes
from difftalker.dubbing.networks import Diffusion, Networks, build
from difftalker.errors import AvatarError
from difftalker.face.draw import CHANNELS
from difftalker.face.landmarks import UPPER
from difftalker.landmarks.completion import CompletionNet
from difftalker.store.avatars import AvatarFiles
from difftalker.synthesis.light import LightNet

_WORDS = frozenset(
    (
        *("DownEncoderBlock2D", "UpDecoderBlock2D", "DownBlock2D", "UpBlock2D"),
        *("CrossAttnDownBlock2D", "CrossAttnUpBlock2D", "AttnDownBlock2D", "AttnUpBlock2D"),
        *("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"),
        *("silu", "swish", "mish", "gelu", "relu", "default", "positional"),
    )
)
"""All words that an architecture may hold."""
_MAX_NUMBER = 8192
_MAX_LAYERS = 16
_MAX_LIST = 8


def load_networks(files: AvatarFiles) -> Networks:
    """The networks of an avatar, with its weights.

    Raises:
        AvatarError: its configuration, its architecture and its weights do not fit.
    """
    fix = f"copy the folder {files.folder.name} anew from where it came, or train it again"
    try:
        if files.has_diffusion:
            check_architecture(files.architecture)
        with torch.device("meta"):
            wanted = _built(files)
        for part in files.parts:
            expected = {name: tuple(t.shape) for name, t in wanted.state()[part].items()}
            if wrong := difference(shapes(files.part(part)), expected):
                raise ValueError(f"in {part}, {wrong}")
        _run(wanted, files.config)
    except OSError as error:
        raise AvatarError(f"the avatar {files.folder}: {error.strerror}", fix=fix) from error
    # Modules that are put together wrongly fail in as many ways as there are modules.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AvatarError(
            f"the networks of the avatar {files.folder} do not fit each other ({reason[:200]})",
            wanted="an avatar as `difftalker train` writes it",
            fix=fix,
        ) from error
    return _built(files).load(files.weights())


def _built(files: AvatarFiles) -> Networks:
    return build(files.config, files.architecture, parts=files.parts, diffusion=files.has_diffusion)


def check_architecture(architecture: Mapping[str, Any]) -> None:
    """Raise ValueError where a diffusers configuration holds what none of ours can hold."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    kinds = {"vae": AutoencoderKL, "unet": UNet2DConditionModel}
    if set(architecture) != set(kinds):
        raise ValueError(f"the architecture has the parts {', '.join(sorted(architecture))[:80]}")
    for part, kind in kinds.items():
        known = inspect.signature(kind.__init__).parameters
        if not isinstance(architecture[part], dict):
            raise ValueError(f"the architecture of {part} is no object")
        for key, value in architecture[part].items():
            if key not in known or key == "self":
                raise ValueError(f"{part} has the unknown key {key[:80]!r}")
            _check_value(f"{part}.{key}", value, "layers" in key)


def _check_value(name: str, value: Any, counts_layers: bool) -> None:
    if isinstance(value, list):
        fits = len(value) <= _MAX_LIST and not any(isinstance(one, list | dict) for one in value)
        for one in value if fits else ():
            _check_value(name, one, counts_layers)
    elif isinstance(value, str):
        fits = value in _WORDS
    elif isinstance(value, int):
        fits = 0 <= value <= (_MAX_LAYERS if counts_layers else _MAX_NUMBER)
    elif isinstance(value, float):
        fits = math.isfinite(value)
    else:
        fits = value is None
    if not fits:
        raise ValueError(f"{name} is {str(value)[:80]}")


def _run(networks: Networks, config: ModelConfig) -> None:
    """Take two empty frames through networks on the device ``meta``: only shapes are computed.

    Two, as a group of one channel and one place has nothing to normalise in a single frame.
    """
    for net in (networks.completion, networks.live):
        if net:
            _run_completion(net)
    if networks.diffusion:
        _run_diffusion(networks.diffusion, config)
    if networks.light:
        _run_light(networks.light, config)


def _run_completion(net: CompletionNet) -> None:
    with torch.device("meta"), torch.inference_mode():
        speech = torch.zeros(1, 2, net.config.window, net.config.feature_dim)
        found = tuple(net(torch.zeros(1, 2, len(UPPER), 2), speech).points.shape)
    if found != (1, 2, 68, 2):
        raise ValueError(f"a completion's output has the shape {found}")


def _run_diffusion(diffusion: Diffusion, config: ModelConfig) -> None:
    autoencoder, net = diffusion.autoencoder, diffusion.synthesis
    side, window = config.size_px, config.completion.window
    with torch.device("meta"), torch.inference_mode():
        latents = autoencoder.encode(torch.zeros(2, 3, side, side))
        speech = torch.zeros(2, window, config.completion.feature_dim)
        maps = torch.zeros(2, len(CHANNELS), side, side)
        guidance = net.guide(latents, maps=maps, windows=speech)
        made = net(latents, torch.zeros(2, dtype=torch.long), guidance)
        pixels = autoencoder.decode(made)
    found = tuple(latents.shape), tuple(made.shape), tuple(pixels.shape)
    grid = (2, autoencoder.latent_channels, side // 8, side // 8)
    if found != (grid, grid, (2, 3, side, side)):
        raise ValueError(f"the diffusion's outputs have the shapes {found}")


def _run_light(light: LightNet, config: ModelConfig) -> None:
    side = config.size_px
    with torch.device("meta"), torch.inference_mode():
        drawn = side // light.map_share
        scene = light.encode_scene(torch.zeros(2, 3, side, side), torch.zeros(2, 1, side, side))
        maps = torch.zeros(2, len(CHANNELS), drawn, drawn)
        speech = torch.zeros(2, config.completion.window, config.completion.feature_dim)
        found = tuple(light(scene, maps, speech).shape)
    if found != (2, 3, side, side):
        raise ValueError(f"the light network's output has the shape {found}")
