"""A baseline after Wav2Lip (Prajwal et al., 2020).

"A Lip Sync Expert Is All You Need for Speech to Lip Generation In the Wild": a generator sees the
frame with its lower face masked and a frame of another moment, joined by channels, and the speech.
It learns from the L1 distance, from a frozen sync expert over five frames and from a critic of
single frames, weighed as in the paper.

Departures: L1 alone comes first; the expert is this project's own; the critic sees patches; the
mask is this project's box; speech scales and shifts the coarse features, where the paper joins it
by channels; in use the other frame is one of the training footage, where Wav2Lip takes the very
frame that is dubbed, whose own mouth would then be known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.baselines.base import (
    BaselineNet,
    BaselineOptions,
    BaselineRenderer,
    BaselineTask,
    Rows,
    Stage,
    System,
    stage,
)
from difftalker.baselines.nets import BaselineConfig, PatchUNet, WindowEncoder, picture_error
from difftalker.config import checks
from difftalker.data.dataset import ClipData, Dataset
from difftalker.errors import TrainingError
from difftalker.experts.critic import Critic, critic_loss, generator_loss
from difftalker.experts.sync_net import (
    FEATURES_A_FRAME,
    MOUTH_CROP,
    MOUTH_PX,
    WINDOW_FEATURES,
    WINDOW_FRAMES,
    SyncConfig,
    SyncNet,
    frames_at_rate,
    sound_of_frames,
    whole_windows,
)
from difftalker.store import experts
from difftalker.synthesis.autoencoder import mask_out, to_pixels
from difftalker.synthesis.region import box_mask
from difftalker.synthesis.renderer import Floats
from difftalker.training.tasks.pictures import cut_patches, draw_corners

FINAL_RATE = 0.3
"""Learning rate under all losses, in that under L1 alone."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, ITU-R BT.601."""


@dataclass(frozen=True, kw_only=True)
class Wav2LipConfig(BaselineConfig):
    """Sizes and weights of the losses."""

    batch: int = 4
    """Runs of five frames in a step."""
    sync_weight: float = 0.03
    """s_w of the paper."""
    critic_weight: float = 0.07
    """s_g of the paper."""
    critic_px: int = 128
    """The largest side of the patches that the critic sees, pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.shares(self, "sync_weight", "critic_weight")
        checks.positive(self, "critic_px")


class AfterWav2Lip(BaselineNet):
    """The generator."""

    def __init__(self, config: Wav2LipConfig) -> None:
        super().__init__(config)
        self.speech = WindowEncoder(config)
        # The masked frame, its mask, and the reference.
        self.face = PatchUNet(7, 3, config, vector=config.speech_dim, levels=2)

    def forward(self, masked: Tensor, mask: Tensor, reference: Tensor, windows: Tensor) -> Tensor:
        """(B, 3, S, S), (B, 1, S, S), (B, 3, S, S), (B, W, features) -> (B, 3, S, S), -1..1."""
        made: Tensor = self.face(torch.cat([masked, mask, reference], 1), self.speech(windows))
        return made


class Wav2LipRenderer(BaselineRenderer):
    """One pass a frame."""

    uses_landmarks = False

    def generate(
        self, masked: Tensor, mask: Tensor, points_crop: Floats, windows: Tensor
    ) -> Tensor:
        """See :meth:`BaselineRenderer.generate`."""
        made: Tensor = self._net(masked, mask, self._references(len(masked)), windows)
        return made


class Wav2LipTask(BaselineTask):
    """The generator against its critic and the frozen expert, on runs of five frames."""

    name = "generator"
    renders = Wav2LipRenderer

    def __init__(
        self, net: AfterWav2Lip, data: Dataset, options: BaselineOptions, config: Wav2LipConfig
    ) -> None:
        super().__init__(net, data, options, config)
        self._net, self._config, self._critic = net, config, Critic().to(options.device)
        self.model = nn.ModuleDict({"net": net, "critic": self._critic})
        expert = experts.read(options.sync, kind="sync")
        self._expert = expert.load_network(SyncNet, SyncConfig).to(options.device)
        self._runs = [run for c, clip in enumerate(data.train) for run in _runs_of(c, clip)]
        self._mel = [_mel_of(clip) for clip in data.train]
        self._side_px = min(config.critic_px, config.size_px // 2)
        self.examples = len(self._runs)
        if not self.examples:
            raise TrainingError(
                f"no clip shows a face for {WINDOW_FRAMES} frames in a row",
                wanted="one at least",
                fix="run `difftalker prepare` on other footage",
            )

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Runs of five frames and their sound; see ``training.task.Task``."""
        runs = [self._runs[int(i)] for i in indices]
        rows = np.concatenate([run.rows for run in runs])
        boxes = self.data.boxes(rows)
        size_px = self._config.size_px
        return self.on_device(
            {
                "true": self.data.pictures(rows),
                "reference": self.data.others(len(rows), generator),
                "boxes": boxes,
                "windows": self.data.windows(rows),
                "mel": torch.from_numpy(np.stack([self._mel_of_run(run) for run in runs])),
                "corners": draw_corners(boxes, (size_px, size_px), self._side_px, generator),
            }
        )

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The paper's sum of losses, and the critic's; see ``training.task.Task``."""
        true, made, mask = self._made(batch)
        l1 = picture_error(made, true, mask)
        shown = torch.where(mask > 0, made, true)
        sync = self._sync_error(shown, batch["mel"])
        patches, real = (cut_patches(x, batch["corners"], self._side_px) for x in (shown, true))
        pull = generator_loss(self._critic.frozen(patches))
        verdict = critic_loss(self._critic(real), self._critic(patches.detach()))
        weights = self._config.sync_weight, self._config.critic_weight
        generated = (1 - sum(weights)) * l1 + weights[0] * sync + weights[1] * pull
        return {
            "loss": generated + verdict,
            "l1": l1,
            "sync": sync,
            "pull": pull,
            "critic": verdict,
        }

    def _made(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """True and generated pictures (5 B, 3, S, S), and the mask between them."""
        true, reference = to_pixels(batch["true"]), to_pixels(batch["reference"])
        mask = box_mask(batch["boxes"], self._config.size_px)
        made = self._net(mask_out(true, mask), mask, reference, batch["windows"]).float()
        return true, made, mask

    def _sync_error(self, shown: Tensor, mel: Tensor) -> Tensor:
        """-log P of runs (5 B, 3, S, S) and sounds (B, 10, 80), P = (1 + cosine) / 2."""
        mouths = grey_mouths(shown).unflatten(0, (-1, WINDOW_FRAMES))
        cosine = (self._expert.picture(mouths) * self._expert.sound(mel)).sum(-1)
        return -((1 + cosine) / 2).clamp(min=1e-4).log().mean()

    def _mel_of_run(self, run: _Run) -> NDArray[np.float32]:
        first = FEATURES_A_FRAME * run.tick
        return self._mel[int(run.rows[0, 0])][first : first + WINDOW_FEATURES]

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        """Names of the clips; see ``training.task.Task``."""
        return [self.data.clips[int(self._runs[int(i)].rows[0, 0])].name for i in indices]


class PicturesTask(Wav2LipTask):
    """The generator by L1 alone: expert and critic are misled by pictures that are none yet."""

    name = "pictures"

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """L1; see ``training.task.Task``."""
        true, made, mask = self._made(batch)
        l1 = picture_error(made, true, mask)
        return {"loss": l1, "l1": l1}


@dataclass(frozen=True)
class _Run:
    """Five frames in a row, at 25 Hz."""

    rows: Rows
    tick: int
    """The first one's place at 25 Hz."""


