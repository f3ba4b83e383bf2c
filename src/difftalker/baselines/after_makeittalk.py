"""A baseline after MakeItTalk (Zhou et al., 2020).

"MakeItTalk: Speaker-Aware Talking-Head Animation": an LSTM over the speech around a frame and the
code of the speaker give displacements of the 68 landmarks from the speaker's neutral face; a U-Net
translates a frame of the person and the drawn landmarks to the picture.

Departures: one speaker, so one code; the head is the footage's, not generated: faces are learned
turned and scaled to the neutral one, and laid under the footage's upper face. The U-Net also sees
the frame with its lower face masked. There is no network for perceptual distance: the L1 distance
of edges stands beside that of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from difftalker.baselines.base import (
    BaselineNet,
    BaselineOptions,
    BaselineRenderer,
    BaselineTask,
    Stage,
    System,
    stage,
)
from difftalker.baselines.nets import BaselineConfig, PatchUNet, picture_error
from difftalker.config import checks
from difftalker.core.device import autocast
from difftalker.data.dataset import Dataset
from difftalker.face.draw import CHANNELS, landmark_maps
from difftalker.face.landmarks import LOWER, UPPER
from difftalker.synthesis.autoencoder import mask_out, to_pixels
from difftalker.synthesis.region import box_mask
from difftalker.synthesis.renderer import Floats
from difftalker.training.tasks import gradient_error

POINTS = 68


@dataclass(frozen=True, kw_only=True)
class MakeItTalkConfig(BaselineConfig):
    """Sizes and weights of the losses."""

    feature_dim: int = 384
    speaker_dim: int = 32
    """Size of the speaker's code."""
    lips_weight: float = 1.0
    """Weight of the lower face's shape beside its points: the paper's loss of Laplacians."""
    points_batch: int = 64
    points_learning_rate: float = 1e-3
    points_share: float = 0.2
    """Share of the time for the displacements; the rest is for the pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive(self, "speaker_dim", "points_batch", "points_learning_rate")
        checks.not_negative(self, "lips_weight")
        checks.shares(self, "points_share")


class Displacements(nn.Module):
    """Speech to displacements of landmarks from the speaker's neutral face."""

    def __init__(self, config: MakeItTalkConfig) -> None:
        super().__init__()
        width = config.speech_dim
        self.speaker = nn.Parameter(0.02 * torch.randn(config.speaker_dim))
        """The speaker's code."""
        self.content = nn.LSTM(config.feature_dim, width, batch_first=True, bidirectional=True)
        self.decode = nn.Sequential(
            nn.Linear(2 * width + config.speaker_dim + 2 * POINTS, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 2 * POINTS),
        )

    def forward(self, windows: Tensor, neutral: Tensor) -> Tensor:
        """(B, W, features), (68, 2) -> (B, 68, 2), crop units of the neutral face."""
        states, _ = self.content(windows)
        # Both directions where they have read half of the window: the frame's own moment.
        middle = states[:, states.shape[1] // 2]
        known = torch.cat([self.speaker, neutral.flatten()]).expand(len(windows), -1)
        moved: Tensor = self.decode(torch.cat([middle, known.to(middle)], 1)).unflatten(1, (-1, 2))
        return moved / 10


class AfterMakeItTalk(BaselineNet):
    """Displacements and image translation."""

    def __init__(self, config: MakeItTalkConfig) -> None:
        super().__init__(config)
        self.displacements = Displacements(config)
        # The reference, the drawn landmarks, the masked frame, its mask.
        self.translation = PatchUNet(7 + len(CHANNELS), 3, config)

    def translate(self, reference: Tensor, maps: Tensor, masked: Tensor, mask: Tensor) -> Tensor:
        """(B, 3, S, S), maps (B, K, S, S) 0..1, masked frame, mask -> (B, 3, S, S), -1..1."""
        made: Tensor = self.translation(torch.cat([reference, maps, masked, mask], 1))
        return made


@dataclass(frozen=True, kw_only=True)
class Similarities:
    """Rotation, scale and shift that take faces onto others, as complex numbers: a z + b."""

    a: NDArray[np.complex128]
    """(n,)"""
    b: NDArray[np.complex128]
    """(n,)"""

    @classmethod
    def onto(cls, upper: Floats, other: Floats) -> Similarities:
        """The least squares fit of upper points (m, 37, 2) to others (n, 37, 2), m = 1 or n."""
        z, w = _complex(upper), _complex(other)
        z0, w0 = z.mean(1, keepdims=True), w.mean(1, keepdims=True)
        a = ((z - z0).conj() * (w - w0)).sum(1) / (np.abs(z - z0) ** 2).sum(1)
        return cls(a=a, b=w0[:, 0] - a * z0[:, 0])

    def apply(self, points: Floats) -> Floats:
        """(n, p, 2) -> (n, p, 2)."""
        w = self.a[:, None] * _complex(points) + self.b[:, None]
        return np.stack([w.real, w.imag], -1).astype(np.float32)


def _complex(points: Floats) -> NDArray[np.complex128]:
    return points[..., 0].astype(np.float64) + 1j * points[..., 1]


class MakeItTalkRenderer(BaselineRenderer):
    """Displaces the lower landmarks, draws them, and translates."""

    def points(self, points_crop: Floats, windows: Floats) -> Floats:
        """Upper points (n, 68, 2) as they are, lower ones from the speech (n, W, features)."""
        with torch.inference_mode(), autocast(self._device, False):
            heard = torch.from_numpy(windows).to(self._device)
            neutral = self._net.neutral.float()
            displaced = neutral + self._net.displacements(heard, neutral)
        upper = list(UPPER)
        own = neutral.cpu().numpy()[None, upper]
        laid = Similarities.onto(own, points_crop[:, upper]).apply(displaced.cpu().numpy())
        laid[:, upper] = points_crop[:, upper]
        return laid

    def generate(
        self, masked: Tensor, mask: Tensor, points_crop: Floats, windows: Tensor
    ) -> Tensor:
        """See :meth:`BaselineRenderer.generate`; ``points_crop`` are those of :meth:`points`."""
        maps = drawn(points_crop, self.size_px).to(masked)
        made: Tensor = self._net.translate(self._references(len(masked)), maps, masked, mask)
        return made


def drawn(points_crop: Floats, size_px: int) -> Tensor:
    """Landmarks (n, 68, 2) as maps (n, K, S, S), 0..1."""
    return torch.from_numpy(landmark_maps(points_crop, size_px)).float() / 255


class DisplacementTask(BaselineTask):
    """Displacements from the neutral face, and the shape that they give."""

    name = "displacements"
    renders = MakeItTalkRenderer

    def __init__(
        self,
        net: AfterMakeItTalk,
        data: Dataset,
        options: BaselineOptions,
        config: MakeItTalkConfig,
    ) -> None:
        super().__init__(net, data, options, config)
        self._net, self._config, self.model = net, config, net.displacements
        self._neutral = net.neutral.cpu().numpy()

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Speech, and faces laid on the neutral one; see ``training.task.Task``."""
        rows, upper = self.data.rows[indices], list(UPPER)
        points = self.data.points(rows).numpy()
        neutral = self._neutral[None, upper].repeat(len(rows), 0)
        laid = Similarities.onto(points[:, upper], neutral).apply(points)
        windows = self.data.windows(rows)
        return self.on_device({"points": torch.from_numpy(laid), "windows": windows})

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Squared errors of points, and of each from its neighbour; see ``training.task.Task``."""
        neutral = self._net.neutral
        found = (neutral + self.model(batch["windows"], neutral)).float()
        gap = (found - batch["points"])[:, list(LOWER)]
        points, shape = gap.square().sum(-1).mean(), gap.diff(dim=1).square().sum(-1).mean()
        # Squared errors are of the order 1e-5; the scale keeps them above Adam's epsilon.
        loss = 1e3 * (points + self._config.lips_weight * shape)
        return {"loss": loss, "points": points, "shape": shape}

    def validate(self) -> dict[str, float]:
        """Mean distance of the lower points held out, crop units."""
        rows, lower = self.held_out.rows[:512], list(LOWER)
        points, heard = self.held_out.points(rows).numpy(), self.held_out.windows(rows).numpy()
        found = self.renderer().points(points, heard)
        gaps = np.linalg.norm(found - points, axis=-1)[:, lower]
        return {"landmark_error_crop": float(gaps.mean())}

    def sheet(self) -> NDArray[np.uint8] | None:
        """Nothing to show yet; see ``training.task.Task``."""
        return None


class TranslationTask(BaselineTask):
    """Pictures from a frame of another moment and the drawn landmarks."""

    name = "translation"
    renders = MakeItTalkRenderer

    def __init__(
        self,
        net: AfterMakeItTalk,
        data: Dataset,
        options: BaselineOptions,
        config: MakeItTalkConfig,
    ) -> None:
        super().__init__(net, data, options, config)
        self._net, self._config, self.model = net, config, net.translation

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Frames with their landmarks; see ``training.task.Task``."""
        rows = self.data.rows[indices]
        points = self.data.points(rows).numpy()
        return self.on_device(
            {
                "true": self.data.pictures(rows),
                "reference": self.data.others(len(rows), generator),
                "boxes": self.data.boxes(rows),
                "maps": drawn(points, self._config.size_px),
            }
        )

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """L1 of pixels and edges; see ``training.task.Task``."""
        true, reference = to_pixels(batch["true"]), to_pixels(batch["reference"])
        mask = box_mask(batch["boxes"], self._config.size_px)
        made = self._net.translate(reference, batch["maps"], mask_out(true, mask), mask).float()
        l1, edges = picture_error(made, true, mask), gradient_error(made, true, 1 + mask)
        return {"loss": l1 + edges, "l1": l1, "edges": edges}


def stages(
    net: AfterMakeItTalk, config: MakeItTalkConfig, data: Dataset, options: BaselineOptions
) -> list[Stage]:
    """Displacements, then pictures."""
    points = DisplacementTask(net, data, options, config)
    pictures = TranslationTask(net, data, options, config)
    share, rate = config.points_share, config.points_learning_rate
    return [
        stage(points, config.points_batch, rate, share, autocast=False),
        stage(pictures, config.batch, config.learning_rate, 1 - share),
    ]


SYSTEM = System(
    name="after-makeittalk",
    about="After MakeItTalk (Zhou et al., 2020): speech to displacements of landmarks from the "
    "speaker's neutral face, and a reference frame with the drawn landmarks to the lower face.",
    features="whisper-short",
    settings=MakeItTalkConfig,
    network=AfterMakeItTalk,
    stages=stages,
    renderer=MakeItTalkRenderer,
)
