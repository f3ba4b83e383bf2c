"""What several test files share: a drawn face, and a small prepared dataset of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.core.hashing import sha256_of
from difftalker.data.prepare import VERSION, Clip, Manifest, PrepareConfig
from difftalker.face.crop import mask_boxes
from difftalker.face.landmarks import EYES, INNER_LIPS, JAW, OUTER_LIPS
from difftalker.speech.live import LAG_FEATURES

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]

FPS = 25.0
MEL_DIM = 80


def face_points(opening: float = 0.0, *, shift: tuple[float, float] = (0.0, 0.0)) -> Floats:
    """A face as it lies in its crop, (68, 2) crop units, the mouth open by ``opening``.

    Speech moves the lower points alone: jaw 3 to 13 and mouth.
    """
    parts = [_jaw(opening), *_brows(), *_nose(), *_eyes(), *_mouth(opening)]
    return (np.concatenate(parts) + shift).astype(np.float32)


def _jaw(opening: float) -> NDArray[np.float64]:
    turn = np.linspace(0, np.pi, 17)
    moved = np.where(np.abs(np.arange(17) - 8) <= 5, opening * np.sin(turn) ** 2, 0)
    y = 0.28 + 0.58 * np.sin(turn) ** 0.8 + moved
    return np.stack([0.5 - 0.3 * np.cos(turn), y], 1)


def _brows() -> list[NDArray[np.float64]]:
    arch = 0.24 - 0.015 * np.sin(np.linspace(0, np.pi, 5))
    return [np.stack([np.linspace(a, a + 0.2, 5), arch], 1) for a in (0.24, 0.56)]


def _nose() -> list[NDArray[np.float64]]:
    ridge = np.stack([np.full(4, 0.5), np.linspace(0.32, 0.48, 4)], 1)
    base = np.stack([np.linspace(0.45, 0.55, 5), [0.53, 0.545, 0.55, 0.545, 0.53]], 1)
    return [ridge, base]


def _eyes() -> list[NDArray[np.float64]]:
    return [_ellipse((x, 0.33), (0.06, 0.02), 6) for x in (0.37, 0.63)]


def _mouth(opening: float) -> list[NDArray[np.float64]]:
    outer = _ellipse((0.5, 0.67), (0.10, 0.035 + opening / 2), 12)
    return [outer, _ellipse((0.5, 0.67), (0.08, 0.004 + opening / 2), 8)]


def _ellipse(
    centre: tuple[float, float], radii: tuple[float, float], points: int
) -> NDArray[np.float64]:
    """Points from the left end over the top, as iBUG counts eyes and lips."""
    turn = np.pi + np.arange(points) * 2 * np.pi / points
    return np.stack([np.cos(turn), np.sin(turn)], 1) * radii + centre


def draw_face(points_crop: Floats, size_px: int, rng: np.random.Generator) -> Image:
    """A cartoon of the face with these points, (size, size, 3), with some noise."""
    image = np.full((size_px, size_px, 3), (60, 80, 110), np.uint8)
    forehead = [(0.8, 0.12), (0.2, 0.12)]
    for shape, colour in (
        ([*points_crop[list(JAW)], *forehead], (205, 160, 130)),
        (points_crop[list(EYES[:6])], (240, 240, 240)),
        (points_crop[list(EYES[6:])], (240, 240, 240)),
        (points_crop[list(OUTER_LIPS)], (170, 70, 80)),
        (points_crop[list(INNER_LIPS)], (60, 20, 25)),
    ):
        cv2.fillPoly(image, [np.rint(np.array(shape) * size_px).astype(np.int32)], colour)
    noisy = image + rng.normal(0, 4, image.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def write_dataset(
    folder: Path, names: Sequence[str] = ("a", "b", "c"), *, frames: int = 26, size_px: int = 64
) -> Path:
    """A dataset as `difftalker prepare` writes it, of drawn faces whose mouths follow the sound."""
    config = PrepareConfig(size_px=size_px, features=("mel", "mel-live"))
    clips = [
        _write_clip(folder / "clips" / name, frames, config, np.random.default_rng(seed))
        for seed, name in enumerate(names)
    ]
    manifest = {"version": VERSION, **asdict(Manifest(config=config, clips=clips, rejected=[]))}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _write_clip(folder: Path, frames: int, config: PrepareConfig, rng: np.random.Generator) -> Clip:
    folder.mkdir(parents=True)
    times_s = np.arange(frames) / FPS
    loudness = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(1, 3) * times_s + rng.uniform(0, 6))
    sway = 0.01 * np.sin(times_s[:, None] * 2 + rng.uniform(0, 6, 2))
    points = np.stack(
        [
            face_points(0.08 * loud, shift=tuple(moved))
            for loud, moved in zip(loudness, sway, strict=True)
        ]
    )
    images = np.stack([draw_face(one, config.size_px, rng) for one in points])
    heard = np.interp(np.arange(2 * frames) / 50, times_s, loudness)
    mel = heard[:, None] * rng.uniform(0.5, 1.5, MEL_DIM) + rng.normal(
        0, 0.1, (2 * frames, MEL_DIM)
    )
    np.save(folder / "frames.npy", images)
    np.save(folder / "mel.npy", mel.astype(np.float16))
    late = np.concatenate([mel[:LAG_FEATURES], mel[:-LAG_FEATURES]])
    np.save(folder / "mel-live.npy", late.astype(np.float16))
    np.savez(
        folder / "track.npz",
        points_crop=points,
        boxes=mask_boxes(points, times_s, config.size_px),
        centre_px=np.full((frames, 2), 100, np.float32),
        side_px=np.full(frames, 120, np.float32),
        times_s=times_s,
        found=np.ones(frames, bool),
    )
    clip = Clip(
        name=folder.name,
        source=f"{folder.name}.mp4",
        sha256="0" * 64,
        frames=frames,
        found=frames,
        fps=FPS,
        files={path.name: sha256_of(path) for path in sorted(folder.iterdir())},
    )
    (folder / "clip.json").write_text(json.dumps({"size_px": config.size_px, "clip": asdict(clip)}))
    return clip
