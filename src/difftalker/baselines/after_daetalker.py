"""A baseline after DAE-Talker (Du et al., 2023).

"DAE-Talker: High Fidelity Speech-Driven Talking Face Generation with Diffusion Autoencoder": an
encoder gives each frame a code, and a U-Net denoises the picture under it, by DDIM (Preechakul et
al., "Diffusion Autoencoders", 2022). Conformers predict the codes from the speech and the pose of
the head (its speech2latent and pose modelling). Every frame begins at the same noise, so that
neighbours differ by their codes alone.

Departures: noise is in the mask alone, and the rest of the frame stays clean; the pose is that of
the footage's upper landmarks; a code is predicted from the speech around its frame, not from the
whole clip; the network predicts v, which allows few steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    Examples,
    Rows,
    Stage,
    System,
)
from difftalker.baselines.nets import BaselineConfig, ConformerBlock, PatchUNet, sinusoids
from difftalker.config import StageConfig, checks
from difftalker.core.device import autocast
from difftalker.data.dataset import Dataset
from difftalker.face.landmarks import UPPER
from difftalker.synthesis.autoencoder import to_images, to_pixels
from difftalker.synthesis.light import Encoder
from difftalker.synthesis.region import add_noise_by_region, box_mask, region_loss, target
from difftalker.synthesis.renderer import Floats, Image
from difftalker.synthesis.sampling import alpha_bars, sample
from difftalker.training.bars import bar

PREDICTION = "v_prediction"


@dataclass(frozen=True, kw_only=True)
class DaeTalkerConfig(BaselineConfig):
    """Sizes and shares."""

    feature_dim: int = 384
    window: int = 32
    code_dim: int = 128
    """Size of a frame's code."""
    layers: int = 3
    """Conformer blocks."""
    heads: int = 4
    kernel: int = 7
    """Width of their convolutions, features."""
    timesteps: int = 1000
    steps: int = 10
    """Steps of DDIM."""
    codes_batch: int = 64
    codes_learning_rate: float = 5e-4
    codes_share: float = 0.3
    """Share of the time for the prediction of codes; the rest is for the autoencoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.up_to(4096, self, "code_dim", "timesteps")
        checks.up_to(256, self, "layers", "heads", "kernel", "steps")
        checks.positive(self, "codes_batch", "codes_learning_rate")
        checks.shares(self, "codes_share")
        fits = self.speech_dim % self.heads == 0
        checks.check(fits, "heads", self.heads, f"a divisor of {self.speech_dim}")
        checks.check(self.kernel % 2 == 1, "kernel", self.kernel, "an odd number")


class SemanticEncoder(nn.Module):
    """A picture to its code."""

    def __init__(self, config: DaeTalkerConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.levels = Encoder(3 * config.patch**2, config.channels)
        self.write = nn.Sequential(
            nn.Linear(config.channels[-1], config.code_dim),
            # Codes of one scale, so that errors of their prediction have one.
            nn.LayerNorm(config.code_dim, elementwise_affine=False),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S), -1..1 -> (B, V)."""
        coarse = self.levels(nnf.pixel_unshuffle(pictures, self.patch))[-1]
        code: Tensor = self.write(coarse.mean((2, 3)))
        return code


class Denoiser(nn.Module):
    """The conditional U-Net: noisy picture, mask, time and code -> v."""

    def __init__(self, config: DaeTalkerConfig) -> None:
        super().__init__()
        width = config.speech_dim
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.code = nn.Linear(config.code_dim, width)
        self.net = PatchUNet(4, 3, config, vector=width, levels=len(config.channels))

    def forward(self, noisy: Tensor, mask: Tensor, t: Tensor, code: Tensor) -> Tensor:
        """(B, 3, S, S), (B, 1, S, S), (B,), (B, V) -> (B, 3, S, S)."""
        known = nnf.silu(self.time(sinusoids(t, self.width)) + self.code(code))
        predicted: Tensor = self.net(torch.cat([noisy, mask.to(noisy)], 1), known)
        return predicted