def _runs_of(number: int, clip: ClipData) -> list[_Run]:
    shown = frames_at_rate(clip.times_s - clip.times_s[0])
    if len(shown) < WINDOW_FRAMES:
        return []
    starts = np.flatnonzero(whole_windows(clip.found[shown]))
    frames = [shown[start : start + WINDOW_FRAMES] for start in starts]
    return [
        _Run(np.stack([np.full(WINDOW_FRAMES, number), places], 1), int(start))
        for start, places in zip(starts, frames, strict=True)
    ]


def _mel_of(clip: ClipData) -> NDArray[np.float32]:
    """Log-mels (T, 80), two a frame at 25 Hz, from the clip's first frame on."""
    first = round(float(clip.times_s[0]) * 25) * FEATURES_A_FRAME
    frames = len(frames_at_rate(clip.times_s - clip.times_s[0]))
    return sound_of_frames(clip.features("mel")[first:], frames)


def grey_mouths(pictures: Tensor) -> Tensor:
    """Pictures (n, 3, S, S), -1..1 -> the expert's input (n, 48, 64), 0 to 255, with gradients.

    As :func:`difftalker.experts.sync_net.grey_mouth` cuts them.
    """
    size = pictures.shape[-1]
    top, bottom, left, right = (round(edge * size) for edge in MOUTH_CROP)
    weights = torch.tensor(LUMA, device=pictures.device)[:, None, None]
    cut = pictures.float()[:, :, top:bottom, left:right]
    grey = 127.5 * ((cut * weights).sum(1, keepdim=True) + 1)
    if bottom - top >= MOUTH_PX[0]:
        return nnf.interpolate(grey, MOUTH_PX, mode="area")[:, 0]
    return nnf.interpolate(grey, MOUTH_PX, mode="bicubic", align_corners=False)[:, 0]


def stages(
    net: AfterWav2Lip, config: Wav2LipConfig, data: Dataset, options: BaselineOptions
) -> list[Stage]:
    """L1 first, then all losses at once."""
    pictures = PicturesTask(net, data, options, config)
    generator = Wav2LipTask(net, data, options, config)
    rate = config.learning_rate
    return [
        stage(pictures, config.batch, rate, 0.6),
        stage(generator, config.batch, FINAL_RATE * rate, 0.4, betas=(0.5, 0.99)),
    ]


SYSTEM = System(
    name="after-wav2lip",
    about="After Wav2Lip (Prajwal et al., 2020): masked frame, reference frame and speech to the "
    "lower face in one pass; L1, a frozen sync expert and a critic. Its sync expert is the one "
    "that judges `sync_c` and `sync_d`, unless it was given another: these figures flatter it.",
    features="mel",
    settings=Wav2LipConfig,
    network=AfterWav2Lip,
    stages=stages,
    renderer=Wav2LipRenderer,
)
