"""Landmarks completed by fits to other clips, and sound aligned with lips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from difftalker import config as configs
from difftalker.data.dataset import ClipData, load_dataset
from difftalker.face.landmarks import LOWER, UPPER
from difftalker.landmarks.completion import CompletionNet
from difftalker.training.cross_fit import (
    FEWEST_CLIPS,
    PIECE_FRAMES,
    align_sound,
    complete,
    completed_by_others,
)
from helpers import face_points, write_dataset


def test_landmarks_are_completed_by_a_fit_to_other_clips(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data")
    config = configs.debug().model.completion

    def completed() -> list[NDArray[np.float32]]:
        return completed_by_others(config, load_dataset(dataset, validation_clips=0).train)

    before = completed()
    track = dataset / "clips" / "a" / "track.npz"
    arrays = dict(np.load(track))
    arrays["points_crop"][:, list(LOWER)] += 0.1
    np.savez(track, **arrays)
    after = completed()
    # What its own mouth does reaches the others' fits, and not its own.
    np.testing.assert_allclose(after[0], before[0], atol=1e-5)
    assert np.abs(after[1] - before[1]).max() > 1e-3
    for clip, points in zip(load_dataset(dataset, validation_clips=0).train, after, strict=True):
        upper = list(UPPER)
        np.testing.assert_allclose(points[:, upper], clip.points_crop[:, upper], atol=1e-5)


def spoken_clips(folder: Path, late_s: Sequence[float]) -> list[ClipData]:
    """Clips whose mouths open with their sound, which is late by so much."""
    dataset = write_dataset(folder, [f"clip-{i}" for i in range(len(late_s))], frames=75)
    clips = load_dataset(dataset, validation_clips=0).train
    loud, soft = np.random.default_rng(99).uniform(0, 1, (2, 80))  # spectra
    for seed, (clip, late) in enumerate(zip(clips, late_s, strict=True)):
        rng = np.random.default_rng(seed)
        knots_s = np.arange(-1, 5, 0.12)
        loudness = rng.uniform(0, 1, len(knots_s))
        clip.points_crop = np.stack(
            [face_points(0.08 * x) for x in np.interp(clip.times_s, knots_s, loudness)]
        )
        heard = np.interp(np.arange(150) / 50 - late, knots_s, loudness)
        mel = soft + heard[:, None] * (loud - soft) + rng.normal(0, 0.05, (150, 80))
        np.save(dataset / "clips" / clip.name / "mel.npy", mel.astype(np.float16))
    return clips


def test_sound_is_brought_in_step_with_lips(tmp_path: Path) -> None:
    late_s = np.zeros(12)
    late_s[[1, 4, 7]] = 0.3, -0.08, 0.04
    clips = spoken_clips(tmp_path / "data", late_s.tolist())
    align_sound(configs.debug().model.completion, clips)
    found_s = np.array([clip.delay_s for clip in clips])
    # A lag that all have is none of theirs: fits do not know it.
    np.testing.assert_allclose(found_s - np.median(found_s), late_s, atol=0.02)
    assert abs(np.median(found_s)) < 0.02


def test_sound_of_few_clips_and_of_others_voices_stays(tmp_path: Path) -> None:
    clips = spoken_clips(tmp_path / "data", [0.2] + 11 * [0.0])
    few = clips[: FEWEST_CLIPS - 1]
    align_sound(configs.debug().model.completion, few)
    assert all(clip.delay_s == 0 for clip in few)
    for clip, other in zip(clips, [*clips[1:], clips[0]], strict=True):
        clip.points_crop = other.points_crop.copy()
    align_sound(configs.debug().model.completion, clips)
    assert all(clip.delay_s == 0 for clip in clips)


def test_a_long_clip_is_completed_in_pieces_as_in_one() -> None:
    config = configs.debug().model.completion
    torch.manual_seed(0)
    model = CompletionNet(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    frames = 2 * PIECE_FRAMES + 5
    rng = np.random.default_rng(0)
    points = rng.random((frames, 68, 2), np.float32)
    windows = rng.random((frames, config.window, config.feature_dim), np.float32)
    with torch.no_grad():
        upper = torch.from_numpy(points[None, :, list(UPPER)])
        whole = model(upper, torch.from_numpy(windows[None])).points[0].numpy()
    np.testing.assert_allclose(complete(model, points, windows), whole, atol=1e-5)