class CodePredictor(nn.Module):
    """Speech around a frame, and its pose, to its code."""

    def __init__(self, config: DaeTalkerConfig) -> None:
        super().__init__()
        width = config.speech_dim
        self.read = nn.Linear(config.feature_dim, width)
        self.places = nn.Parameter(0.02 * torch.randn(config.window, width))
        self.pose = nn.Linear(2 * len(UPPER), width)
        self.blocks = nn.Sequential(
            *(ConformerBlock(width, config.heads, config.kernel) for _ in range(config.layers))
        )
        self.write = nn.Linear(width, config.code_dim)

    def forward(self, windows: Tensor, upper: Tensor) -> Tensor:
        """(B, W, features), upper points (B, 37, 2) from the crop's middle -> (B, V)."""
        x = self.read(windows) + self.places + self.pose(upper.flatten(1))[:, None]
        x = self.blocks(x)
        middle = x.shape[1] // 2
        code: Tensor = self.write(x[:, middle - 1 : middle + 1].mean(1))
        return code


class AfterDaeTalker(BaselineNet):
    """The diffusion autoencoder and the predictor of its codes."""

    def __init__(self, config: DaeTalkerConfig) -> None:
        super().__init__(config)
        self.config = config
        self.autoencoder = nn.ModuleDict(
            {"encoder": SemanticEncoder(config), "denoiser": Denoiser(config)}
        )
        self.predictor = CodePredictor(config)

    def decode(self, clean: Tensor, mask: Tensor, code: Tensor, noise: Tensor) -> Tensor:
        """DDIM: pictures (B, 3, S, S) whose mask (B, 1, S, S) is made from noise (3, S, S)."""
        return sample(
            lambda z, t: self.autoencoder["denoiser"](z, mask, t, code),
            clean,
            mask,
            noise.to(clean).expand_as(clean),
            sampler="ddim",
            steps=self.config.steps,
            prediction=PREDICTION,
            timesteps=self.config.timesteps,
        )


def upper_of(points: Tensor) -> Tensor:
    """Points (B, 68, 2), crop units -> upper ones (B, 37, 2) from the crop's middle."""
    return points[:, list(UPPER)] - 0.5


class DaeTalkerRenderer(BaselineRenderer):
    """Codes from the speech, pictures from the codes."""

    def generate(
        self, masked: Tensor, mask: Tensor, points_crop: Floats, windows: Tensor
    ) -> Tensor:
        """See :meth:`BaselineRenderer.generate`; of the points only the upper ones count."""
        upper = upper_of(torch.from_numpy(points_crop)).to(masked)
        code = self._net.predictor(windows, upper)
        made: Tensor = self._net.decode(masked, mask, code, self.noise())
        return made

    def noise(self) -> Tensor:
        """(3, S, S): where every frame begins."""
        # Drawn on the CPU, so that a seed means the same on every device.
        generator = torch.Generator().manual_seed(self._seed)
        return torch.randn((3, self.size_px, self.size_px), generator=generator)


class AutoencoderTask(BaselineTask):
    """The picture denoised under its own code."""

    name = "autoencoder"
    renders = DaeTalkerRenderer

    def __init__(
        self, net: AfterDaeTalker, data: Dataset, options: BaselineOptions, config: DaeTalkerConfig
    ) -> None:
        super().__init__(net, data, options, config)
        self._net, self._config, self.model = net, config, net.autoencoder
        self._bars = alpha_bars(PREDICTION, config.timesteps).to(options.device)

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Frames, noise and times; see ``training.task.Task``."""
        rows, size_px = self.data.rows[indices], self._config.size_px
        return self.on_device(
            {
                "true": self.data.pictures(rows),
                "boxes": self.data.boxes(rows),
                "noise": torch.randn(len(rows), 3, size_px, size_px, generator=generator),
                "t": torch.randint(self._config.timesteps, (len(rows),), generator=generator),
            }
        )

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The error of v in the mask; see ``training.task.Task``."""
        true, noise, t = to_pixels(batch["true"]), batch["noise"], batch["t"]
        mask, bars = box_mask(batch["boxes"], self._config.size_px), self._bars[batch["t"]]
        code = self.model["encoder"](true)
        noisy = add_noise_by_region(true, noise, bars, mask)
        predicted = self.model["denoiser"](noisy, mask, t, code)
        return {"loss": region_loss(predicted, target(true, noise, bars, PREDICTION), mask)}

    def rendered(self, rows: Rows) -> Image:
        """Frames held out under their own codes: the bound of what codes can show."""
        true = to_pixels(self.held_out.pictures(rows).to(self.device))
        with autocast(self.device):
            code = self.model["encoder"](true)
            mask = box_mask(self.held_out.boxes(rows).to(self.device), self._config.size_px)
            made = self._net.decode(true, mask, code, self.renderer().noise())
        return to_images(made).cpu().numpy()


