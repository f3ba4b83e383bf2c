"""Dubbing from a landmark track."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from difftalker.errors import DiffTalkerError, MediaError, TrackError
from difftalker.landmarks.edits import Edit
from difftalker.landmarks.track_file import LandmarkTrack
from difftalker.marks.marking import UNMARKED
from difftalker.media.timeline import Fit
from difftalker.packaged import samples
from helpers_track import FACELESS, FPS, FRAMES, ByHand, pictures, same
from media.made import tone, write_sound


@pytest.fixture(scope="module")
def made(by_hand: ByHand) -> LandmarkTrack:
    return by_hand.track()


def test_a_track_renders_what_a_dubbing_without_it_renders(
    by_hand: ByHand, made: LandmarkTrack
) -> None:
    avatar, located, folder = by_hand.avatar, by_hand.located, by_hand.folder
    footage, speech = by_hand.footage, by_hand.speech
    made.save(folder / "made.json")
    again = LandmarkTrack.load(folder / "made.json")
    plain, rendered, edited = (folder / f"{name}.mkv" for name in ("plain", "rendered", "edited"))
    avatar.dub(footage, speech, located=located).save(plain, lossless=True, marks=UNMARKED)
    result = avatar.dub(footage, speech, landmarks=again).save(
        rendered, lossless=True, marks=UNMARKED
    )
    np.testing.assert_array_equal(pictures(plain), pictures(rendered))
    assert (pictures(plain) != pictures(footage)).any((1, 2, 3)).sum() == FRAMES - 1
    assert result.frames_driven == FRAMES - 1
    wide = again.edited([Edit(kind="mouth", amount=10, start_s=0.28, soft_s=0)])
    wide = wide.edited([Edit(kind="jaw", amount=10, start_s=0.28, soft_s=0)])
    avatar.dub(footage, speech, landmarks=wide).save(edited, lossless=True, marks=UNMARKED)
    differ = (pictures(plain) != pictures(edited)).any((1, 2, 3))
    assert not differ[:7].any()
    assert differ[7:].any()


@pytest.mark.parametrize(
    ("fit", "source"),
    [
        ("pad", [*range(FRAMES), *[FRAMES - 1] * 6]),
        ("loop", [*range(FRAMES), *range(6)]),
        ("pingpong", [*range(FRAMES), *range(FRAMES - 2, FRAMES - 8, -1)]),
    ],
)
def test_a_track_goes_with_the_frames_that_the_sound_asks_for(
    fit: Fit, source: list[int], by_hand: ByHand, made: LandmarkTrack
) -> None:
    avatar, footage, folder = by_hand.avatar, by_hand.footage, by_hand.folder
    long = write_sound(folder / "long.wav", tone(16_000, (FRAMES + 6) / FPS), 16_000)
    once, fitted = folder / "once.mkv", folder / f"{fit}.mkv"
    wide = made.edited([Edit(kind="mouth", amount=3)])
    avatar.dub(footage, long, landmarks=wide).save(once, lossless=True, marks=UNMARKED)
    job = avatar.dub(footage, long, landmarks=wide)
    result = job.save(fitted, lossless=True, marks=UNMARKED, fit=fit, keep_journal=True)
    np.testing.assert_array_equal(result.landmarks_crop, wide.points_crop[source])
    np.testing.assert_array_equal(pictures(fitted)[:FRAMES], pictures(once))
    plain = pictures(footage)[source]
    driven = np.array(source) != FACELESS
    assert ((pictures(fitted) != plain).any((1, 2, 3)) == driven).all()
    assert result.frames_driven == driven.sum()

    whole, journal = fitted.read_bytes(), folder / f".{fit}.mkv.dubbing"
    chunks = {path.name for path in journal.glob("faces-*")}
    late = Edit(kind="mouth", amount=0, start_s=(FRAMES + 3.5) / FPS, soft_s=0)
    edited = avatar.dub(footage, long, landmarks=wide, edits=[late])
    edited.save(fitted, lossless=True, marks=UNMARKED, fit=fit, keep_journal=True)
    kept = {path.name for path in journal.glob("faces-*")}
    assert len(chunks) == len(kept) == 2
    assert len(kept - chunks) == 1, "the last chunk alone is rendered anew"
    job.save(fitted, lossless=True, marks=UNMARKED, fit=fit)
    assert fitted.read_bytes() == whole


def test_an_edit_is_at_times_of_the_output(by_hand: ByHand) -> None:
    avatar, located, folder = by_hand.avatar, by_hand.located, by_hand.folder
    footage = by_hand.footage
    long = write_sound(folder / "long.wav", tone(16_000, 2 * FRAMES / FPS), 16_000)
    wide = Edit(kind="mouth", amount=9, start_s=FRAMES / FPS, soft_s=0)
    results = [
        avatar.dub(footage, long, located=located, edits=edits).save(path, fit="loop")
        for path, edits in ((folder / "plain.mp4", ()), (folder / "edited.mp4", (wide,)))
    ]
    moved = (results[0].landmarks_crop != results[1].landmarks_crop).any((1, 2))
    assert not moved[:FRAMES].any()
    assert moved[FRAMES:].any()
    far = avatar.dub(footage, long, located=located, edits=[Edit(kind="mouth", amount=10)] * 9)
    with pytest.raises(TrackError, match="far outside"):
        far.save(folder / "far.mp4", fit="loop")


def test_a_track_of_other_footage_is_refused(by_hand: ByHand, made: LandmarkTrack) -> None:
    avatar, folder = by_hand.avatar, by_hand.folder
    footage, speech = by_hand.footage, by_hand.speech
    other = folder / "other.mkv"
    other.write_bytes(footage.read_bytes() + b" ")
    with pytest.raises(TrackError, match=r"belong to other footage than .*other\.mkv"):
        avatar.dub(other, speech, landmarks=made)
    with pytest.raises(TrackError, match="belong to other footage"):
        avatar.dub(footage, speech, landmarks=replace(made, frame_px=(80, 96)))
    with pytest.raises(TrackError, match="for an avatar of 128 pixels"):
        avatar.dub(footage, speech, landmarks=replace(made, size_px=128))
    with pytest.raises(MediaError, match="no such file"):
        avatar.dub(folder / "none.mkv", speech, landmarks=made)


def test_landmarks_of_packaged_footage(by_hand: ByHand, tmp_path: Path) -> None:
    avatar = by_hand.avatar
    try:
        video, audio = samples.footage(), samples.speech()
    except DiffTalkerError as error:
        pytest.skip(f"this checkout has no packaged samples: {error}")
    made = avatar.landmarks(video, audio)
    made.save(tmp_path / "track.npz")
    assert same(LandmarkTrack.load(tmp_path / "track.npz"), made)
    assert made.found.all()
