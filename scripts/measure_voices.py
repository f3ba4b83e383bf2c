"""Do other voices drive an avatar? The mouth's opening against that of the people who speak.

    python scripts/measure_voices.py grid-s1 GRID/s1/bras6n.mpg GRID/s1/lwbs1s.mpg \
        --voices GRID/other_speakers

Each voice is a video of somebody who speaks. Its sound moves the landmarks of the avatar's footage
(nothing is painted), and the opening of their lips is correlated with that of the speaker's own.
Prints a line a voice, mean and extremes over the footage, and the mean over voices.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from difftalker.data.footage import find_footage
from difftalker.evaluation.metrics import mouth_opening_correlation
from difftalker.pipeline import Avatar, Located, load, locate


def correlations(avatar: Avatar, footage: Sequence[Located], voice: Path) -> Iterator[float]:
    """One figure for each piece of footage."""
    speaker = locate(voice, avatar.config.size_px)
    for located in footage:
        points_px = located.points_px(avatar.complete(located, voice))
        times_s = located.track.times_s
        yield mouth_opening_correlation(
            points_px, times_s, speaker.track.points_px, speaker.track.times_s
        )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("avatar")
    parser.add_argument("footage", type=Path, nargs="+", help="of the avatar's person")
    parser.add_argument("--voices", type=Path, nargs="+", required=True, help="videos, or folders")
    options = parser.parse_args()
    avatar = load(options.avatar)
    footage = [locate(video, avatar.config.size_px) for video in options.footage]
    means = []
    for voice in find_footage(options.voices, ()):
        found = list(correlations(avatar, footage, voice))
        means.append(float(np.mean(found)))
        print(f"{voice.stem}: {means[-1]:.3f} ({min(found):.3f} to {max(found):.3f})", flush=True)
    print(f"mean of {len(means)} voices: {np.mean(means):.3f}")


if __name__ == "__main__":
    main()
