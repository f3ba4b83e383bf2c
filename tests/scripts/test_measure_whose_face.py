"""Whose lower face a video shows: who is compared, and how far apart they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import measure_whose_face as whose


def test_people_are_folders_of_videos(tmp_path: Path) -> None:
    for place in ("many/ann", "many/bob", "eve"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "b.mp4").touch()
        (tmp_path / place / "a.mpg").touch()
        (tmp_path / place / "a.txt").touch()
    found = whose._people([tmp_path / "many", tmp_path / "eve"])
    assert {person: [p.name for p in videos] for person, videos in found.items()} == {
        person: ["a.mpg", "b.mp4"] for person in ("ann", "bob", "eve")
    }


def test_the_nearest_of_somebody_s_videos_counts() -> None:
    face = np.zeros((6, 6, 3))
    assert whose._distance(face, [face + 2, face + 1, face - 3]) == 1
