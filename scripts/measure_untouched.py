"""Pixels outside the mask of lossless dubbings: none may change, whatever the footage's size.

    python scripts/measure_untouched.py [--avatar grid-s1] [--footage FILE ...]

The packaged footage, enlarged and laid over a moving texture, is written in several sizes, pixel
formats and turned, dubbed without loss by the real pipeline, and read back by plain PyAV; --footage
dubs files as they are, too. What may change follows from the report's numbers alone: the mask box
in pixels of the frame, and nothing at all in frames that are not driven. With --fit an output frame
is compared with the footage's that it has to show. Prints how many pixels changed outside and
within, and exits 1 where one did outside, none did within, or the frames are not those wanted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.dubbing.avatar import Avatar, load
from difftalker.dubbing.footage import TrackedFootage
from difftalker.marks.marking import UNMARKED
from difftalker.media.audio import SAMPLE_RATE_HZ, read_audio
from difftalker.media.timeline import Fit, fit
from difftalker.media.video import probe_video, read_frames
from difftalker.packaged import samples

Image = NDArray[np.uint8]
FPS = 25


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of footage."""

    size: tuple[int, int]
    """Width and height as displayed."""
    codec: str = "libx264"
    pixels: str = "yuv420p"
    turned: bool = False
    """Whether it is stored lying, with a display matrix."""
    face: float = 0.8
    """Side of the packaged footage over the shorter side of the frame."""
    frames: int = 10
    fit: Fit = "trim"
    sound_s: float = 0.4

    @property
    def name(self) -> str:
        """What the table calls it."""
        width, height = self.size
        fitted = "" if self.fit == "trim" else f"--fit {self.fit}, sound {self.sound_s:g} s"
        parts = [f"{width} x {height}", self.pixels, "rotated" * self.turned, fitted]
        return " ".join(part for part in parts if part)


ROWS = (
    Row(size=(3840, 2160)),
    Row(size=(3840, 2160), face=0.45, pixels="yuv422p10le", codec="ffv1"),
    Row(size=(1917, 1079), pixels="yuv444p"),
    Row(size=(1079, 1917), pixels="yuv444p", turned=True),
    Row(size=(641, 479), pixels="yuv444p"),
    Row(size=(641, 479), pixels="bgr0", codec="ffv1", face=1.0),
    Row(size=(360, 288), face=0.5),
    Row(size=(257, 255), pixels="bgr0", codec="ffv1", face=1.3),
    Row(size=(320, 240), fit="trim", sound_s=0.2),
    Row(size=(320, 240), fit="pad", sound_s=0.2),
    Row(size=(320, 240), fit="pad", sound_s=1.0),
    Row(size=(320, 240), fit="loop", sound_s=0.2),
    Row(size=(320, 240), fit="loop", sound_s=1.01),
    Row(size=(320, 240), fit="pingpong", sound_s=0.44),
    Row(size=(320, 240), fit="pingpong", sound_s=1.3),
)


