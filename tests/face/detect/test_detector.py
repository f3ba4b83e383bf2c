"""Faces are found whichever way up the pictures are, at no cost where they are upright."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from difftalker.data.prepare import PrepareConfig, prepare
from difftalker.errors import AssetError, MediaError
from difftalker.face.detect import detector
from difftalker.face.detect.detector import SCAN_S, SURE_SEARCHES, FaceDetector
from difftalker.face.detect.track import track
from difftalker.face.spans import find_spans
from difftalker.media.video import Frame, read_frames
from difftalker.packaged import samples
from difftalker.store import assets
from media.made import writer_25

FRAMES = 36


@pytest.fixture(scope="module")
def upright() -> list[Frame]:
    """Frames of the packaged sample."""
    try:
        assets.path("face_landmarker")
    except AssetError as error:
        pytest.skip(f"no detector: {error}")
    return [frame for frame, _ in zip(read_frames(samples.footage()), range(FRAMES), strict=False)]


def turned(frame: Frame, quarters: int) -> Frame:
    """The frame turned anticlockwise by so many right angles."""
    return replace(frame, image=np.ascontiguousarray(np.rot90(frame.image, quarters)))


def turned_points(points: NDArray[np.float32], quarters: int, frame: Frame) -> NDArray[np.float32]:
    """Points (n, 68, 2), pixels, where they lie in the turned frame."""
    height, width = frame.image.shape[:2]
    for _ in range(quarters):
        points = np.stack([points[..., 1], width - points[..., 0]], axis=-1)
        height, width = width, height
    return points


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turned_heads_are_found_and_pass_through(upright: list[Frame], quarters: int) -> None:
    wanted = track(upright).points_px
    found = track([turned(frame, quarters) for frame in upright])
    apart = found.points_px - turned_points(wanted, quarters, upright[0])
    width = np.ptp(wanted[..., 0], axis=1).mean()
    assert found.found.all()
    assert np.linalg.norm(apart, axis=-1).mean() < 0.03 * width
    assert {span.reason for span in find_spans(found)} == {"rolled"}


def test_pictures_that_turn_round_on_the_way_are_followed(upright: list[Frame]) -> None:
    half = FRAMES // 2
    shown = [turned(frame, 2 if n >= half else 0) for n, frame in enumerate(upright)]
    spans = find_spans(track(shown))
    assert [span.reason for span in spans] == ["face", "rolled"]
    assert spans[0].stop_frame == half


def count_asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times at which a sure face was asked for, seconds, once for each picture."""
    asked: list[float] = []
    make = detector._landmarker

    @contextmanager
    def counted(faces: int, **options: Any) -> Iterator[Any]:
        with make(faces, **options) as find:

            def found(frame: Frame) -> list[NDArray[np.float32]]:
                if options.get("sure"):
                    asked.append(frame.time_s)
                return list(find(frame))

            yield found

    monkeypatch.setattr(detector, "_landmarker", counted)
    return asked


def test_sure_faces_are_asked_for_until_it_is_settled(
    upright: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = count_asked(monkeypatch)
    # A frame for each search, more of them than it takes.
    shown = [replace(frame, time_s=n * 1.5 * SCAN_S) for n, frame in enumerate(upright[:10])]
    faceless = replace(shown[9], image=np.zeros_like(shown[0].image))
    with FaceDetector() as finder:
        for frame in shown[:7]:
            assert len(finder.detect(frame)) == 1
        assert asked == [frame.time_s for frame in shown[:SURE_SEARCHES]]
        finder.detect(shown[7], changed=True)
        assert asked[SURE_SEARCHES:] == [shown[7].time_s], "another shot may be another way up"
        asked.clear()
        assert finder.detect(replace(faceless, time_s=shown[8].time_s)) == []
        assert finder.detect(faceless) == []
        assert asked == [shown[8].time_s] * 4 + [shown[9].time_s] * 4, "each way up"


def test_nothing_is_learned_from_turned_heads(upright: list[Frame], tmp_path: Path) -> None:
    height, width = upright[0].image.shape[:2]
    video = tmp_path / "turned.mp4"
    with writer_25(video, width, height) as writer:
        for number, frame in enumerate(upright):
            writer.write(turned(frame, 2).image, number)
    config = PrepareConfig(size_px=64, features=())
    with pytest.raises(MediaError, match=f"an upright face in 0 of {FRAMES} frames"):
        prepare([video], tmp_path / "dataset", config, workers=1)
