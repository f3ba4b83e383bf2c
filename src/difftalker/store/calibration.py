"""What was measured of one person at the end of training, beside an avatar's weights.

AVATAR/calibration.json    detail, openings, light_detail, light_openings, looks
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from difftalker.errors import UsageError

OPENINGS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.26)
"""Openings of generated mouths, face scales, at which those of the drawn ones are known."""
MOST_NUMBERS = 1 << 14
"""Numbers in all looks of a person."""
MOST_ADDED = 0.05
"""The most that is added to an opening that is drawn, face scales; more would have another cause
than lips that fade."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How one person's generated pictures are brought to their footage."""

    detail: float = 0.0
    """How much of what is finest in the pictures is added to them, so that they are as sharp as the
    footage: a decoder of sampled latents keeps to the mean of what it knows."""
    openings: tuple[float, ...] = ()
    """By how much mouths are drawn wider open than they are wanted, face scales, at each of
    ``OPENINGS``: thin gaps between lips fade in generated pictures. Empty: as they are wanted."""
    light_detail: float = 0.0
    """The same as ``detail`` for pictures of the light network."""
    light_openings: tuple[float, ...] = ()
    """The same as ``openings`` for them."""
    looks: tuple[tuple[float, ...], ...] = ()
    """What the person looks like: descriptors of the upper face in the training footage
    (``face.detect.looks``), a few that differ. Empty: unknown."""

    def __post_init__(self) -> None:
        for name in ("detail", "light_detail"):
            if not 0 <= (found := getattr(self, name)) <= 2:
                raise UsageError(f"{name} is {found!r:.80}", wanted=f"0 <= {name} <= 2")
        for name in ("openings", "light_openings"):
            added = getattr(self, name)
            fits = len(added) in (0, len(OPENINGS))
            if not (fits and all(abs(one) <= MOST_ADDED for one in added)):
                raise UsageError(
                    f"{name} is {added!r:.80}",
                    wanted=f"{len(OPENINGS)} numbers of at most {MOST_ADDED}",
                )
        sizes = {len(look) for look in self.looks}
        numbers = [number for look in self.looks for number in look]
        if len(sizes) > 1 or len(numbers) > MOST_NUMBERS or not all(map(math.isfinite, numbers)):
            raise UsageError("looks do not fit", wanted="finite numbers, as many in each look")


UNMEASURED = Calibration()
"""The calibration of an avatar without measurements: pictures are shown as they are decoded."""
