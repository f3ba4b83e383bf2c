"""Is the avatar's person distinguished from others?

    measure_likeness.py grid-s1 --own GRID/s1 --clips GRID/protocol.json:test --others GRID/speakers
    measure_likeness.py AVATAR --own GRID/s1 --clips GRID/protocol.json:train --write

Tracks the face of every video as `difftalker dub` does, and prints how far its looks are from those
of the avatar's training footage, a line for each folder: the least and the greatest distance, and
how many are accepted. Exits 1 where one's own person is refused or somebody else accepted.
``--write`` takes the looks from the clips of ``--own`` and writes them into the avatar's folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from difftalker.core.files import write_whole
from difftalker.core.hashing import sha256_of
from difftalker.data.dataset import load_dataset
from difftalker.data.footage import find_footage
from difftalker.data.likeness import looks_of
from difftalker.data.prepare import PrepareConfig, prepare
from difftalker.errors import FaceError
from difftalker.face.detect.people import SAME_AS_AVATAR, Likeness
from difftalker.face.detect.track import track
from difftalker.media.video import read_frames
from difftalker.store import avatars


def main() -> int:
    """Print the table, or write the looks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("avatar")
    parser.add_argument("--own", type=Path, required=True, help="footage of the avatar's person")
    parser.add_argument("--clips", action="append", default=[], help="FILE.json:KEY, of --own")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="folders of others")
    parser.add_argument("--write", action="store_true", help="take the looks from --own")
    options = parser.parse_args()
    files = avatars.read(options.avatar)
    own = find_footage([options.own], options.clips)
    if options.write:
        _write(files.folder, own)
        return 0
    looks = np.array(files.calibration.looks, np.float32)
    likeness = Likeness(avatar=files.name, looks=looks)
    wrong = 0
    with ProcessPoolExecutor(2) as pool:
        for group, videos, is_own in [("own", own, True), *_others(options.others)]:
            apart = list(pool.map(_distance, videos, [likeness] * len(videos)))
            found = np.array([one for one in apart if one is not None])
            accepted = int((found <= SAME_AS_AVATAR).sum())
            wrong += len(videos) - accepted if is_own else accepted
            span = f"{found.min():.2f} to {found.max():.2f}" if len(found) else "no face"
            print(f"{group:24s}{accepted:4d} of {len(videos):3d} accepted, distance {span}")
    return int(wrong > 0)


def _others(folders: Sequence[Path]) -> Iterator[tuple[str, list[Path], bool]]:
    """Groups of videos of other people: one for each folder that holds any."""
    for folder in folders:
        within = sorted(path for path in folder.iterdir() if path.is_dir())
        for place in within or [folder]:
            yield place.name, find_footage([place]), False


def _distance(video: Path, likeness: Likeness) -> float | None:
    """How far the person in a video is from the likeness; None where no face is found."""
    try:
        return track(read_frames(video), source=video, likeness=likeness).unlike
    except FaceError:
        return None


def _write(folder: Path, own: Sequence[Path]) -> None:
    """Measure looks and put them into an avatar's calibration; its hash follows."""
    with tempfile.TemporaryDirectory() as scratch:
        prepare(list(own), Path(scratch) / "data", PrepareConfig(features=("mel",)))
        looks = looks_of(load_dataset(Path(scratch) / "data", validation_clips=0).train)
    calibration = replace(avatars.read(folder).calibration, looks=looks)
    path, config = folder / "calibration.json", folder / "config.json"
    write_whole(path, json.dumps(asdict(calibration), indent=None) + "\n")
    record = json.loads(config.read_text())
    record["files"][path.name] = sha256_of(path)
    write_whole(config, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
