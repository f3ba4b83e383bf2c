"""Dub footage in many containers, codecs and rates, and compare frames and times with the source's.

    python scripts/media_matrix.py [--frames 25]

Each row is written by FFmpeg's own muxers, dubbed by `difftalker dub` with a track of landmarks and
the smallest avatar, and read back, source and output alike, with plain PyAV rather than with our
readers. Right is: as many frames, and the same time for each, from the first on, exactly (but in
Matroska, which stores whole milliseconds), beginning at the same time, or at zero where that lies
below. Clocks that start again are to go on. Exits 1 where one is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from difftalker import cli, config
from difftalker.core.hashing import sha256_of
from difftalker.dubbing.networks import build
from difftalker.landmarks.track_file import LandmarkTrack
from difftalker.media.video import probe_video, read_frames
from difftalker.store import avatars as avatar_files

Image = NDArray[np.uint8]
RATE_HZ = 48_000

RATES = {
    "23.976": Fraction(24000, 1001),
    "24": Fraction(24),
    "25": Fraction(25),
    "29.97": Fraction(30000, 1001),
    "30": Fraction(30),
    "50": Fraction(50),
    "59.94": Fraction(60000, 1001),
    "60": Fraction(60),
}
VARIABLE_MS = (0, 33, 67, 100, 500, 540, 541, 620, 700, 1300)
"""Times of a variable rate, repeated every 1.4 s: a phone in a dark room, and a frozen screen."""

WRAP_S = 2**33 // 90_000
"""The last whole second before the clock of a transport stream starts from zero."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of footage."""

    suffix: str
    codec: str
    rate: str
    """A name of ``RATES``, or "variable"."""
    pixels: str = "yuv420p"
    sound: str = "aac"
    size: tuple[int, int] = (96, 96)
    start_s: float = 0.0
    b_frames: int = 0
    output: str = ".mp4"
    rotation: bool = False
    interlaced: bool = False
    chained: bool = False
    """Written twice over, so that the clock starts again in the middle."""
    note: str = ""

    @property
    def name(self) -> str:
        """What the table calls it."""
        parts = [self.suffix[1:], self.codec, self.rate, self.pixels, self.note]
        return " ".join(part for part in parts if part)


ROWS = (
    Row(suffix=".mp4", codec="libx264", rate="23.976", b_frames=2, note="B-frames"),
    Row(suffix=".mp4", codec="libx264", rate="24"),
    Row(
        suffix=".mp4", codec="libx264", rate="25", note="odd size", size=(97, 95), pixels="yuv444p"
    ),
    Row(suffix=".mp4", codec="libx264", rate="29.97", b_frames=2, note="B-frames"),
    Row(suffix=".mp4", codec="libx264", rate="variable", b_frames=2, note="B-frames"),
    Row(suffix=".mp4", codec="libx264", rate="60", output=".mov", note="to mov"),
    Row(suffix=".mp4", codec="libx264", rate="30", rotation=True, size=(128, 96), note="rotated"),
    Row(suffix=".mp4", codec="libx264", rate="25", start_s=2.5, note="starts at 2.5 s"),
    Row(suffix=".mp4", codec="libx264", rate="25", interlaced=True, note="interlaced"),
    Row(suffix=".mp4", codec="libx265", rate="59.94", pixels="yuv420p10le"),
    Row(suffix=".mp4", codec="libsvtav1", rate="30", size=(128, 128)),
    Row(suffix=".mov", codec="libx264", rate="29.97", b_frames=2, note="B-frames"),
    Row(suffix=".mov", codec="prores_ks", rate="23.976", pixels="yuv422p10le", sound="pcm_s16le"),
    Row(suffix=".mov", codec="mjpeg", rate="30", pixels="yuvj420p", sound="pcm_s16le"),
    Row(suffix=".m4v", codec="mpeg4", rate="25", output=".m4v", note="to m4v"),
    Row(suffix=".mkv", codec="libx264", rate="variable", b_frames=2, note="B-frames"),
    Row(suffix=".mkv", codec="libx264", rate="59.94", start_s=1.0, note="starts at 1 s"),
    Row(suffix=".mkv", codec="ffv1", rate="50", pixels="bgr0", sound="flac", output=".mkv"),
    Row(suffix=".mkv", codec="ffv1", rate="variable", pixels="yuv422p10le", output=".mkv"),
    Row(suffix=".mkv", codec="libvpx", rate="24", sound="libopus"),
    Row(suffix=".webm", codec="libvpx-vp9", rate="29.97", sound="libopus"),
    Row(suffix=".webm", codec="libvpx-vp9", rate="variable", sound="libopus"),
    Row(suffix=".webm", codec="libsvtav1", rate="60", sound="libopus", size=(128, 128)),
    Row(suffix=".avi", codec="mpeg4", rate="25", sound="mp3"),
    Row(suffix=".avi", codec="mjpeg", rate="29.97", pixels="yuvj422p", sound="pcm_s16le"),
    Row(suffix=".avi", codec="libx264", rate="50", sound="mp3"),
    Row(suffix=".ts", codec="libx264", rate="25", b_frames=2, note="B-frames"),
    Row(suffix=".ts", codec="mpeg2video", rate="29.97", b_frames=2, sound="mp2", note="B-frames"),
    Row(suffix=".ts", codec="libx265", rate="50"),
    Row(suffix=".ts", codec="libx264", rate="25", b_frames=2, chained=True, note="starts again"),
    Row(suffix=".ts", codec="libx264", rate="25", start_s=WRAP_S - 0.5, note="wraps"),
    Row(suffix=".mpg", codec="mpeg2video", rate="25", b_frames=2, sound="mp2", note="B-frames"),
    Row(suffix=".mpg", codec="mpeg1video", rate="23.976", sound="mp2"),
    Row(suffix=".flv", codec="libx264", rate="30"),
    Row(suffix=".mxf", codec="mpeg2video", rate="25", sound="pcm_s16le", pixels="yuv422p"),
    Row(suffix=".nut", codec="libx264", rate="variable", b_frames=2, sound="pcm_s16le"),
    Row(suffix=".wmv", codec="msmpeg4", rate="25", sound="wmav2"),
    Row(suffix=".3gp", codec="mpeg4", rate="29.97"),
)


