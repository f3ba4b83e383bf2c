"""How different two pictures look to people, by the features of a network: ``perceptual``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from difftalker.core.hashing import sha256_of
from difftalker.evaluation.footage import Figures, Footage, Output
from difftalker.evaluation.judges.base import JudgeOptions
from difftalker.experts.lpips import LEAST_PX, PerceptualNet, load_lpips, load_st_lpips
from difftalker.face.detect.track import FaceTrack
from difftalker.store import assets

STRIDE = 5
"""Every how many frames are looked at: neighbours differ little, and the network is slow."""


class PerceptualJudge:
    """``perceptual``: ST-LPIPS, or LPIPS where AlexNet's weights are given, of the lower region."""

    name = "perceptual"
    measures = ("perceptual",)

    def __init__(self, alexnet: Path | None = None, *, device: str = "cpu") -> None:
        """``alexnet`` is torchvision's file of AlexNet; without it ST-LPIPS is taken.

        Where ST-LPIPS has not been fetched the measure is not a number, and a note says how to.

        Raises:
            AssetError: ``alexnet`` is missing or no AlexNet, or LPIPS' own layers cannot be had.
        """
        self.facts: Mapping[str, Any]
        self._net: PerceptualNet | None = None
        self._device = device
        if alexnet is not None:
            self._net = load_lpips(alexnet, assets.path("lpips_linear")).to(device)
            self.facts = {"distance": "LPIPS 0.1 (AlexNet)", "sha256": sha256_of(alexnet)}
        elif assets.is_cached("st_lpips"):
            path = assets.path("st_lpips")
            self._net = load_st_lpips(path).to(device)
            self.facts = {"distance": "ST-LPIPS (AlexNet)", "sha256": sha256_of(path)}
        else:
            fetch = assets.command("st_lpips")
            self.facts = {"note": f"not measured: its weights are not there; run `{fetch}`"}

    @classmethod
    def opened(cls, options: JudgeOptions) -> Self:
        """The judge of an evaluation's options."""
        return cls(options.alexnet, device=options.device)

    def judge(self, clip: Footage, output: Output, made: FaceTrack) -> Figures:
        """The mean over frames; see ``judges.base.Judge``. Not a number below 32 pixels a side."""
        if self._net is None:
            return {}
        looked_at = zip(
            clip.crops(output.video),
            clip.crops(),
            clip.located.framing.boxes,
            clip.found,
            strict=True,
        )
        distances = [
            self.distance(_within(made_crop, box), _within(true_crop, box))
            for made_crop, true_crop, box, found in itertools.islice(looked_at, 0, None, STRIDE)
            if found and _is_large(box)
        ]
        return {"perceptual": float(np.mean(distances))} if distances else {}

    def distance(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
        """Distance of two pictures (H, W, 3), RGB; 0 where they are equal."""
        assert self._net is not None
        with torch.inference_mode():
            return float(self._net(self._ready(a), self._ready(b)))

    def _ready(self, image: NDArray[np.uint8]) -> Tensor:
        planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return planes[None].to(self._device).float() / 127.5 - 1


def _within(image: NDArray[np.uint8], box: NDArray[np.int32]) -> NDArray[np.uint8]:
    top, bottom, left, right = (int(edge) for edge in box)
    return image[top:bottom, left:right]


def _is_large(box: NDArray[np.int32]) -> bool:
    return int(box[1] - box[0]) >= LEAST_PX and int(box[3] - box[2]) >= LEAST_PX
