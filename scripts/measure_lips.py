"""What opens a rendered mouth: the drawn lips, or the other conditions?

    python scripts/measure_lips.py grid-s1 GRID/s1/bbal6n.mpg GRID/s1/bgin1s.mpg

Two moments of each video, at which the head is held most alike, are taken apart: at one the mouth
is closed, at the other it is open. A face is put together of the upper face of one of them, the
completed pose of one of them (jaw, mouth and chin; each the other's or not) and the speech around
one of them, and rendered with lips drawn from closed to wide open. How far must they be drawn open
before the mouth detected on the result is open by 1.5, 3 and 5 % of the face's scale? Where lips
decide, it is the same under all other conditions. Prints means and standard deviations over the
videos, for all eight faces, and by how much each part moves the 3 %.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker.data.footage import find_footage
from difftalker.dubbing.avatar import Avatar, load
from difftalker.dubbing.footage import locate
from difftalker.dubbing.render_loop import CHUNK_FRAMES
from difftalker.face.crop import cut
from difftalker.face.landmarks import LOWER, UPPER
from difftalker.face.lips import open_to, relative_opening
from difftalker.media.video import read_frames
from difftalker.training.calibrate import openings_found

PARTS = ("upper face", "pose", "speech")
WANTED = (0.015, 0.03, 0.05)
DRAWN = np.array([0, 1, 1.6, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 10, 12]) / 100
CLOSED, OPEN, WIDE = 0.008, 0.10, 0.18
"""Openings in the footage, face scales: closed up to the first, open between the others."""
LEAD_FRAMES = 2
"""Frames before each series, in which the detector finds the face."""


def found_on(pictures: NDArray[np.uint8]) -> NDArray[np.floating]:
    """(n,): openings of the mouths that are found on pictures (n, S, S, 3), never falling."""
    series = [*[pictures[0]] * LEAD_FRAMES, *pictures]
    opening = openings_found(series, np.arange(len(series)) / 25)[LEAD_FRAMES:]
    rising: NDArray[np.floating] = np.maximum.accumulate(opening)
    return rising + 1e-6 * np.arange(len(rising))


def needed(avatar: Avatar, video: Path) -> Iterator[tuple[float, ...]]:
    """A row for each face: which parts are of the open moment, and what had to be drawn."""
    config = avatar.config
    located = locate(video, config.size_px, mask=config.mask)
    seen, times_s = located.framing.points_crop, located.track.times_s
    completed = avatar.complete(located, video)
    heard = avatar.speech(video).windows(times_s).take(times_s)
    opening = np.where(located.track.usable, relative_opening(seen), np.nan)
    closed, wide = (
        np.flatnonzero(opening < CLOSED),
        np.flatnonzero((opening > OPEN) & (opening < WIDE)),
    )
    if not len(closed) or not len(wide):
        return
    upper = seen[:, list(UPPER)]
    apart = np.linalg.norm(upper[closed][:, None] - upper[wide][None], axis=-1).mean(-1)
    one, other = np.unravel_index(int(apart.argmin()), apart.shape)
    moments = int(closed[one]), int(wide[other])
    crops = {
        i: cut(frame.image, located.framing.crop, i, config.size_px)
        for i, frame in enumerate(read_frames(video))
        if i in moments
    }
    renderer = avatar.renderer()
    for above, posed, said in itertools.product(moments, repeat=3):
        points = completed[above].copy()
        moved = upper[above].mean(0) - upper[posed].mean(0)
        points[list(LOWER)] = completed[posed, list(LOWER)] + moved
        series = open_to(np.repeat(points[None], len(DRAWN), 0), DRAWN)
        made = [
            renderer.render(
                np.repeat(crops[above][None], len(some), 0),
                np.repeat(located.framing.boxes[above][None], len(some), 0),
                some,
                np.repeat(heard[said][None], len(some), 0),
            )
            for some in np.split(series, range(CHUNK_FRAMES, len(series), CHUNK_FRAMES))
        ]
        drawn = np.interp(WANTED, found_on(np.concatenate(made)), DRAWN)
        yield *(float(moment == moments[1]) for moment in (above, posed, said)), *drawn


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("avatar")
    parser.add_argument("footage", type=Path, nargs="+", help="of the avatar's person")
    options = parser.parse_args()
    avatar = load(options.avatar)
    found = [row for video in find_footage(options.footage, ()) for row in needed(avatar, video)]
    rows = 100 * np.array(found).reshape(-1, len(PARTS) + len(WANTED))
    print(
        f"{len(rows) // 8} videos; of the open moment: drawn, % of the face's scale, for rendered"
    )
    print(" " * 32 + "".join(f"{100 * one:14g} %" for one in WANTED))
    for which in itertools.product((0, 100), repeat=len(PARTS)):
        drawn = rows[(rows[:, : len(PARTS)] == which).all(1), len(PARTS) :]
        name = ", ".join(part for part, so in zip(PARTS, which, strict=True) if so) or "nothing"
        cells = (f"{m:8.1f} ({s:4.1f})" for m, s in zip(drawn.mean(0), drawn.std(0), strict=True))
        print(f"{name:32}" + "  ".join(cells))
    for i, part in enumerate(PARTS):
        three = rows[:, len(PARTS) + WANTED.index(0.03)]
        moved = three[rows[:, i] > 0].mean() - three[rows[:, i] == 0].mean()
        print(f"an open {part} moves the drawn opening for 3 % by {moved:+.1f} %")


if __name__ == "__main__":
    main()