class CodesTask(BaselineTask):
    """Speech and pose to the codes that the trained encoder gives."""

    name = "codes"
    renders = DaeTalkerRenderer

    def __init__(
        self, net: AfterDaeTalker, data: Dataset, options: BaselineOptions, config: DaeTalkerConfig
    ) -> None:
        super().__init__(net, data, options, config)
        self._net, self._config, self.model = net, config, net.predictor
        self._codes, self._held_out_codes = torch.zeros(0), torch.zeros(0)

    def prepare(self) -> None:
        """Encode all frames; see ``training.task.Prepares``."""
        self._codes = self._encoded(self.data, self.data.rows)
        self._held_out_codes = self._encoded(self.held_out, self.held_out.rows[:512])

    @torch.no_grad()
    def _encoded(self, examples: Examples, rows: Rows) -> Tensor:
        codes = []
        with bar("codes") as progress, autocast(self.device):
            for start in range(0, len(rows), self._config.codes_batch):
                part = rows[start : start + self._config.codes_batch]
                pictures = to_pixels(examples.pictures(part).to(self.device))
                codes.append(self._net.autoencoder["encoder"](pictures).float())
                progress(start + len(part), len(rows))
        return torch.cat(codes)

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Speech, upper points and codes; see ``training.task.Task``."""
        rows = self.data.rows[indices]
        return self.on_device(
            {
                "windows": self.data.windows(rows),
                "upper": upper_of(self.data.points(rows)),
                "codes": self._codes[torch.from_numpy(indices).to(self._codes.device)],
            }
        )

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Squared error of codes, whose own variance is 1; see ``training.task.Task``."""
        found = self.model(batch["windows"], batch["upper"])
        return {"loss": nnf.mse_loss(found.float(), batch["codes"])}

    def validate(self) -> dict[str, float]:
        """Error of the codes, and PSNR (dB) of lower faces from speech; both held out."""
        rows = self.held_out.rows[:512]
        heard = self.held_out.windows(rows).to(self.device)
        upper = upper_of(self.held_out.points(rows)).to(self.device)
        error = nnf.mse_loss(self.model(heard, upper).float(), self._held_out_codes)
        return {"code_error": float(error), **super().validate()}


STAGE = StageConfig(steps=20_000, batch=16, learning_rate=5e-4, ema=0.99, validate_every=200)


def stages(
    net: AfterDaeTalker, config: DaeTalkerConfig, data: Dataset, options: BaselineOptions
) -> list[Stage]:
    """The autoencoder, then the codes."""
    pictures = replace(STAGE, batch=config.batch, learning_rate=config.learning_rate)
    codes = replace(
        STAGE, batch=config.codes_batch, learning_rate=config.codes_learning_rate, autocast=False
    )
    share = config.codes_share
    return [
        Stage(task=AutoencoderTask(net, data, options, config), config=pictures, share=1 - share),
        Stage(task=CodesTask(net, data, options, config), config=codes, share=share),
    ]


SYSTEM = System(
    name="after-daetalker",
    about="After DAE-Talker (Du et al., 2023): a diffusion autoencoder of the lower face, and "
    "conformers from the speech and the head's pose to its codes.",
    features="whisper-short",
    settings=DaeTalkerConfig,
    network=AfterDaeTalker,
    stages=stages,
    renderer=DaeTalkerRenderer,
)
