"""Whose lower face does a video show?

    measure_whose_face.py VIDEO... --people GRID/speakers GRID/s1 [--references 3] [--not NAME]

Tracks the face of each video and compares its lower face, frame by frame less the colours of its
cheeks and eyes and then in the mean, with that of footage of each of the people: a folder of videos
each. Prints the nearest one of each video, and the next. Videos that are references of somebody
are to be left out with ``--not``, by their names without suffix.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker.data.footage import VIDEO_SUFFIXES
from difftalker.face.detect.looks import lower_face
from difftalker.face.detect.track import track
from difftalker.media.video import read_frames


def main() -> None:
    """Print whose face it is, a line for each video."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--people", type=Path, nargs="+", required=True)
    parser.add_argument("--references", type=int, default=3, help="videos of each person")
    parser.add_argument("--not", dest="left_out", action="append", default=[])
    options = parser.parse_args()
    people = {
        person: [one for one in videos if one.stem not in options.left_out][: options.references]
        for person, videos in _people(options.people).items()
    }
    videos = [*options.videos, *(one for some in people.values() for one in some)]
    with ProcessPoolExecutor(2) as pool:
        found = dict(zip(videos, pool.map(mean_lower_face, videos), strict=True))
    known = {person: [found[one] for one in some] for person, some in people.items() if some}
    for video in options.videos:
        apart = sorted((_distance(found[video], some), person) for person, some in known.items())
        (first, person), (second, other) = apart[:2]
        print(f"{video}: {person} ({first:.1f}), then {other} ({second:.1f})")


def mean_lower_face(video: Path) -> NDArray[np.floating]:
    """(6, 6, 3): the mean over the frames of :func:`difftalker.face.detect.looks.lower_face`."""
    face = track(read_frames(video), source=video.name)
    seen = [
        lower_face(frame.image, points)
        for frame, points, found in zip(read_frames(video), face.points_px, face.found, strict=True)
        if found
    ]
    return np.asarray(np.mean(np.stack(seen).astype(np.float32), axis=0))


def _distance(face: NDArray[np.floating], known: Sequence[NDArray[np.floating]]) -> float:
    """To the nearest of those known, root mean square over the grid, CIE L*a*b*."""
    return min(float(np.sqrt(np.square(face - one).mean())) for one in known)


def _people(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Videos of each person: of a folder, or of the folders within it."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        within = sorted(one for one in folder.iterdir() if one.is_dir())
        for place in within or [folder]:
            videos = sorted(p for p in place.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
            found[place.name] = videos
    return found


if __name__ == "__main__":
    main()
