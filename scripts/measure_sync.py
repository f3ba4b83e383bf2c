"""Sound against picture, all along a long dubbing: clicks and flashes.

    python scripts/measure_sync.py [--seconds 600] [--rate 30000/1001]

Footage is made that turns white for one frame at moments drawn by chance, and a sound track with a
click at each of those moments. `difftalker dub` dubs the one with the other, with a track of
landmarks and the smallest avatar: a face in the first second only, so most frames pass through.
In the output both are found again, by plain PyAV, and compared. Prints the largest offset, and that
near the end; exits 1 where one is a frame or more, or where flashes or clicks were lost.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from difftalker import cli
from difftalker.core.hashing import sha256_of
from difftalker.landmarks.track_file import LandmarkTrack
from difftalker.media.video import VideoWriter, probe_video
from media_matrix import make_avatar

Times = NDArray[np.float64]

SIDE_PX = 64
APART_S = (3.0, 8.0)
"""Least and largest distance between two flashes."""
FACE_S = 1.0
CLICK_S = 0.002


def flash_frames(frames: int, rate: Fraction, seed: int) -> list[int]:
    """Which frames flash: some three hundred in an hour and the last second's."""
    rng, at, flashes = np.random.default_rng(seed), 2.0, list[int]()
    while at * rate < frames - rate:
        flashes.append(round(at * rate))
        at += rng.uniform(*APART_S)
    return [*flashes, frames - round(rate / 2)]


def write_footage(path: Path, frames: int, rate: Fraction, flashes: list[int]) -> None:
    """Dark, moving pictures, and white ones."""
    flashing = set(flashes)
    dark = np.random.default_rng(0).integers(0, 80, (SIDE_PX, 2 * SIDE_PX, 3), dtype=np.uint8)
    white = np.full((SIDE_PX, SIDE_PX, 3), 235, np.uint8)
    with VideoWriter(
        path, width=SIDE_PX, height=SIDE_PX, fps=rate, time_base=1 / rate, preset="ultrafast"
    ) as writer:
        for i in range(frames):
            start = i % SIDE_PX
            picture = np.ascontiguousarray(dark[:, start : start + SIDE_PX])
            writer.write(white if i in flashing else picture, i)


def write_clicks(path: Path, seconds: float, clicks_s: Times, rate_hz: int) -> None:
    """Faint noise, and a click at each of the times."""
    clicks = np.rint(clicks_s * rate_hz).astype(int)
    rng, length = np.random.default_rng(0), round(CLICK_S * rate_hz)
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, rate_hz, 0, "NONE", ""))
        for start in range(0, round(seconds * rate_hz), rate_hz):
            block = rng.normal(0, 50, (rate_hz, 2))
            for click in clicks[(clicks >= start - length) & (clicks < start + rate_hz)]:
                block[max(0, click - start) : click - start + length] = 28_000
            file.writeframes(block.astype("<i2").tobytes())


def make_track(video: Path, path: Path, frames: int, rate: Fraction) -> None:
    """Landmarks of a face in the first second, and of none after it."""
    points = np.random.default_rng(0).uniform(0.2, 0.8, (68, 2)).astype(np.float32)
    times_s = np.array([float(i / rate) for i in range(frames)])
    LandmarkTrack(
        times_s=times_s,
        points_crop=np.tile(points, (frames, 1, 1)),
        found=times_s < FACE_S,
        cut=np.zeros(frames, bool),
        centre_px=np.full((frames, 2), SIDE_PX / 2, np.float32),
        side_px=np.full(frames, SIDE_PX, np.float32),
        boxes=np.tile(np.array([32, 64, 8, 56], np.int32), (frames, 1)),
        size_px=64,
        frame_px=(SIDE_PX, SIDE_PX),
        video=video.name,
        video_sha256=sha256_of(video),
        avatar="nobody",
    ).save(path)


def flashes_of(path: Path) -> Times:
    """When the picture is white, seconds."""
    with av.open(str(path)) as container:
        shown = (
            (float(frame.pts * frame.time_base), frame.reformat(format="gray").to_ndarray().mean())
            for frame in container.decode(video=0)
            if frame.pts is not None and frame.time_base is not None
        )
        return np.array([time_s for time_s, level in shown if level > 150])


def clicks_of(path: Path) -> Times:
    """When clicks begin, seconds: where the sound first passes half of what it reaches."""
    found: list[float] = []
    for time_s, samples, rate_hz in _sound(path):
        for at in np.flatnonzero(np.abs(samples) > 0.4):
            now = time_s + at / rate_hz
            if not found or now - found[-1] > APART_S[0] / 2:
                found.append(now)
    return np.array(found)


def _sound(path: Path) -> Iterator[tuple[float, NDArray[np.float32], int]]:
    """Frames of sound: time, samples of the first channel, samples a second."""
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            assert frame.pts is not None
            assert frame.time_base is not None
            samples = frame.to_ndarray()[0].astype(np.float32)
            yield float(frame.pts * frame.time_base), samples, frame.sample_rate


def main() -> None:
    """Print the offsets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rate", type=Fraction, default=Fraction(30000, 1001))
    parser.add_argument("--sound-hz", type=int, default=44_100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rate, frames = options.rate, round(options.seconds * options.rate)
    flashes = flash_frames(frames, rate, options.seed)
    wanted_s = np.array([float(i / rate) for i in flashes])
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        write_footage(Path("in.mp4"), frames, rate, flashes)
        write_clicks(Path("in.wav"), options.seconds, wanted_s, options.sound_hz)
        make_avatar(Path("avatar"))
        make_track(Path("in.mp4"), Path("track.npz"), frames, rate)
        words = ["in.mp4", "in.wav", "--landmarks", "track.npz", "--avatar", "avatar"]
        if cli.main(["dub", *words, "--output", "out.mp4"]):
            sys.exit("the dubbing failed")
        seen_s, heard_s = flashes_of(Path("out.mp4")), clicks_of(Path("out.mp4"))
        start = next(iter(flashes_of(Path("in.mp4"))), 0.0) - seen_s[0] if len(seen_s) else 0.0
        assert probe_video("out.mp4").has_audio
    report(wanted_s, seen_s, heard_s, float(rate), float(start))


def report(wanted_s: Times, seen_s: Times, heard_s: Times, rate: float, start: float) -> None:
    """Print the offsets and end with the exit code."""
    if not len(wanted_s) == len(seen_s) == len(heard_s):
        sys.exit(f"{len(wanted_s)} flashes, {len(seen_s)} seen and {len(heard_s)} heard again")
    offsets = (heard_s - seen_s) * rate
    moved = np.max(np.abs(seen_s - wanted_s)) * rate
    worst = int(np.argmax(np.abs(offsets)))
    print(f"{len(seen_s)} flashes and clicks over {seen_s[-1]:.0f} s, all found again")
    print(f"largest offset: {offsets[worst]:+.3f} frames, at {seen_s[worst]:.0f} s")
    print(f"first {offsets[0]:+.3f}, last {offsets[-1]:+.3f} frames; pictures moved {moved:.3f}")
    sys.exit(bool(abs(offsets[worst]) >= 1 or moved >= 0.5 or abs(start) > 1e-6))


if __name__ == "__main__":
    main()
