"""What the tests of baselines share: small sizes, and a training of a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from difftalker.baselines import systems

WIDTHS = {"channels": "16,24,32,32", "speech_dim": "16"}
SMALL = {
    "after-wav2lip": {**WIDTHS, "batch": "2"},
    "after-makeittalk": {**WIDTHS, "batch": "4", "points_batch": "4"},
    "after-daetalker": {
        **WIDTHS,
        "batch": "4",
        "codes_batch": "4",
        "layers": "1",
        "steps": "2",
        "window": "16",
    },
}
"""Settings of small networks."""


def train(name: str, dataset: Path, output: Path, **options: Any) -> dict[str, float]:
    """Train small networks on log-mels, as many steps as are asked for."""
    chosen = {"features": "mel", "minutes": 0, "settings": SMALL[name], "validation_clips": 1}
    return systems.train(name, dataset, output, **{**chosen, **options})
