"""Which frames are driven, where shots end, and how a new mouth comes and goes."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from difftalker.dubbing.previews import save_report
from difftalker.errors import MediaError
from difftalker.face.compose.blend import blend_mask
from difftalker.face.crop import frame_face
from difftalker.face.detect.shots import ChangeMeter, face_jumps
from difftalker.face.detect.track import FaceTrack
from difftalker.face.landmarks import roll_deg
from difftalker.face.spans import TURNED, TURNED_BACK, find_spans, strengths, turn
from difftalker.marks.marking import UNMARKED
from difftalker.media.video import Image, read_frames
from synthetic import (
    SIDE_PX,
    debug_avatar,
    face_points,
    located,
    pictures,
    still_track,
    without,
    write_footage,
    write_tone,
)


def cuts_of(images: list[Image], points: NDArray[np.float32]) -> list[int]:
    meter = ChangeMeter()
    for image in images:
        meter.update(image)
    return [int(frame) for frame in meter.cuts(points)]


def test_a_hard_cut_is_found_and_a_pan_is_none() -> None:
    first, second = pictures(20, seed=1), pictures(20, seed=2)
    still = np.stack([face_points()] * 20)
    moved = np.stack([face_points((60, 45), 48)] * 20)
    assert cuts_of(first + second, np.concatenate([still, moved])) == [20]
    # The texture moves by a pixel a frame, and by six.
    assert cuts_of(first, still) == []
    assert cuts_of(pictures(120)[::6], still) == []


def test_a_cut_between_shots_without_a_face_is_found_by_the_picture_alone() -> None:
    nothing = np.full((40, 68, 2), np.nan, np.float32)
    assert cuts_of(pictures(20, seed=1) + pictures(20, seed=2), nothing) == [20]


def test_another_face_in_the_same_picture_is_another_shot() -> None:
    points = np.stack([face_points((25, 50), 30)] * 5 + [face_points((70, 50), 30)] * 5)
    assert cuts_of(pictures(1) * 10, points) == [5]
    assert face_jumps(points)[5] > 1
    assert np.isnan(face_jumps(points)[0])


def test_a_flickering_light_or_a_single_frame_is_no_cut() -> None:
    assert cuts_of(pictures(1), face_points()[None]) == []
    rng = np.random.default_rng(0)
    flicker = [np.clip(p * f, 0, 255).astype(np.uint8) for p, f in zip(
        pictures(30), rng.uniform(0.85, 1, 30), strict=True
    )]  # fmt: skip
    assert cuts_of(flicker, np.stack([face_points()] * 30)) == []


def test_nothing_is_smoothed_across_a_cut() -> None:
    left, right = still_track(30), still_track(25)
    points = np.concatenate([left.points_px, right.points_px * 1.4 + (15, -9)]).astype(np.float32)
    whole = FaceTrack(times_s=np.arange(55) / 25, points_px=points, cuts=np.array([30]))
    framing, smooth = frame_face(whole, 64), whole.smoothed()
    for part in (slice(0, 30), slice(30, 55)):
        alone = frame_face(whole.part(part), 64)
        assert np.array_equal(framing.crop.side_px[part], alone.crop.side_px)
        assert np.array_equal(framing.crop.centre_px[part], alone.crop.centre_px)
        assert np.array_equal(framing.boxes[part], alone.boxes)
        assert np.array_equal(smooth.points_px[part], whole.part(part).smoothed().points_px)
    uncut = frame_face(replace(whole, cuts=np.zeros(0, np.int64)), 64)
    assert np.abs(uncut.crop.side_px - framing.crop.side_px).max() > 5, "it would have been"
    assert smooth.cuts.tolist() == [30]


def test_a_shot_without_a_face_counts_to_its_neighbour() -> None:
    track = replace(without(still_track(30), [slice(0, 12), slice(20, 30)]), cuts=np.array([5, 12]))
    assert track.shots() == [slice(0, 30)]
    later = replace(still_track(30), cuts=np.array([12]))
    assert later.shots() == [slice(0, 12), slice(12, 30)]
    ended = replace(without(still_track(30), [slice(12, 30)]), cuts=np.array([12]))
    assert ended.shots() == [slice(0, 30)]
    assert np.isfinite(frame_face(track, 64).points_crop).all()


def test_spans_name_their_reason() -> None:
    track = without(still_track(50), [slice(10, 15)])
    points = track.points_px.copy()
    points[30:40] = face_points(turn=TURNED + 0.1)
    spans = find_spans(FaceTrack(times_s=track.times_s, points_px=points, cuts=np.array([45])))
    assert [(s.start_frame, s.stop_frame, s.reason, s.after_cut) for s in spans] == [
        (0, 10, "face", False),
        (10, 15, "no face", False),
        (15, 30, "face", False),
        (30, 40, "turned away", False),
        (40, 45, "face", False),
        (45, 50, "face", True),
    ]
    assert spans[1].start_s == pytest.approx(0.4)
    assert spans[1].stop_s == pytest.approx(0.6)
    assert spans[-1].stop_s == pytest.approx(2.0)
    assert [s.driven for s in spans] == [True, False, True, False, True, True]


def test_turning_is_measured_and_does_not_flutter() -> None:
    assert turn(face_points(turn=0.4)[None])[0] == pytest.approx(0.4, abs=0.05)
    assert turn(face_points(turn=-0.4)[None])[0] == pytest.approx(-0.4, abs=0.05)
    assert abs(turn(face_points()[None])[0]) < 0.02
    scale = turn(face_points(turn=0.5)[None])[0] / 0.5
    between = np.tile([TURNED + 0.02, (TURNED + TURNED_BACK) / 2], 10) / scale
    points = np.stack([face_points(turn=float(x)) for x in between])
    spans = find_spans(FaceTrack(times_s=np.arange(20) / 25, points_px=points))
    assert [s.reason for s in spans] == ["turned away"]


@pytest.mark.parametrize(
    ("degrees", "reason"),
    [(a * sign, why) for sign in (1, -1) for a, why in (
        (0, "face"), (20, "face"), (34, "face"), (36, "rolled"), (90, "rolled"), (180, "rolled")
    )],
)  # fmt: skip
def test_a_head_that_is_rolled_too_far_keeps_its_mouth(degrees: float, reason: str) -> None:
    angle = np.radians(degrees)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    track = still_track(12)
    points = (track.points_px[4:8] - 48) @ turned.T + 48
    assert np.allclose(abs(roll_deg(points.astype(np.float32))), abs(degrees), atol=0.01)
    track.points_px[4:8] = points
    spans = find_spans(track)
    assert {span.reason for span in spans if 4 <= span.start_frame < 8 or len(spans) == 1} == {
        reason
    }
    assert (strengths(spans, track.times_s)[4:8] == 0).all() == (reason == "rolled")


def test_a_new_mouth_comes_and_goes_over_a_few_frames() -> None:
    track = without(still_track(60), [slice(20, 30)])
    weight = strengths(find_spans(track), track.times_s)
    assert (weight[20:30] == 0).all()
    assert (weight[:16] == 1).all(), "the beginning of the video is no border"
    assert (weight[34:] == 1).all()
    assert (np.diff(weight[15:21]) < 0).all()
    assert (np.diff(weight[29:35]) > 0).all()
    fast = replace(track, times_s=track.times_s / 2)
    assert (strengths(find_spans(fast), fast.times_s) < 1).sum() == 10 + 2 * 8, (
        "in time, not frames"
    )


def test_at_a_cut_nothing_fades() -> None:
    track = replace(without(still_track(40), [slice(20, 40)]), cuts=np.array([20]))
    weight = strengths(find_spans(track), track.times_s)
    assert weight.tolist() == [1.0] * 20 + [0.0] * 20


@given(
    found=st.lists(st.booleans(), min_size=1, max_size=60),
    away=st.lists(st.booleans(), min_size=60, max_size=60),
    cuts=st.sets(st.integers(1, 59)),
)
@settings(max_examples=150, deadline=None)
def test_spans_tile_the_video(found: list[bool], away: list[bool], cuts: set[int]) -> None:
    points = np.stack([face_points(turn=0.9 * a) for a in away[: len(found)]])
    points[~np.array(found)] = np.nan
    places = np.array(sorted(c for c in cuts if c < len(found)), np.int64)
    track = FaceTrack(times_s=np.arange(len(found)) / 30, points_px=points, cuts=places)
    spans = find_spans(track)
    frames = [i for span in spans for i in range(span.start_frame, span.stop_frame)]
    assert frames == list(range(len(found)))
    assert all(a.stop_s == b.start_s for a, b in itertools.pairwise(spans))
    assert {s.start_frame for s in spans if s.after_cut} == set(places.tolist())
    weight = strengths(spans, track.times_s)
    for span in spans:
        inside = weight[span.start_frame : span.stop_frame]
        assert ((inside > 0) == span.driven).all()
        assert inside.max() <= 1
        assert {bool(f) for f in track.found[span.start_frame : span.stop_frame]} == {
            span.reason != "no face"
        }


def test_footage_with_gaps_turns_and_cuts_is_dubbed_and_reported(tmp_path: Path) -> None:
    frames = 50
    images = pictures(25, seed=1) + pictures(25, seed=2)
    video = write_footage(tmp_path / "footage.mkv", images, lossless=True)
    track = without(still_track(frames), [slice(5, 13), slice(41, 48)])
    points = track.points_px.copy()
    points[16:20] = face_points(turn=0.9)
    track = FaceTrack(times_s=track.times_s, points_px=points, cuts=np.array([25]))
    place = located(video, track)
    job = debug_avatar().dub(video, write_tone(tmp_path / "a.wav", 2), located=place)
    result = job.save(tmp_path / "out.mkv", lossless=True, marks=UNMARKED)
    shown = [frame.image for frame in read_frames(result.output)]
    assert len(shown) == frames
    driven = np.array(place.strength > 0)
    assert result.frames_driven == driven.sum() == frames - 8 - 7 - 4
    for i in range(frames):
        changed = (shown[i] != images[i]).any(-1)
        assert changed.any() == driven[i]
        if driven[i]:
            mask = blend_mask(place.framing.boxes[i], 64)
            assert changed.sum() < mask.astype(bool).sum() * (SIDE_PX / 64) ** 2 * 1.2
    save_report(result, tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["frames"] == frames
    reasons = [(s["start_frame"], s["stop_frame"], s["reason"]) for s in report["spans"]]
    assert reasons == [
        (0, 5, "face"),
        (5, 13, "no face"),
        (13, 16, "face"),
        (16, 20, "turned away"),
        (20, 25, "face"),
        (25, 41, "face"),
        (41, 48, "no face"),
        (48, 50, "face"),
    ]
    with pytest.raises(MediaError):
        save_report(result, tmp_path / "missing" / "report.json")
