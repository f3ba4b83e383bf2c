"""The light network: masked crop, drawn landmarks and speech to the lower face in one pass.

A U-Net on patches of pixels with two encoders. What stays of the picture is encoded apart from what
moves in it, so footage that is played again is encoded once. It has no norms: a place of the
picture depends on its surroundings alone, and a part is generated at the cost of that part.

Of the mask box it hides what jaws reach. Clothes and neck below stay the footage's own.

Shape letters: B frames, S side of the crop, H W a window of it in pixels, h w the same in patches,
K channels of a landmark map, D channels of a level, W also the features in a window of speech.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.config import CompletionConfig, LightConfig, SynthesisConfig
from difftalker.face.crop import CELL
from difftalker.face.draw import CHANNELS
from difftalker.face.landmarks import EYES, UPPER
from difftalker.synthesis.autoencoder import mask_out
from difftalker.synthesis.region import (
    DIRECTIONS,
    box_mask,
    reach_depth,
    reach_of,
    shown_share,
)

Levels = list[Tensor]
"""Features (B, D, h, w) of a level each, finest first."""

DRAWN = 2
"""Pixels a side of the drawn landmarks in a patch: their lines are antialiased."""

SPREADS = 4.0
"""Standard deviations of skin that a picture's colours are measured in."""
LEAST_SPREAD = 0.04


