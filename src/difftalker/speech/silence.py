"""Where a sound is silent, by its level."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

LEVEL_WINDOW_S = 0.04
SILENT_BELOW_DB = 20.0
"""Sound this far below the loud parts (95th percentile) of its clip is silence."""
SILENT_DBFS = -60.0
"""So is all sound below this level."""
SILENT_MARGIN_S = 0.12
"""Time next to speech that is not silence: lips open before it and close after."""

Floats = NDArray[np.floating]


def sound_level_db(
    blocks: Iterable[Floats], times_s: NDArray[np.floating], *, rate_hz: int
) -> NDArray[np.float64]:
    """Level of a sound around each rising time (F,): RMS over 40 ms, dB of full scale.

    The sound comes in blocks (samples,). Times beyond its end are as silent as can be.
    """
    half = round(LEVEL_WINDOW_S * rate_hz / 2)
    centre = np.round(np.asarray(times_s) * rate_hz).astype(np.int64)
    edges = np.maximum(np.stack([centre - half, centre + half]), 0)
    energy, total, heard = np.zeros(edges.shape), 0.0, 0
    for block in blocks:
        sums = total + np.concatenate([[0.0], np.cumsum(np.square(block, dtype=np.float64))])
        for places, found in zip(edges, energy, strict=True):
            first, last = np.searchsorted(places, [heard, heard + len(block)], "left")
            found[first:last] = sums[places[first:last] - heard]
        heard, total = heard + len(block), float(sums[-1])
    energy[edges >= heard] = total
    power = (energy[1] - energy[0]) / (2 * half)
    level_db: NDArray[np.float64] = 10 * np.log10(np.maximum(power, 1e-12))
    return level_db


def silent_at(
    blocks: Iterable[Floats],
    times_s: NDArray[np.floating],
    margin_s: float = SILENT_MARGIN_S,
    *,
    rate_hz: int,
) -> NDArray[np.bool_]:
    """(F,): whether a sound, blocks (samples,), is silent at rising times, away from speech."""
    return silent_frames(sound_level_db(blocks, times_s, rate_hz=rate_hz), times_s, margin_s)


def silent_frames(
    level_db: Floats, times_s: NDArray[np.floating], margin_s: float = SILENT_MARGIN_S
) -> NDArray[np.bool_]:
    """(F,): the frames of silence, a margin away from speech; by level, relative to the clip's."""
    loud = float(np.percentile(level_db, 95))
    speech = level_db >= max(loud - SILENT_BELOW_DB, SILENT_DBFS)
    before = np.maximum.accumulate(np.where(speech, times_s, -np.inf))
    after = np.minimum.accumulate(np.where(speech, times_s, np.inf)[::-1])[::-1]
    silent: NDArray[np.bool_] = (times_s - before > margin_s) & (after - times_s > margin_s)
    return silent
