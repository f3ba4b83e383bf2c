"""The critic of the decoder's pictures, for training alone: is a patch real or generated?

Patches as in Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks"
(2017); its features compared as in Wang et al., "High-Resolution Image Synthesis and Semantic
Manipulation with Conditional GANs" (2018); least squares as in Mao et al. (2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as nnf

WIDTHS = (32, 64, 128)


class Critic(nn.Module):
    """Pictures (B, 3, H, W) in -1..1 -> features after each layer, the verdicts last."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 6
        # No norms: they would remove the amount of detail, which is to be judged.
        for width in WIDTHS:
            conv = nn.Conv2d(before, width, 4, stride=2, padding=1)
            layers.append(nn.Sequential(conv, nn.LeakyReLU(0.2)))
            before = width
        self.layers = nn.ModuleList([*layers, nn.Conv2d(before, 1, 4, padding=1)])

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> features (B, D, h, w) of each layer, the verdicts (B, 1, h, w) last."""
        features = [torch.cat([pictures, 4 * fine(pictures)], 1)]
        for layer in self.layers:
            features.append(layer(features[-1]))
        return features[1:]

    def frozen(self, pictures: Tensor) -> list[Tensor]:
        """The same as ``forward``, with gradients to the pictures and none to the critic."""
        held = {name: tensor.detach() for name, tensor in self.named_parameters()}
        judged: list[Tensor] = functional_call(self, held, (pictures,))
        return judged


def fine(pictures: Tensor, size: int = 5) -> Tensor:
    """Pictures (B, 3, H, W) less their mean over squares of ``size`` pixels."""
    half, blurred = size // 2, pictures
    for side, pad in (((1, size), (0, half)), ((size, 1), (half, 0))):
        blurred = nnf.avg_pool2d(blurred, side, 1, pad, count_include_pad=False)
    return pictures - blurred


def critic_loss(real: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
    """Loss of the critic: real patches should be 1, generated ones 0."""
    wrong = (real[-1].float() - 1).square().mean() + made[-1].float().square().mean()
    return 0.5 * wrong


def generator_loss(made: Sequence[Tensor]) -> Tensor:
    """Loss of the generator: its patches should be taken for real."""
    return (made[-1].float() - 1).square().mean()


def feature_loss(real: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
    """Mean L1 distance of the critic's features, the verdicts apart."""
    gaps = [nnf.l1_loss(m.float(), r.detach().float()) for r, m in zip(real, made, strict=True)]
    return torch.stack(gaps[:-1]).mean()
