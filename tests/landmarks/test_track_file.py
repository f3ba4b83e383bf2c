"""Files of landmark tracks: what they hold, and bad values refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from difftalker.errors import MediaError, TrackError
from difftalker.face.landmarks import CHIN
from difftalker.landmarks import track_file as track
from difftalker.landmarks import track_json
from difftalker.landmarks.track_file import LandmarkTrack
from helpers_track import FRAMES, refused, same


def test_npz_and_json_come_back_the_same(made: LandmarkTrack, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    points = made.points_crop + rng.normal(0, 0.01, made.points_crop.shape).astype(np.float32)
    rough = replace(made, points_crop=points, times_s=made.times_s / 3, video="Zoë, take 2.mkv")
    for name in ("track.npz", "track.json"):
        rough.save(tmp_path / name)
        assert same(LandmarkTrack.load(tmp_path / name), rough), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["track.json", "track.npz"]


def test_files_hold_what_the_format_says(made: LandmarkTrack, tmp_path: Path) -> None:
    made.save(tmp_path / "track.npz")
    made.save(tmp_path / "track.json")
    read = json.loads((tmp_path / "track.json").read_text())
    with np.load(tmp_path / "track.npz", allow_pickle=False) as held:
        assert set(held.files) == set(read)
        for name in held.files:
            np.testing.assert_array_equal(np.asarray(read[name], held[name].dtype), held[name])
        np.testing.assert_allclose(
            held["points_px"],
            held["points_crop"] * held["side_px"][:, None, None]
            + (held["centre_px"] - held["side_px"][:, None] / 2)[:, None],
            atol=1e-3,
        )
    assert read["version"] == 1
    assert read["frame_px"] == [96, 80]
    assert read["video"] == "footage.mkv"


def test_points_in_pixels_may_be_left_out_but_not_disagree(
    made: LandmarkTrack, tmp_path: Path
) -> None:
    path = tmp_path / "track.json"
    made.save(path)
    held = json.loads(path.read_text())
    held["points_px"][3][CHIN][1] += 1
    path.write_text(json.dumps(held))
    with pytest.raises(TrackError, match="points_px and points_crop of frame 3 do not agree"):
        LandmarkTrack.load(path)
    del held["points_px"]
    path.write_text(json.dumps(held))
    assert same(LandmarkTrack.load(path), made)


def test_a_track_that_cannot_be_written_leaves_nothing(
    made: LandmarkTrack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_json, "MAX_JSON_FRAMES", FRAMES - 1)
    with pytest.raises(TrackError, match="as JSON"):
        made.save(tmp_path / "track.json")
    with pytest.raises(MediaError, match="ends in"):
        made.save(tmp_path / "track.txt")
    assert list(tmp_path.iterdir()) == []


BAD_VALUES: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "shape": ("points_crop", lambda v: v[:, :67], "points_crop is float32 of shape"),
    "fewer frames": ("found", lambda v: v[1:], "found is bool of shape"),
    "type": ("found", lambda v: v.astype(np.float32), "found is float32"),
    "not a number": ("points_crop", lambda v: v * np.nan, "points_crop of frame 0 is not finite"),
    "infinite": ("side_px", lambda v: v * np.inf, "side_px of frame 0 is not finite"),
    "overflow": ("side_px", lambda v: v.astype(np.float64) * 1e300, "side_px of frame 0"),
    "far away": ("points_crop", lambda v: v + 1e6, "points_crop of frame 0 lies far outside"),
    "times": ("times_s", lambda v: v[::-1], "times_s of frame 1 does not rise"),
    "before zero": ("times_s", lambda v: v - 0.5, "times_s of frame 0 does not rise"),
    "no side": ("side_px", lambda v: v * 0, "side_px of frame 0 is below one pixel"),
    "huge side": ("side_px", lambda v: v * 100, "side_px of frame 0 is far beyond"),
    "outside": ("centre_px", lambda v: v + 900, "centre_px of frame 0 puts the crop outside"),
    "off the grid": ("boxes", lambda v: v + 1, "boxes of frame 0 is no multiple of 8"),
    "box too large": ("boxes", lambda v: v.astype(np.int64) + 2**40, "boxes of frame 0"),
    "turned box": ("boxes", lambda v: v[:, ::-1], "boxes of frame 0 ends before"),
    "size": ("size_px", lambda v: v + 1, "size_px is 65"),
    "frame": ("frame_px", lambda v: (0, 80), r"frame_px is \(0, 80\)"),
    "hash": ("video_sha256", lambda v: "../" * 20, "video_sha256 is no sha256"),
    "control characters": ("avatar", lambda v: "a\x1b[2J", "avatar is no name"),
    "long name": ("video", lambda v: "a" * 256, "video is no name"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_a_bad_value_is_refused_in_one_line(
    case: str, suffix: str, made: LandmarkTrack, tmp_path: Path
) -> None:
    name, spoil, reason = BAD_VALUES[case]
    with pytest.raises(TrackError, match=reason):
        replace(made, **{name: spoil(getattr(made, name))})
    held = made._fields() | {name: spoil(getattr(made, name))}
    path = tmp_path / f"track{suffix}"
    if suffix == ".npz":
        np.savez(path, **held)
    else:
        plain = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in held.items()}
        path.write_text(json.dumps(plain))
    refused(path)


def test_no_flipped_byte_ends_in_another_error(made: LandmarkTrack, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for suffix in track.SUFFIXES:
        path = tmp_path / f"track{suffix}"
        made.save(path)
        fine = path.read_bytes()
        for _ in range(60):
            spoilt = bytearray(fine)
            for place in rng.integers(0, len(fine), 3):
                spoilt[place] = rng.integers(256)
            path.write_bytes(spoilt)
            with contextlib.suppress(TrackError):
                LandmarkTrack.load(path)


def test_files_beyond_the_limit_are_not_opened(tmp_path: Path) -> None:
    for suffix in track.SUFFIXES:
        path = tmp_path / f"track{suffix}"
        with path.open("wb") as file:
            file.truncate(1 << 30)
        assert "bytes" in refused(path)
    assert "no such file" in refused(tmp_path / "none.npz")
    assert "ends in" in refused(tmp_path / "track.pickle")
