"""Limits hold in the threads that read ahead: those of the caller, tighter and looser."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from difftalker.core.prefetch import prefetch
from difftalker.errors import MediaError
from difftalker.face.detect import track as faces
from difftalker.media.limits import Limits, limited
from difftalker.media.video import Frame, read_frames

FRAMES = 50


class Pipe(io.RawIOBase):
    """Takes a stream that cannot go back: neither duration nor number of frames is known."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.content += bytes(data)
        return len(data)


def streamed(path: Path, times_ms: Sequence[int]) -> Path:
    """Small pictures at these times, in a webm that tells no length."""
    pipe = Pipe()
    with av.open(pipe, "w", format="webm") as out:
        track = out.add_stream("libvpx", rate=25)
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        track.codec_context.time_base = Fraction(1, 1000)
        for time_ms in times_ms:
            frame = VideoFrame.from_ndarray(np.full((48, 64, 3), time_ms % 256, np.uint8), "rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    path.write_bytes(pipe.content)
    return path


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    return streamed(tmp_path / "a.webm", range(0, 40 * FRAMES, 40))


class Faceless:
    """A detector that finds nobody, and counts."""

    def __init__(self) -> None:
        self.seen = 0

    def __enter__(self) -> Faceless:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def detect(self, frame: Frame, *, changed: bool = False) -> list[object]:
        self.seen += 1
        return []


def test_finding_faces_stops_at_the_limit(endless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Faceless()
    monkeypatch.setattr(faces, "FaceDetector", lambda: detector)
    with limited(Limits(frames=10)), pytest.raises(MediaError, match="more than 10 frames"):
        faces.track(read_frames(endless))
    assert detector.seen == 10


def test_a_tighter_limit_holds_in_the_thread_that_reads(endless: Path) -> None:
    assert len(list(prefetch(read_frames(endless)))) == FRAMES
    with limited(Limits(frames=10)), pytest.raises(MediaError, match="--max-frames"):
        list(prefetch(read_frames(endless)))


def test_a_looser_limit_holds_in_the_thread_that_reads(tmp_path: Path) -> None:
    long = streamed(tmp_path / "long.webm", [0, 5 * 3_600_000])
    with pytest.raises(MediaError, match="--max-duration"):
        list(prefetch(read_frames(long)))
    with limited(Limits(duration_s=6 * 3600)):
        assert len(list(prefetch(read_frames(long)))) == 2


def test_the_numbers_are_printed_as_they_were_given(endless: Path) -> None:
    """A limit of 1.5 s is not told as one of 2 s, which a file of 1.52 s would seem to keep."""
    with limited(Limits(duration_s=1.5)), pytest.raises(MediaError) as error:
        list(read_frames(endless))
    assert "lasts 1.52 s or longer" in str(error.value)
    assert "at most 1.5 s" in str(error.value)
