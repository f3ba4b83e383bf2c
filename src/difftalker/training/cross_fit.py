"""Landmarks of whole clips completed, by a network or by fits to other clips; when sound comes.

Footage that was cut into clips has sound that is early or late, another time in each clip: of 226
clips of GRID's s1 it is half a frame or more in 89, a frame or more in 16, and nine frames in two.
Who learns from it learns a mouth that opens over all these times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from difftalker.config import CompletionConfig
from difftalker.data.dataset import ClipData
from difftalker.face.crop import frame_rate
from difftalker.face.landmarks import UPPER, mouth_opening
from difftalker.landmarks.completer import complete_in_pieces
from difftalker.landmarks.completion import CompletionNet

PIECE_FRAMES = 256
"""Frames of a clip that are completed at once."""
FOLDS = 4
"""In how many parts clips are split, to complete the landmarks of each by a fit to the others."""
FEWEST_CLIPS = 8
"""Fewest clips for which the fits can estimate the delay of the sound."""
ROUNDS = 2
"""Fits to clips that are aligned show better which are not."""
LONGEST_S = 0.48
STEP_S = 0.01
ALIKE = 0.6
"""Correlation of the seen and the predicted opening below which no delay is measured."""

Floats = NDArray[np.floating]


def complete(
    model: CompletionNet,
    points: NDArray[np.float32],
    windows: NDArray[np.float32],
    device: str = "cpu",
) -> NDArray[np.float32]:
    """Complete a whole clip; points (F, 68, 2), of which the upper ones are read."""
    upper = np.nan_to_num(points[:, list(UPPER)])
    pieces = complete_in_pieces(
        model, upper, lambda low, high: windows[low:high], frames=PIECE_FRAMES, device=device
    )
    return np.concatenate(list(pieces))


def fit_to(
    model: CompletionNet,
    clips: Sequence[ClipData],
    windows: Sequence[Sequence[NDArray[np.float32]]],
) -> None:
    """Fit what is fitted of a completion to clips, with windows (F, W, C) of each in its voices."""
    model.fit(
        [
            (torch.from_numpy(clip.points_crop[clip.found]), torch.from_numpy(one[clip.found]))
            for clip, voices in zip(clips, windows, strict=True)
            for one in voices
        ]
    )


def fitted(
    config: CompletionConfig,
    clips: Sequence[ClipData],
    windows: Sequence[Sequence[NDArray[np.float32]]],
) -> CompletionNet:
    """A new completion that is fitted to clips, as :func:`fit_to` does."""
    net = CompletionNet(config).eval()
    fit_to(net, clips, windows)
    return net


def completed_by_others(
    config: CompletionConfig, clips: Sequence[ClipData]
) -> list[NDArray[np.float32]]:
    """Points (F, 68, 2) of each clip, the lower ones as least-squares fits to others have them.

    A fit to the clip itself would know it too well. A single clip has no others.
    """
    completed = [np.zeros(0, np.float32)] * len(clips)
    config = replace(config, least_squares=True, opening_from_speech=False)
    for i, net, windows in _by_others(config, clips):
        completed[i] = complete(net, clips[i].points_crop, windows)
    return completed


def _by_others(
    config: CompletionConfig, clips: Sequence[ClipData]
) -> Iterator[tuple[int, CompletionNet, NDArray[np.float32]]]:
    """The place of each clip, a completion fitted to others, and its windows of speech."""
    folds = min(FOLDS, len(clips))
    windows = [clip.windows(config.features, config.window) for clip in clips]
    for fold in range(folds):
        others = [i for i in range(len(clips)) if i % folds != fold or folds == 1]
        net = fitted(config, [clips[i] for i in others], [[windows[i]] for i in others])
        for i in range(fold, len(clips), folds):
            yield i, net, windows[i]


def align_sound(config: CompletionConfig, clips: Sequence[ClipData]) -> None:
    """Set how late the sound of each clip is (``ClipData.delay_s``), up to half a second.

    It is that time at which the opening of the mouth that is predicted from its sound, by fits to
    other clips, is most like the one that is seen.
    """
    if len(clips) < FEWEST_CLIPS:
        return
    with_opening = replace(config, least_squares=True, audio_offsets=True, opening_from_speech=True)
    for _ in range(ROUNDS):
        predicted = [np.zeros(0, np.float32)] * len(clips)
        for i, net, windows in _by_others(with_opening, clips):
            assert net.opening is not None
            predicted[i] = net.opening(torch.from_numpy(windows[None]))[0].numpy()
        for clip, openings in zip(clips, predicted, strict=True):
            delay_s = clip.delay_s + _lag_s(clip, openings)
            clip.delay_s = round(min(max(delay_s, -LONGEST_S), LONGEST_S), 2)


def _lag_s(clip: ClipData, predicted: Floats) -> float:
    """By how many seconds the predicted opening (F,) is later than the seen one."""
    seen = mouth_opening(clip.points_crop)
    lags_s = np.arange(-LONGEST_S, LONGEST_S + STEP_S / 2, STEP_S)
    alike = [_alike(predicted, seen, clip, float(lag_s)) for lag_s in lags_s]
    best = int(np.argmax(alike))
    return round(float(lags_s[best]), 2) if alike[best] > ALIKE else 0.0


def _alike(predicted: Floats, seen: Floats, clip: ClipData, lag_s: float) -> float:
    """Correlation of the opening seen with the one predicted ``lag_s`` later."""
    later = np.interp(clip.times_s + lag_s, clip.times_s, predicted, left=np.nan, right=np.nan)
    both = clip.found & np.isfinite(later)
    if both.sum() < frame_rate(clip.times_s) or not np.ptp(later[both]) or not np.ptp(seen[both]):
        return -1.0
    return float(np.corrcoef(later[both], seen[both])[0, 1])
