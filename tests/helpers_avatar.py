"""An untrained avatar as a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from difftalker import config
from difftalker.dubbing import networks
from difftalker.face.landmarks import UPPER
from difftalker.store import avatars
from helpers import face_points


def write_untrained(folder: Path, parts: tuple[str, ...] = ()) -> Path:
    """Write an untrained avatar of the smallest preset, whose head holds still."""
    torch.manual_seed(0)
    model = config.preset("debug").model
    nets = networks.build(model, parts=parts)
    if parts:
        nets.motion.fit([(np.repeat(face_points(0.03)[None, list(UPPER)], 60, 0), 25.0)])
    avatars.write(
        folder,
        name="nobody",
        config=nets.resolved(model),
        architecture=nets.architecture(),
        weights=nets.state(),
        facts={},
        card="untrained",
    )
    return folder