def pictures(row: Row) -> Iterator[Image]:
    """The packaged face in the middle of a texture that moves, (H, W, 3) each."""
    width, height = row.size
    side = round(row.face * min(row.size))
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (height, width + 2 * row.frames, 3), np.uint8)
    for i, frame in enumerate(islice(read_frames(samples.footage()), row.frames)):
        face = cv2.resize(frame.image, (side, side), interpolation=cv2.INTER_CUBIC)
        out = np.ascontiguousarray(texture[:, 2 * i : 2 * i + width])
        shift = np.array([[1, 0, (width - side) // 2 + i], [0, 1, (height - side) // 2]], float)
        cv2.warpAffine(face, shift, (width, height), out, cv2.INTER_NEAREST, cv2.BORDER_TRANSPARENT)
        yield out


def write(row: Row, path: Path) -> None:
    """The footage of a row."""
    with av.open(str(path), "w") as out:
        options = {"crf": "12"} if row.codec == "libx264" else {}
        track: Any = out.add_stream(row.codec, rate=FPS, options=options)
        track.width, track.height = row.size[::-1] if row.turned else row.size
        track.pix_fmt, track.codec_context.time_base = row.pixels, Fraction(1, FPS)
        if row.turned:
            track.set_display_matrix([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30])
        for i, image in enumerate(pictures(row)):
            stored = np.ascontiguousarray(np.rot90(image)) if row.turned else image
            frame = av.VideoFrame.from_ndarray(stored, "rgb24").reformat(format=row.pixels)
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            out.mux(track.encode(frame))
        out.mux(track.encode(None))


def write_sound(path: Path, seconds: float) -> None:
    """The beginning of the packaged speech."""
    with wave.open(str(samples.speech())) as source, wave.open(str(path), "wb") as file:
        file.setparams(source.getparams())
        file.writeframes(source.readframes(round(seconds * source.getframerate())))


def shown(path: Path) -> Iterator[Image]:
    """The frames of an output, by plain PyAV."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def allowed(located: TrackedFootage, size_px: int, frame: int) -> NDArray[np.bool_]:
    """(H, W): the pixels that may change, whose centres lie within the mask box."""
    shape = located.info.height, located.info.width
    if not located.strength[frame]:
        return np.zeros(shape, bool)
    crop, box = located.framing.crop, located.framing.boxes[frame] / size_px - 0.5
    x, y = crop.centre_px[frame].astype(float)
    top, bottom, left, right = box * float(crop.side_px[frame]) + [y, y, x, x]
    rows, columns = (np.arange(n) + 0.5 for n in shape)
    inside = (rows > top) & (rows < bottom)
    return np.asarray(inside[:, None] & ((columns > left) & (columns < right)))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Pixels over all frames."""

    frames: int
    wanted: int
    """Frames."""
    driven: int
    outside: int
    changed_outside: int
    changed_within: int

    @property
    def is_right(self) -> bool:
        """Whether all is as promised."""
        return (
            self.frames == self.wanted
            and not self.changed_outside
            and bool(self.driven)
            and bool(self.changed_within)
        )


def dubbed(avatar: Avatar, video: Path, audio: Path, folder: Path, mode: Fit) -> Finding:
    """Dub without loss and compare frame by frame."""
    output = folder / "out.mkv"
    result = avatar.dub(video, audio).save(output, lossless=True, marks=UNMARKED, fit=mode)
    originals = list(read_frames(video))
    times_s = np.array([frame.time_s for frame in originals])
    sound_s = len(read_audio(audio)) / SAMPLE_RATE_HZ if mode != "trim" else 0.0
    source = fit(times_s, probe_video(video), mode, sound_s).source
    outside = changed_outside = changed_within = frames = 0
    for i, image in enumerate(shown(output)):
        frames += 1
        if i >= len(source):
            continue
        changed = (image != originals[source[i]].image).any(2)
        inside = allowed(result.located, avatar.config.size_px, i)
        outside += int((~inside).sum())
        changed_outside += int((changed & ~inside).sum())
        changed_within += int((changed & inside).sum())
    return Finding(
        frames=frames,
        wanted=len(source),
        driven=result.frames_driven,
        outside=outside,
        changed_outside=changed_outside,
        changed_within=changed_within,
    )


def main() -> None:
    """Print a line for each video, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--avatar", default=samples.AVATAR)
    parser.add_argument("--footage", type=Path, nargs="*", default=[], help="dubbed as they are")
    parser.add_argument("--only", default="", help="only rows with this in their name")
    options = parser.parse_args()
    avatar = load(options.avatar)
    wrong = pixels = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        video, sound = folder / "in.mkv", folder / "in.wav"
        for row in (row for row in ROWS if options.only in row.name):
            video = folder / ("in.mp4" if row.turned else "in.mkv")
            write(row, video)
            write_sound(sound, row.sound_s)
            found = dubbed(avatar, video, sound, folder, row.fit)
            wrong, pixels = wrong + (not found.is_right), pixels + found.outside
            print_row(row.name, found)
        for path in options.footage:
            found = dubbed(avatar, path, samples.speech(), folder, "trim")
            wrong, pixels = wrong + (not found.is_right), pixels + found.outside
            print_row(path.name, found)
    print(f"{pixels} pixels outside of masks, {'none changed' if not wrong else 'NOT ALL RIGHT'}")
    sys.exit(bool(wrong) or not pixels)


def print_row(name: str, found: Finding) -> None:
    """Print one line."""
    frames = f"{found.frames} of {found.wanted} frames, {found.driven} driven"
    changed = f"changed outside {found.changed_outside}, within {found.changed_within}"
    print(f"{name:<48} {frames}; {changed}", flush=True)


if __name__ == "__main__":
    main()
