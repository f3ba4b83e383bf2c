"""One video against its footage, on moving pictures of a face made here."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from difftalker.dubbing.footage import locate
from difftalker.errors import AssetError, MediaError
from difftalker.evaluation import footage, scoring
from difftalker.evaluation.footage import Crops, Footage, Output
from difftalker.evaluation.scoring import score
from difftalker.media.video import read_frames
from difftalker.store import assets
from evaluation.made import FRAMES, write_clips, write_video
from synthetic import swaying


@pytest.fixture(scope="module", autouse=True)
def landmarker() -> None:
    try:
        assets.path("face_landmarker")
    except AssetError as error:
        pytest.skip(f"the face detector's weights cannot be had: {error}")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_clips(tmp_path_factory.mktemp("footage"))


def test_an_output_without_a_face_is_measured_as_such(clips: list[Path], tmp_path: Path) -> None:
    clip = Footage(path=clips[0], size_px=64, located=locate(clips[0], 64), locate_seconds=0.0)
    grey = [np.full((256, 256, 3), 90, np.uint8)] * FRAMES
    video = write_video(tmp_path / "grey.mp4", grey, clips[0])
    figures = score(clip, Output(video=video, audio=clips[0], voice=clip)).figures
    assert figures["found"] == 0
    assert all(math.isnan(figures[key]) for key in ("ld_frame", "open_corr", "silence_leak"))
    assert figures["flicker"] < 0.1
    assert figures["psnr_lower"] < 20


def test_flicker_is_measured_by_place(clips: list[Path], tmp_path: Path) -> None:
    """Texture that boils beside the mouth shows in the static part, on it in the moving one."""
    clip = Footage(path=clips[0], size_px=64, located=locate(clips[0], 64), locate_seconds=0.0)
    flickers = {}
    for part in ("mouth", "cheek"):
        images = [frame.image.copy() for frame in read_frames(clips[0])]
        points = clip.located.track.points_px
        for i, image in enumerate(images):
            x, y = (int(v) for v in points[i, 62 if part == "mouth" else 3])
            image[y - 5 : y + 6, x - 5 : x + 6] = 255 * (i % 2)
        video = write_video(tmp_path / f"{part}.mp4", images, clips[0])
        # The spots would lead the detector astray, so landmarks are those of the footage.
        figures = scoring._picture_figures(clip, video, clip.located.track)
        flickers[part] = {k: v for k, v in figures.items() if k.startswith("flicker")}
    mouth, cheek = flickers["mouth"], flickers["cheek"]
    assert mouth["flicker_moving"] > 2 * mouth["flicker_static"]
    assert cheek["flicker_static"] > 1.2 * cheek["flicker_moving"]
    for each in (mouth, cheek):
        assert min(each.values()) < each["flicker"] < max(each.values())


def test_crops_of_a_long_video_are_cut_anew(
    clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Footage(path=clips[0], size_px=64, located=locate(clips[0], 64), locate_seconds=0.0)
    kept = clip.crops()
    assert clip.crops() is kept
    assert next(iter(kept)) is next(iter(kept))
    monkeypatch.setattr(footage, "KEPT_BYTES", FRAMES * 3 * 64 * 64 - 1)
    fresh = Crops(clips[0], clip.located, 64)
    assert next(iter(fresh)) is not next(iter(fresh))
    assert np.array_equal(np.stack(list(fresh)), np.stack(list(kept)))


def test_an_output_that_lost_frames_is_no_output(clips: list[Path], tmp_path: Path) -> None:
    clip = Footage(path=clips[0], size_px=64, located=locate(clips[0], 64), locate_seconds=0.0)
    video = write_video(tmp_path / "short.mp4", swaying(FRAMES, 1.5)[:-2], clips[0])
    with pytest.raises(MediaError, match=f"10 frames; wanted the footage's {FRAMES}"):
        score(clip, Output(video=video, audio=clips[0], voice=clip))
