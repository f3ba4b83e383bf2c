"""Perceptual distances over AlexNet: LPIPS, and its shift-tolerant kin that can be fetched.

Sources: Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric"
(2018), for LPIPS v0.1; Ghildyal and Liu, "Shift-tolerant perceptual similarity metric" (2022), for
ST-LPIPS; Krizhevsky, "One weird trick" (2014), for this AlexNet. Shape letters: B pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.errors import AssetError

CHANNELS = (64, 192, 384, 256, 256)
LAYERS = len(CHANNELS)
LEAST_PX = 32
"""Smallest side of a picture for which every layer has an output, pixels."""
_SIZES = (11, 5, 3, 3, 3)
_PADDING = (2, 2, 1, 1, 1)
_MEAN, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and scale by which LPIPS standardises pictures in -1..1."""
_TINY = 1e-10


class PerceptualNet(nn.Module):
    """Five layers of AlexNet, and a weight for each of their channels."""

    def __init__(self, *, shift_tolerant: bool) -> None:
        """``shift_tolerant`` convolves at stride 1 and blurs before it subsamples."""
        super().__init__()
        self.shift_tolerant = shift_tolerant
        shapes = zip((3, *CHANNELS[:-1]), CHANNELS, _SIZES, _PADDING, strict=True)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, size, 1 if i or shift_tolerant else 4, padding)
            for i, (before, after, size, padding) in enumerate(shapes)
        )
        self.weights = nn.ParameterList(torch.zeros(channels) for channels in CHANNELS)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), RGB, -1 to 1, 32 pixels a side or more -> distances (B,)."""
        pairs = zip(self.weights, self.features(a), self.features(b), strict=True)
        return sum(
            ((_unit(x) - _unit(y)).square().mean((2, 3)) @ weight for weight, x, y in pairs),
            start=a.new_zeros(len(a)),
        )

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the features of each layer, (B, channels, h, w)."""
        mean, scale = (images.new_tensor(v).view(3, 1, 1) for v in (_MEAN, _SCALE))
        seen, kept = (images - mean) / scale, []
        for i, layer in enumerate(self.layers):
            if i in (1, 2):
                seen = self._pooled(seen)
            seen = layer(seen)
            if i == 0 and self.shift_tolerant:
                seen = _halved(seen)
            seen = nnf.relu(seen)
            kept.append(seen)
        return kept

    def _pooled(self, seen: Tensor) -> Tensor:
        if self.shift_tolerant:
            return _halved(nnf.max_pool2d(seen, 3, 1))
        return nnf.max_pool2d(seen, 3, 2)


def _halved(seen: Tensor) -> Tensor:
    """Blur a map, mirrored by two at its border, and keep every second place (Zhang 2019)."""
    line = seen.new_tensor([1.0, 2.0, 1.0]) / 4
    kernel = torch.outer(line, line).expand(seen.shape[1], 1, 3, 3)
    padded = nnf.pad(seen, (2, 2, 2, 2), mode="reflect")
    return nnf.conv2d(padded, kernel, stride=2, groups=seen.shape[1])


def _unit(features: Tensor) -> Tensor:
    """Normalise the channels of each place to length 1."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + _TINY)


_ALEXNET = {f"features.{place}": f"layers.{i}" for i, place in enumerate((0, 3, 6, 8, 10))}
"""Names in torchvision's file -> names in ``PerceptualNet``."""
_SHIFT_TOLERANT = {
    f"net.slice{i + 1}.{place}": f"layers.{i}" for i, place in enumerate((0, 5, 9, 11, 13))
}
_LINEAR = {f"lin{i}.model.1.weight": f"weights.{i}" for i in range(LAYERS)}


def load_st_lpips(path: Path) -> PerceptualNet:
    """ST-LPIPS with the weights of the file ``alex_shift_tolerant.pth``.

    Raises:
        AssetError: the file is missing, no state dictionary of tensors, or of another network.
    """
    return _filled(PerceptualNet(shift_tolerant=True), (path, {**_SHIFT_TOLERANT, **_LINEAR}))


def load_lpips(alexnet: Path, linear: Path) -> PerceptualNet:
    """LPIPS v0.1 with torchvision's AlexNet and the linear layers of the package ``lpips``.

    Raises:
        AssetError: a file is missing, no state dictionary of tensors, or of another network.
    """
    return _filled(PerceptualNet(shift_tolerant=False), (alexnet, _ALEXNET), (linear, _LINEAR))


def _filled(net: PerceptualNet, *files: tuple[Path, Mapping[str, str]]) -> PerceptualNet:
    state = net.state_dict()
    for path, names in files:
        held = _read(path)
        for theirs, ours in names.items():
            for end in ("", ".weight", ".bias"):
                if ours + end in state:
                    _take(state, ours + end, held.get(theirs + end), path, theirs + end)
    net.load_state_dict(state)
    return net.eval()


def _take(state: dict[str, Tensor], name: str, found: object, path: Path, theirs: str) -> None:
    wanted = state[name]
    if not isinstance(found, Tensor) or found.numel() != wanted.numel():
        shape = tuple(found.shape) if isinstance(found, Tensor) else "missing"
        raise AssetError(
            f"{path} does not fit: {theirs} is {shape}",
            wanted=f"{tuple(wanted.shape)}",
            fix="give the file that the documentation names",
        )
    state[name] = found.reshape(wanted.shape).float()


def _read(path: Path) -> dict[str, object]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise AssetError(f"there is no file {path}", fix="check the path") from error
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise AssetError(
            f"{path} cannot be read as weights",
            wanted="a state dictionary of tensors, as torch.save writes it",
        ) from error
    return state if isinstance(state, dict) else {}
