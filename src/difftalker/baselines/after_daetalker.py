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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from difftalker.baselines.base import (
    BaselineNet,
    BaselineOptions,
    BaselineRenderer,
    BaselineTask,
    Examples,
    Rows,
    Stage,
    System,
    stage,
)
from difftalker.baselines.dae_nets import (
    PREDICTION,
    CodePredictor,
    DaeTalkerConfig,
    DiffusionAutoencoder,
    first_noise,
    upper_of,
)
from difftalker.core.device import autocast
from difftalker.data.dataset import Dataset
from difftalker.synthesis.autoencoder import to_images, to_pixels
from difftalker.synthesis.region import add_noise_by_region, box_mask, region_loss, target
from difftalker.synthesis.renderer import Floats, Image
from difftalker.synthesis.sampling import alpha_bars
from difftalker.training.bars import bar

ENCODED_AT_ONCE = 64
"""Frames; memory depends on it, the codes do not."""


class AfterDaeTalker(BaselineNet):
    """The diffusion autoencoder and the predictor of its codes."""

    def __init__(self, config: DaeTalkerConfig) -> None:
        super().__init__(config)
        self.autoencoder = DiffusionAutoencoder(config)
        self.predictor = CodePredictor(config)


class DaeTalkerRenderer(BaselineRenderer):
    """Codes from the speech, pictures from the codes."""

    def generate(
        self, masked: Tensor, mask: Tensor, points_crop: Floats, windows: Tensor
    ) -> Tensor:
        """See :meth:`BaselineRenderer.generate`; of the points only the upper ones count."""
        upper = upper_of(torch.from_numpy(points_crop)).to(masked)
        code = self._net.predictor(windows, upper)
        made: Tensor = self._net.autoencoder.decode(
            masked, mask, code, first_noise(self.size_px, self._seed)
        )
        return made


class AutoencoderTask(BaselineTask):
    """The picture denoised under its own code."""

    name = "autoencoder"
    renders = DaeTalkerRenderer

    def __init__(
        self, net: AfterDaeTalker, data: Dataset, options: BaselineOptions, config: DaeTalkerConfig
    ) -> None:
        super().__init__(net, data, options, config)
        self._net = self.model = net.autoencoder
        self._size_px, self._timesteps = config.size_px, config.timesteps
        self._bars = alpha_bars(PREDICTION, config.timesteps).to(options.device)

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Frames, noise and times; see ``training.task.Task``."""
        rows, size_px = self.data.rows[indices], self._size_px
        return self.on_device(
            {
                "true": self.data.pictures(rows),
                "boxes": self.data.boxes(rows),
                "noise": torch.randn(len(rows), 3, size_px, size_px, generator=generator),
                "t": torch.randint(self._timesteps, (len(rows),), generator=generator),
            }
        )

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The error of v in the mask; see ``training.task.Task``."""
        true, noise, t = to_pixels(batch["true"]), batch["noise"], batch["t"]
        mask, bars = box_mask(batch["boxes"], self._size_px), self._bars[t]
        noisy = add_noise_by_region(true, noise, bars, mask)
        predicted = self._net.denoiser(noisy, mask, t, self._net.encoder(true))
        return {"loss": region_loss(predicted, target(true, noise, bars, PREDICTION), mask)}

    def rendered(self, rows: Rows) -> Image:
        """Frames held out under their own codes: the bound of what codes can show."""
        true, size_px = to_pixels(self.held_out.pictures(rows).to(self.device)), self._size_px
        with autocast(self.device):
            mask = box_mask(self.held_out.boxes(rows).to(self.device), size_px)
            code = self._net.encoder(true)
            made = self._net.decode(true, mask, code, first_noise(size_px))
        return to_images(made).cpu().numpy()


class CodesTask(BaselineTask):
    """Speech and pose to the codes that the trained encoder gives."""

    name = "codes"
    renders = DaeTalkerRenderer

    def __init__(
        self, net: AfterDaeTalker, data: Dataset, options: BaselineOptions, config: DaeTalkerConfig
    ) -> None:
        super().__init__(net, data, options, config)
        self._encoder, self._predictor = net.autoencoder.encoder, net.predictor
        self.model = net.predictor
        self._codes = torch.zeros(0)

    @torch.no_grad()
    def prepare(self) -> None:
        """Encode all frames; see ``training.task.Prepares``."""
        rows, codes = self.data.rows, []
        with bar("codes") as progress:
            for start in range(0, len(rows), ENCODED_AT_ONCE):
                codes.append(self._encoded(self.data, rows[start : start + ENCODED_AT_ONCE]))
                progress(min(start + ENCODED_AT_ONCE, len(rows)), len(rows))
        self._codes = torch.cat(codes)
        self._predictor.fit(self._codes)

    def _encoded(self, examples: Examples, rows: Rows) -> Tensor:
        with autocast(self.device):
            code: Tensor = self._encoder(to_pixels(examples.pictures(rows).to(self.device)))
        return code.float()

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Speech, upper points and codes; see ``training.task.Task``."""
        codes = self._codes[torch.from_numpy(indices).to(self._codes.device)]
        return self.on_device({**_heard(self.data, self.data.rows[indices]), "codes": codes})

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Squared error of codes over their variance; see ``training.task.Task``."""
        found = self._predictor(batch["windows"], batch["upper"])
        gap = (found - batch["codes"]) / self._predictor.spread
        return {"loss": gap.square().mean()}

    def validate(self) -> dict[str, float]:
        """On frames held out: error of codes, 1 for their mean; PSNR (dB) of lower faces."""
        codes = self._encoded(self.held_out, self.watched)
        batch = self.on_device({**_heard(self.held_out, self.watched), "codes": codes})
        error = self.loss(batch, torch.Generator())["loss"]
        return {"code_error": float(error), **super().validate()}


def _heard(examples: Examples, rows: Rows) -> dict[str, Tensor]:
    """The speech and upper points of frames (n, 2)."""
    return {"windows": examples.windows(rows), "upper": upper_of(examples.points(rows))}


def stages(
    net: AfterDaeTalker, config: DaeTalkerConfig, data: Dataset, options: BaselineOptions
) -> list[Stage]:
    """The autoencoder, then the codes."""
    pictures = AutoencoderTask(net, data, options, config)
    codes = CodesTask(net, data, options, config)
    share, rate = config.codes_share, config.codes_learning_rate
    return [
        stage(pictures, config.batch, config.learning_rate, 1 - share),
        stage(codes, config.codes_batch, rate, share, autocast=False),
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