class LightNet(nn.Module):
    """One pass from masked crop, landmarks and speech to a picture."""

    def __init__(
        self, config: LightConfig, synthesis: SynthesisConfig, speech: CompletionConfig
    ) -> None:
        """``synthesis`` says what conditions it, ``speech`` the size of windows of speech."""
        super().__init__()
        self.config = config
        self.reach: Tensor
        # Beyond any crop until it is measured: the whole box is hidden.
        self.register_buffer("reach", torch.full((DIRECTIONS,), 4.0))
        self.scene = Encoder(3 * config.patch**2 + 1, config.channels)
        self.motion = (
            Encoder(len(CHANNELS) * DRAWN**2, config.landmark_channels)
            if synthesis.uses_landmarks
            else None
        )
        self.joints = nn.ModuleList(
            nn.Conv2d(a, b, 1)
            for a, b in zip(config.landmark_channels, config.channels, strict=True)
        )
        self.speech = (
            SpeechModulation(speech, config.speech_dim, config.channels[2:])
            if synthesis.uses_audio
            else None
        )
        self.middle = ResidualBlock(config.channels[-1])
        self.up = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(config.channels)
        )
        self.blocks = nn.ModuleList(ResidualBlock(d) for d in config.channels[:-1])
        self.last = nn.Sequential(
            *(ResidualBlock(config.channels[0]) for _ in range(config.fine_blocks))
        )
        self.out = nn.Conv2d(config.channels[0], 3 * config.patch**2, 3, padding=1)

    @property
    def step_px(self) -> int:
        """What the sides of a window are multiples of, pixels."""
        return int(self.config.patch * 2 ** (len(self.config.channels) - 1))

    @property
    def grid_px(self) -> int:
        """What windows begin at multiples of, pixels: the grids of masks and of patches."""
        return math.lcm(CELL, self.config.patch)

    @property
    def map_share(self) -> int:
        """How many times smaller than the crop its landmarks are drawn."""
        return self.config.patch // DRAWN

    @torch.no_grad()
    def fit_reach(self, points: Tensor, upper: Tensor) -> None:
        """Measure how far jaws come, on points (n, 68, 2) and upper ones (n, 37, 2), crop units."""
        self.reach.copy_(reach_of(points, upper))

    def hidden(
        self, boxes: Tensor, upper: Tensor, size: int, *, reach: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What of crops is masked, and the share of the new picture in them; (B, 1, S, S) each.

        Boxes (B, 4) are in pixels, upper points (B, 37, 2) in crop units; ``reach``
        (B, DIRECTIONS) is how far other jaws come than the network's own. A box that is the whole
        crop hides all of it: a face is made from nothing.
        """
        box, cell = box_mask(boxes, size), self.config.patch
        depth = reach_depth(self.reach.float() if reach is None else reach, upper, size // cell)
        whole = ((boxes[:, ::2] <= 0) & (boxes[:, 1::2] >= size)).all(1)
        depth = torch.where(whole[:, None, None, None], torch.ones_like(depth), depth)
        inside = nnf.interpolate((depth > 0).float(), scale_factor=float(cell))
        return box * inside, torch.where(box > 0, shown_share(depth, size), 1.0)

    def tone(self, pictures: Tensor, boxes: Tensor, upper: Tensor, size: int) -> Tensor | None:
        """Mean and spread (B, 2, 3) of the skin between eyes and mask; None: not used.

        Pictures (B, 3, h, w), -1..1, may be smaller than the crops of ``size`` pixels, of which
        are the boxes (B, 4). Upper points (B, 37, 2) are in crop units.
        """
        return skin_tone(pictures, boxes / size, upper) if self.config.normalised else None

    def encode_scene(self, pictures: Tensor, mask: Tensor, tone: Tensor | None = None) -> Levels:
        """Pictures (B, 3, H, W) in -1..1, masked here by (B, 1, H, W), -> features."""
        if tone is not None:
            pictures = (pictures - tone[:, 0, :, None, None]) / tone[:, 1, :, None, None]
        masked, patch = mask_out(pictures, mask), self.config.patch
        patches = nnf.pixel_unshuffle(masked.contiguous(memory_format=torch.channels_last), patch)
        cells = mask[:, :, ::patch, ::patch].to(patches)
        features: Levels = self.scene(torch.cat([patches, cells], 1))
        return features

    def forward(
        self,
        scene: Sequence[Tensor],
        maps: Tensor | None,
        windows: Tensor | None,
        tone: Tensor | None = None,
    ) -> Tensor:
        """Features of scenes -> pictures (B, 3, H, W), -1..1.

        ``maps`` (B, K, H / s, W / s), 0..1, are drawn landmarks, s is ``map_share``; ``windows``
        (B, W, features) are speech. The network ignores those that do not condition it. No speech
        is None, or zeros.
        ``tone`` is that of the scene's pictures.
        """
        levels = list(scene)
        if self.motion is not None and maps is not None:
            drawn = self.motion(nnf.pixel_unshuffle(maps, DRAWN))
            levels = [x + joint(y) for x, joint, y in zip(levels, self.joints, drawn, strict=True)]
        if self.speech is not None and windows is not None:
            levels[2:] = self.speech(levels[2:], windows)
        x: Tensor = self.middle(levels[-1])
        for up, block, level in reversed(list(zip(self.up, self.blocks, levels[:-1], strict=True))):
            x = block(nnf.interpolate(up(x), scale_factor=2.0) + level)
        patches: Tensor = self.out(nnf.relu(self.last(x)))
        pictures = nnf.pixel_shuffle(patches, self.config.patch)
        if tone is None:
            return pictures
        return pictures.float() * tone[:, 1, :, None, None] + tone[:, 0, :, None, None]


def skin_tone(pictures: Tensor, boxes: Tensor, upper: Tensor) -> Tensor:
    """Mean and spread (B, 2, 3) of the colours between the eyes and the mask.

    Pictures (B, 3, h, w); boxes (B, 4) and upper points (B, 37, 2) in crop units. Where the whole
    face is masked they are those of any face.
    """
    rows, columns = ((torch.arange(n, device=boxes.device) + 0.5) / n for n in pictures.shape[-2:])
    eyes = upper[:, [UPPER.index(point) for point in EYES]].to(pictures)
    low, high = eyes[..., 0].amin(1, keepdim=True), eyes[..., 0].amax(1, keepdim=True)
    down = (rows > eyes[..., 1].mean(1, keepdim=True)) & (rows < boxes[:, :1])
    across = (columns > low) & (columns < high)
    skin = (down[:, :, None] & across[:, None, :])[:, None].float()
    count = skin.sum((2, 3))
    mean = (pictures * skin).sum((2, 3)) / count.clamp(min=1)
    squared = (pictures - mean[..., None, None]).square() * skin
    spread = (squared.sum((2, 3)) / count.clamp(min=1)).sqrt().clamp(min=LEAST_SPREAD)
    tone = torch.stack([mean, SPREADS * spread], 1)
    usual = torch.tensor([0.0, 1.0], device=tone.device)[:, None].expand(2, 3)
    return torch.where(count[..., None] > 0, tone, usual)


class Encoder(nn.Module):
    """Patches (B, channels, h, w) -> features of each level, finest first."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths)
        )
        self.blocks = nn.ModuleList(ResidualBlock(d) for d in widths[1:])

    def forward(self, patches: Tensor) -> Levels:
        """(B, channels, h, w) -> [(B, D, h / 2^level, w / 2^level)]."""
        levels = [self.stem(patches)]
        for down, block in zip(self.down, self.blocks, strict=True):
            levels.append(block(down(nnf.relu(levels[-1]))))
        return levels


