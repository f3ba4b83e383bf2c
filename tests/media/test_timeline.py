"""Sound and picture of different length, and footage that is played again or backwards."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from hypothesis import given, settings
from hypothesis import strategies as st

from difftalker.dubbing.avatar import Avatar
from difftalker.errors import MediaError, UsageError
from difftalker.media import video as video_module
from difftalker.media.audio import SAMPLE_RATE_HZ, read_audio
from difftalker.media.timeline import Fit, fit, play
from difftalker.media.video import (
    Image,
    VideoInfo,
    probe_video,
    read_backwards,
    read_frames,
)
from synthetic import (
    debug_avatar,
    located,
    pictures,
    still_track,
    write_footage,
    write_tone,
)

FRAMES = 30
INFO = VideoInfo(
    path=Path("footage.mp4"),
    width=96,
    height=96,
    rotation_deg=0,
    fps=Fraction(25),
    time_base=Fraction(1, 1000),
    frames_estimate=None,
    duration_s=None,
    codec="h264",
    has_audio=False,
    sample_aspect_ratio=Fraction(1),
    comment="",
)


def write_groups(path: Path, images: list[Image]) -> Path:
    """Key frames every 7 frames, B-frames between, uneven times, by plain PyAV."""
    with av.open(str(path), "w") as out:
        track = out.add_stream("libx264", rate=25, options={"g": "7", "bf": "2"})
        assert isinstance(track, VideoStream)
        track.height, track.width, _ = images[0].shape
        track.pix_fmt = "yuv420p"
        track.codec_context.time_base = Fraction(1, 1000)
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = 500 + 40 * index + index % 3, Fraction(1, 1000)
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return path


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_groups(tmp_path_factory.mktemp("groups") / "a.mp4", pictures(60))


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return debug_avatar()


@given(
    frames=st.integers(1, 40),
    sound_s=st.floats(0.001, 5),
    gaps=st.lists(st.integers(1, 200), min_size=40, max_size=40),
)
@settings(max_examples=150, deadline=None)
def test_every_way_to_fit_rises_and_covers_what_it_promises(
    frames: int, sound_s: float, gaps: list[int]
) -> None:
    ticks = np.cumsum([0, *gaps])[:frames]
    times_s = ticks / 1000
    picture_s = float(times_s[-1]) + 0.04
    for mode in get_args(Fit):
        line = fit(times_s, INFO, mode, sound_s)
        assert len(line.source) == len(line.ticks) >= 1
        assert (np.diff(line.ticks) > 0).all()
        assert line.source.min() >= 0
        assert line.source.max() < frames
        end_s = float(line.times_s[-1])
        if mode == "trim":
            assert line.is_footage
            assert np.array_equal(line.ticks, ticks)
        elif mode == "pad":
            assert np.array_equal(line.ticks[:frames], ticks)
            assert (line.source[frames:] == frames - 1).all()
            assert end_s + 0.04 >= min(sound_s, max(sound_s, picture_s)) - 0.001
            assert len(line.source) == frames or end_s < sound_s + 0.001
        else:
            assert end_s < sound_s + 0.001
            shown = line.times_s[-1] + np.diff(ticks, append=ticks[-1] + 40)[line.source[-1]] / 1000
            assert shown >= sound_s - 0.001
            assert line.source[0] == 0
            if mode == "pingpong" and frames > 2:
                assert (np.abs(np.diff(line.source)) == 1).all()


def test_the_order_of_frames() -> None:
    times_s = np.arange(3) / 25
    orders = {mode: fit(times_s, INFO, mode, 7 / 25).source.tolist() for mode in get_args(Fit)}
    assert orders == {
        "trim": [0, 1, 2],
        "pad": [0, 1, 2, 2, 2, 2, 2],
        "loop": [0, 1, 2, 0, 1, 2, 0],
        "pingpong": [0, 1, 2, 1, 0, 1, 2],
    }
    assert fit(times_s, INFO, "loop", 0.05).source.tolist() == [0, 1]
    with pytest.raises(UsageError, match="pingpong"):
        fit(times_s, INFO, "stretch", 1)  # type: ignore[arg-type]


def test_cuts_go_along_with_their_frames() -> None:
    times_s, cuts = np.arange(5) / 25, np.array([2])
    loop = fit(times_s, INFO, "loop", 11 / 25)
    assert loop.cuts(cuts).tolist() == [2, 5, 7, 10], "each cut, and where the footage begins anew"
    turned = fit(times_s, INFO, "pingpong", 11 / 25)
    assert turned.source.tolist() == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2]
    assert turned.cuts(cuts).tolist() == [2, 7, 10], "turning round is no cut"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_backwards_is_forwards_reversed(tmp_path: Path, name: str) -> None:
    path = write_groups(tmp_path / name, pictures(60))
    frames = list(read_frames(path))
    assert len(frames) == 60
    back = list(read_backwards(path, [frame.pts for frame in frames[5:50]]))
    assert len(back) == 45
    for image, frame in zip(back, frames[49:4:-1], strict=True):
        assert np.array_equal(image, frame.image)


def test_backwards_enters_by_seeking_and_copes_where_it_cannot(
    footage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = list(read_frames(footage))
    group = [frame.pts for frame in frames[30:40]]
    entered = video_module._entered(footage, group)
    assert entered is not None
    assert all(np.array_equal(a, b.image) for a, b in zip(entered, frames[30:40], strict=True))
    assert video_module._entered(footage, [group[0], group[0] + 1]) is None
    monkeypatch.setattr(video_module, "_entered", lambda *_: None)
    back = list(read_backwards(footage, group))
    assert all(np.array_equal(a, b.image) for a, b in zip(back, frames[39:29:-1], strict=True))


@pytest.mark.parametrize("mode", get_args(Fit))
def test_what_is_played_is_what_the_timeline_says(footage: Path, mode: Fit) -> None:
    frames, info = list(read_frames(footage)), probe_video(footage)
    line = fit(np.array([frame.time_s for frame in frames]), info, mode, 7.1)
    played = list(play(footage, line))
    assert len(played) == len(line.source)
    assert [frame.pts for frame in played[:60]] == [frame.pts for frame in frames], "times kept"
    assert all(a.pts < b.pts for a, b in pairwise(played))
    for shown, source in zip(played, line.source, strict=True):
        assert np.array_equal(shown.image, frames[source].image)


@pytest.mark.parametrize(("mode", "seconds"), [("trim", 1.2), ("pad", 2.0), ("pingpong", 2.0)])
def test_a_dubbing_has_the_length_that_was_asked_for(
    tmp_path: Path, avatar: Avatar, mode: Fit, seconds: float
) -> None:
    video = write_footage(tmp_path / "footage.mp4", pictures(FRAMES))
    speech = write_tone(tmp_path / "speech.wav", 2.0)
    job = avatar.dub(video, speech, located=located(video, still_track(FRAMES)))
    result = job.save(tmp_path / "out.mp4", fit=mode)
    frames = list(read_frames(result.output))
    assert len(frames) == result.frames == result.frames_driven == round(seconds * 25)
    assert np.allclose(np.diff([frame.time_s for frame in frames]), 0.04)
    # AAC comes in blocks of 1024 samples.
    sound_s = len(read_audio(result.output)) / SAMPLE_RATE_HZ
    assert sound_s == pytest.approx(seconds, abs=1024 / 16_000)
    assert result.landmarks_crop.shape == (len(frames), 68, 2)


def test_the_footage_keeps_its_own_sound(tmp_path: Path, avatar: Avatar) -> None:
    own = write_tone(tmp_path / "own.wav", 1.2, pitch_hz=300)
    video = write_footage(tmp_path / "footage.mp4", pictures(FRAMES), audio=own)
    speech = write_tone(tmp_path / "speech.wav", 1.2, pitch_hz=1000)
    job = avatar.dub(video, speech, located=located(video, still_track(FRAMES)))
    pitches = {}
    for kept in (False, True):
        out = job.save(tmp_path / f"{kept}.mp4", keep_audio=kept).output
        spectrum = np.abs(np.fft.rfft(read_audio(out)[:16000]))
        pitches[kept] = int(spectrum.argmax())
    assert pitches == {False: 1000, True: 300}


def test_silent_footage_has_no_sound_to_keep(tmp_path: Path, avatar: Avatar) -> None:
    video = write_footage(tmp_path / "footage.mp4", pictures(3))
    job = avatar.dub(
        video, write_tone(tmp_path / "a.wav", 1), located=located(video, still_track(3))
    )
    with pytest.raises(MediaError, match="no sound track"):
        job.save(tmp_path / "out.mp4", keep_audio=True)
    assert not (tmp_path / "out.mp4").exists()