def times_of(row: Row, frames: int) -> tuple[Fraction, list[int]]:
    """The time base and the times to write, in its units."""
    if row.rate == "variable":
        ticks = [1400 * (i // 10) + VARIABLE_MS[i % 10] for i in range(frames)]
        return Fraction(1, 1000), [tick + round(1000 * row.start_s) for tick in ticks]
    rate = RATES[row.rate]
    return 1 / rate, [i + round(row.start_s * rate) for i in range(frames)]


def make(row: Row, path: Path, frames: int) -> None:
    """Write footage: a texture that moves, and a tone."""
    width, height = row.size
    time_base, ticks = times_of(row, frames)
    rng = np.random.default_rng(0)
    wide = np.kron(rng.integers(0, 255, (height // 4 + 1, width, 3), np.uint8), np.ones((4, 4, 1)))
    with av.open(str(path), "w") as out:
        rate = RATES.get(row.rate, Fraction(25))
        options = {"bf": str(row.b_frames), "g": "12"} if row.b_frames else {}
        if row.codec == "libx265":
            options["x265-params"] = "log-level=none"
        if row.interlaced:
            options["x264-params"] = "tff=1"
        track: Any = out.add_stream(row.codec, rate=rate, options=options)
        track.width, track.height, track.pix_fmt = width, height, row.pixels
        track.codec_context.time_base = time_base
        if row.rotation:
            track.set_display_matrix([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30])
        sound: Any = out.add_stream(row.sound, rate=RATE_HZ, layout="stereo")
        sound.bit_rate = 96_000
        for i, tick in enumerate(ticks):
            image = np.ascontiguousarray(wide[:height, 2 * i : 2 * i + width].astype(np.uint8))
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=row.pixels)
            frame.pts, frame.time_base = tick, time_base
            out.mux(track.encode(frame))
        length = float(ticks[-1] * time_base) - row.start_s + 0.1
        tone = 0.3 * np.sin(np.arange(round(RATE_HZ * length)) / 20)
        samples = np.repeat(tone.astype(np.float32), 2)[None]
        block = av.AudioFrame.from_ndarray(samples, format="flt", layout="stereo")
        block.sample_rate, block.pts = RATE_HZ, round(row.start_s * RATE_HZ)
        out.mux(sound.encode(block))
        for one in (track, sound):
            out.mux(one.encode(None))
    if row.chained:
        path.write_bytes(path.read_bytes() * 2)


def wanted_at(row: Row, path: Path) -> list[Fraction]:
    """When each frame of footage is to be shown, seconds: from zero on, and rising."""
    stored = shown_at(path)
    if row.chained:
        once = stored[::2]
        stored = [*once, *(one + len(once) / RATES[row.rate] for one in once)]
    return [one - min(stored[0], Fraction(0)) for one in stored]


def shown_at(path: Path) -> list[Fraction]:
    """When each frame is shown, seconds, rising, by plain PyAV.

    Sorted, because AVI says in which order frames are stored, and not when they are shown.
    """
    with av.open(str(path)) as container:
        return sorted(
            frame.pts * frame.time_base
            for frame in container.decode(video=0)
            if frame.pts is not None and frame.time_base is not None
        )


def make_avatar(folder: Path) -> None:
    """The smallest avatar there is, untrained."""
    model = config.debug().model
    networks = build(model)
    avatar_files.write(
        folder,
        name="nobody",
        config=networks.resolved(model),
        architecture=networks.architecture(),
        weights=networks.state(),
        facts={},
        card="# Nobody\n",
    )


def make_track(video: Path, path: Path) -> None:
    """Landmarks in the middle of the picture, for every frame of some footage."""
    info, times = probe_video(video), [frame.time_s for frame in read_frames(video)]
    frames = len(times)
    points = np.random.default_rng(0).uniform(0.2, 0.8, (68, 2)).astype(np.float32)
    LandmarkTrack(
        times_s=np.array(times),
        points_crop=np.tile(points, (frames, 1, 1)),
        found=np.ones(frames, bool),
        cut=np.zeros(frames, bool),
        centre_px=np.tile(np.array([info.width / 2, info.height / 2], np.float32), (frames, 1)),
        side_px=np.full(frames, 64, np.float32),
        boxes=np.tile(np.array([32, 64, 8, 56], np.int32), (frames, 1)),
        size_px=64,
        frame_px=(info.width, info.height),
        video=video.name,
        video_sha256=sha256_of(video),
        avatar="nobody",
    ).save(path)


def dub(video: Path, track: Path, avatar: Path, output: Path) -> str:
    """Dub by the command, the footage's own sound as the new one; what went wrong, if anything."""
    words = [str(video), str(video), "--landmarks", str(track), "--avatar", str(avatar)]
    lossless = ["--lossless"] if output.suffix == ".mkv" else []
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(["dub", *words, *lossless, "--output", str(output)])
    return said.getvalue().strip() if code else ""


def compared(source: Sequence[Fraction], output: Sequence[Fraction], exact: bool) -> str:
    """What differs between the times of source and output, if anything."""
    if len(source) != len(output):
        return f"{len(output)} frames of {len(source)}"
    step = Fraction(0) if exact else Fraction(1, 2000)
    apart = max(abs(a - b) for a, b in zip(source, output, strict=True))
    return f"up to {float(apart) * 1000:.3f} ms apart" if apart > step else ""


def checked(row: Row, frames: int, folder: Path, avatar: Path) -> tuple[int, str]:
    """How many frames a row has, and what is wrong with its dubbing, if anything."""
    video, track = folder / f"in{row.suffix}", folder / "track.npz"
    output = folder / f"out{row.output}"
    make(row, video, frames)
    make_track(video, track)
    source = wanted_at(row, video)
    wrong = dub(video, track, avatar, output)
    if wrong:
        return len(source), wrong
    if len(source) != frames * (1 + row.chained):
        return len(source), f"the footage itself has {len(source)} of {frames} frames"
    return len(source), compared(source, shown_at(output), exact=row.output != ".mkv")


def results(rows: Sequence[Row], frames: int) -> Iterator[tuple[Row, int, str]]:
    """Each row with its number of frames and what is wrong."""
    with tempfile.TemporaryDirectory() as scratch:
        make_avatar(Path(scratch, "avatar"))
        for number, row in enumerate(rows):
            folder = Path(scratch, str(number))
            folder.mkdir()
            yield row, *checked(row, frames, folder, Path(scratch, "avatar"))


def main() -> None:
    """Print a table and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--frames", type=int, default=25, help="in each video")
    parser.add_argument("--only", default="", help="only rows with this in their name")
    options = parser.parse_args()
    os.environ["SVT_LOG"] = "0"
    av.logging.set_level(None)
    rows = [row for row in ROWS if options.only in row.name]
    wrong = 0
    for row, frames, what in results(rows, options.frames):
        wrong += bool(what)
        print(f"{row.name:<44} {frames:>5} frames  {what or 'all equal'}", flush=True)
    print(f"{len(rows)} combinations, {len(rows) - wrong} with all frames and times equal")
    sys.exit(bool(wrong) or not rows)


if __name__ == "__main__":
    main()
