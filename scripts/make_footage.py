"""Make the demo's footage: a synthetic face, sampled from an avatar's own networks.

    python scripts/make_footage.py grid-s1 RUN/data src/difftalker/samples/grid-s1-footage.mp4

The whole face is noise at the start and is drawn under landmarks: the mean face of the dataset,
swaying slowly and blinking, with its mouth as it rests. No recorded frame is in it.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker import pipeline
from difftalker.data.dataset import load_dataset
from difftalker.face.landmarks import mouth_opening
from difftalker.media.video import VideoWriter

FPS = 25
BATCH_FRAMES = 16
LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))
"""Points of the upper lids, and those of the lower lids below them."""


def resting_face(dataset: Path) -> NDArray[np.float32]:
    """The mean of the frames whose mouth is nearly closed, (68, 2) crop units."""
    clips = load_dataset(dataset, validation_clips=0).train
    points = np.concatenate([clip.points_crop[clip.found] for clip in clips])
    opening = mouth_opening(points)
    resting: NDArray[np.float32] = points[opening < np.quantile(opening, 0.3)].mean(0)
    return resting


def swaying(face: NDArray[np.float32], frames: int, seed: int) -> NDArray[np.float32]:
    """The face (68, 2) turned, moved and blinking, as (frames, 68, 2)."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames) / FPS

    def drift(size: float) -> NDArray[np.float64]:
        waves = zip((0.11, 0.23, 0.41), rng.uniform(0, 2 * np.pi, 3), strict=True)
        total = sum((np.sin(2 * np.pi * (f * time + p)) for f, p in waves), np.zeros_like(time))
        return size * total / 3

    angle, middle = drift(0.03), face.mean(0)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1)
    shift = np.stack([drift(0.012), drift(0.008)], -1)
    moved = (face[None] - middle) @ turn.reshape(-1, 2, 2).transpose(0, 2, 1)
    moved = moved + middle + shift[:, None]
    closed = blinks(time, rng)
    for upper, lower in LIDS:
        gap = moved[:, lower] - moved[:, upper]
        moved[:, upper] += 0.85 * closed[:, None] * gap
    out: NDArray[np.float32] = moved.astype(np.float32)
    return out


def blinks(time: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """How far the eyes are closed, 0 to 1: a blink of a fifth of a second every few seconds."""
    at, closed = 0.8, np.zeros_like(time)
    while at < time[-1]:
        closed = np.maximum(closed, np.exp(-(((time - at) / 0.07) ** 2)))
        at += rng.uniform(2.0, 3.5)
    return closed


def main() -> None:
    """Draw the frames and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("avatar")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    avatar = pipeline.load(options.avatar)
    size = avatar.config.size_px
    points = swaying(resting_face(options.dataset), round(options.seconds * FPS), options.seed)
    sampling = avatar.sampling(steps=options.steps)
    with VideoWriter(
        options.output,
        width=size,
        height=size,
        fps=Fraction(FPS),
        time_base=Fraction(1, FPS * 512),
        comment=f"AI-generated: every frame was made by DiffTalker, avatar {avatar.name}.",
        crf=20,
    ) as writer:
        for start in range(0, len(points), BATCH_FRAMES):
            part = points[start : start + BATCH_FRAMES]
            everywhere = np.tile(np.array([0, size, 0, size], np.int32), (len(part), 1))
            nothing = np.zeros((len(part), size, size, 3), np.uint8)
            made = avatar.paint(nothing, everywhere, part, sampling, options.seed)
            for i, image in enumerate(made, start):
                writer.write(image, i * 512)


if __name__ == "__main__":
    main()
