"""The catalogue of measures: what each is called for people, and how its figures read.

``docs/guide/evaluate.md`` defines them; the report's page and ``docs/results.md`` take their order,
words and digits from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How a figure reads."""

    text: str
    better: Literal["up", "down", "one", "real"]
    """Where better lies; ``one`` is the footage itself, ``real`` the row of that name."""
    digits: int
    """Behind the point."""
    paper: float | None = None
    """The paper's own figure: Table 1 (DiffTalker with landmarks) or Section 3.3."""

    @property
    def arrow(self) -> str:
        """Where better lies, as a sign."""
        return {"up": "↑", "down": "↓", "one": "→ 1", "real": "→ real"}[self.better]


def _measure(
    text: str,
    better: Literal["up", "down", "one", "real"],
    digits: int,
    paper: float | None = None,
) -> Measure:
    return Measure(text=text, better=better, digits=digits, paper=paper)


MEASURES = {
    "landmark_error_crop": _measure("completion: landmark error, crop units", "down", 4),
    "landmark_error_frame": _measure("completion: landmark error, frame units", "down", 4, 0.002),
    "landmark_error_contour_crop": _measure("of it the lower contour, crop units", "down", 4),
    "landmark_error_contour_frame": _measure("of it the lower contour, frame units", "down", 4),
    "landmark_error_mouth_crop": _measure("of it the mouth, crop units", "down", 4),
    "landmark_error_mouth_frame": _measure("of it the mouth, frame units", "down", 4),
    "mouth_rise": _measure("rise of the mouth's error with the other audio", "up", 2),
    "ld_frame": _measure("LD on the output, all points, frame units", "down", 4, 0.004),
    "ld_lower_frame": _measure("LD on the output, lower points, frame units", "down", 4),
    "found": _measure("frames in which a face is found again", "up", 3),
    "open_corr": _measure("correlation of the mouth's opening with the speaker's", "up", 3),
    "sync_c": _measure("our sync expert's confidence", "real", 3),
    "sync_d": _measure("our sync expert's distance", "real", 3),
    "lse_c": _measure("LSE-C, SyncNet's confidence", "real", 2, 9.01),
    "lse_d": _measure("LSE-D, SyncNet's distance", "real", 2, 6.82),
    "word_error": _measure("word error of our lip reader", "down", 3),
    "closure": _measure("share of p, b, m at which the lips close", "real", 3),
    "silence_leak": _measure("share of silence in which the mouth moves", "down", 3),
    "psnr_crop": _measure("PSNR, whole crop, dB", "up", 2, 24.31),
    "psnr_face": _measure("PSNR, face, dB", "up", 2),
    "psnr_lower": _measure("PSNR, lower region, dB", "up", 2),
    "ssim_crop": _measure("SSIM, whole crop", "up", 3, 0.94),
    "ssim_face": _measure("SSIM, face", "up", 3),
    "ssim_lower": _measure("SSIM, lower region", "up", 3),
    "perceptual": _measure("perceptual distance", "down", 3),
    "sharpness": _measure("sharpness, lower region, footage = 1", "one", 2),
    "flicker": _measure("flicker, lower region, footage = 1", "one", 2),
    "flicker_static": _measure("flicker beside chin and mouth, footage = 1", "one", 2),
    "flicker_moving": _measure("flicker on chin and mouth, footage = 1", "one", 2),
    "seam": _measure("seam at the mask's edge, footage = 1", "one", 2),
}
"""By name, in the order of tables."""


def described(name: str) -> Measure:
    """The measure of a name; one that nobody described reads as its name."""
    return MEASURES.get(name, Measure(text=name.replace("_", " "), better="real", digits=3))
