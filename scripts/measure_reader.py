"""How well does the lip reader read real mouths: by command, by speaker, by place in the sentence?

    python scripts/measure_reader.py GRID/s1 --clips GRID/protocol.json:test [--lips FOLDER]

What is said comes from the clips' names. A clip's speaker is its folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from difftalker.data.footage import find_footage
from difftalker.dubbing.footage import locate
from difftalker.evaluation.judges.lipreading import SIZE_PX, filled
from difftalker.experts.lip_reader import LipReader, LipReaderConfig, read
from difftalker.face.crop import cut
from difftalker.face.mouth import lip_points, mouth_views
from difftalker.media.video import read_frames
from difftalker.speech.grid import SLOTS, choices, sentence_of_name
from difftalker.store import experts


def wrong_words(net: LipReader, video: Path, said: tuple[str, ...]) -> list[bool]:
    """Which of the six words are misread."""
    framing = locate(video, SIZE_PX).framing
    points = filled(np.where(framing.found[:, None, None], framing.points_crop, np.nan))
    crops = (
        cut(frame.image, framing.crop, i, SIZE_PX) for i, frame in enumerate(read_frames(video))
    )
    chances = read(net, mouth_views(crops, points * SIZE_PX), lip_points(points))
    found = [int(one.argmax()) for one in chances]
    return [a != b for a, b in zip(found, choices(said), strict=True)]


def show(title: str, groups: Mapping[str, list[list[bool]]]) -> None:
    """A line for each group of clips."""
    for name, rows in sorted(groups.items()):
        wrong = np.array(rows)
        print(f"{title} {name}: {wrong.mean():.1%} of {wrong.size} words in {len(rows)} clips")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("footage", type=Path, nargs="+")
    parser.add_argument("--clips", action="append", default=[])
    parser.add_argument("--lips", default="", help="a lip reader's folder; else the packaged one")
    options = parser.parse_args()
    net = experts.read(options.lips, kind="lips").load_network(LipReader, LipReaderConfig)
    everything: list[list[bool]] = []
    commands: dict[str, list[list[bool]]] = {}
    speakers: dict[str, list[list[bool]]] = {}
    for video in find_footage(options.footage, options.clips):
        if (said := sentence_of_name(video.stem)) is None:
            print(f"{video.stem} is no name of a sentence of GRID: left out")
            continue
        wrong = wrong_words(net, video, said)
        everything.append(wrong)
        commands.setdefault(said[0], []).append(wrong)
        speakers.setdefault(video.parent.name, []).append(wrong)
    show("command", commands)
    show("speaker", speakers)
    for place, name in enumerate(SLOTS):
        print(f"{name}: {np.mean([row[place] for row in everything]):.1%}")
    show("all", {"clips": everything})


if __name__ == "__main__":
    main()
