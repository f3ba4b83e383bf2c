"""Tracks as .json: hostile texts and other types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from difftalker.landmarks.track_file import LandmarkTrack
from helpers_track import FRAMES, refused


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON"),
        ("[" * 10_000, "no JSON"),
        ("[]," * 4_000_000, "too many lists"),
        ('"ab",' * 100, "too many lists or texts"),
        ("[1, 2]", "no object"),
        ("{}", "it has no version"),
        ('{"version": 1, "version": 1}', "twice"),
        ('{"version": NaN}', "holds NaN"),
        ('{"version": ' + "9" * 5000 + "}", "no JSON"),
    ],
    ids=lambda text: text[:12],
)
def test_hostile_json_files_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "track.json"
    path.write_text(text)
    assert reason in refused(path)


BAD_JSON = {
    "version": 2, "size_px": True, "frame_px": [96, 80.5], "video": 7, "times_s": {"a": 1},
    "points_crop": [[[0, "0"]]], "boxes": [[10**30] * 4] * FRAMES, "side_px": [10**400] * FRAMES,
    "found": [1] * FRAMES,
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_JSON)
def test_other_types_in_json_are_refused(name: str, made: LandmarkTrack, tmp_path: Path) -> None:
    path = tmp_path / "track.json"
    made.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: BAD_JSON[name]}))
    refused(path)