def with_patch(weights: Mapping[str, Tensor], old: int, new: int) -> dict[str, Tensor]:
    """A light network's weights for patches of ``new`` pixels, not ``old``.

    It sees larger crops as it saw smaller ones, and what it makes is enlarged, patch by patch.
    """
    changed = dict(weights)
    seen, inner = changed["scene.stem.weight"], 3 * old**2
    pictures = _resized(seen[:, :inner].unflatten(1, (3, old, old)).movedim((2, 3), (-2, -1)), new)
    pictures = pictures.movedim((-2, -1), (2, 3)).flatten(1, 3) * (old / new) ** 2
    changed["scene.stem.weight"] = torch.cat([pictures, seen[:, inner:]], 1)
    for name in ("out.weight", "out.bias"):
        made = changed[name].unflatten(0, (3, old, old)).movedim((1, 2), (-2, -1))
        changed[name] = _resized(made, new).movedim((-2, -1), (1, 2)).flatten(0, 2)
    return changed


def _resized(patches: Tensor, size: int) -> Tensor:
    """(..., P, P) -> (..., size, size)."""
    shape = patches.shape[:-2]
    small = patches.reshape(1, -1, *patches.shape[-2:])
    resized = nnf.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    return resized.reshape(*shape, size, size)


class ResidualBlock(nn.Module):
    """Two convolutions beside an identity, which it is at the start (He et al., 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w)."""
        hidden = self.first(nnf.relu(x))
        out: Tensor = x + self.second(nnf.relu_(hidden))
        return out


class SpeechModulation(nn.Module):
    """Scales and shifts features by the speech around the frame (Perez et al., "FiLM", 2018).

    Features of zero stand for missing speech. Without training it changes nothing.
    """

    def __init__(self, speech: CompletionConfig, width: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels
        self.read = nn.Sequential(
            nn.LayerNorm(speech.feature_dim, elementwise_affine=False),
            nn.Linear(speech.feature_dim, width // 2),
            nn.Flatten(),
            nn.SiLU(),
            nn.Linear(speech.window * (width // 2), width),
            nn.SiLU(),
        )
        self.write = nn.Linear(width, 2 * sum(levels))
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def forward(self, levels: Sequence[Tensor], windows: Tensor) -> Levels:
        """Levels [(B, D, h, w)], windows (B, W, features) -> [(B, D, h, w)]."""
        changes = self.write(self.read(windows))[:, :, None, None]
        parts = changes.split([2 * width for width in self.levels], dim=1)
        pairs = [part.to(x.dtype).chunk(2, dim=1) for part, x in zip(parts, levels, strict=True)]
        return [
            torch.addcmul(x + shift, x, scale)
            for x, (scale, shift) in zip(levels, pairs, strict=True)
        ]
