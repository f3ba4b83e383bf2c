"""Limits hold in the threads that read ahead: those of the caller, tighter and looser."""

from __future__ import annotations

from pathlib import Path

import pytest

from difftalker.core.prefetch import prefetch
from difftalker.errors import MediaError
from difftalker.face.detect import track as faces
from difftalker.media.limits import Limits, limited
from difftalker.media.video import Frame, read_frames
from media.made import streamed

FRAMES = 50


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
