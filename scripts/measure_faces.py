"""Whether the right face is driven, and only where it can be: footage with a known truth.

Builds scenes out of clips of one speaker and of others (``face_scenes``): 30 % of frames without a
face, hard cuts, a dissolve, two people who cross, one who leaves and comes back, covered mouths.
Each is written as a video, searched as ``dub`` does it, and compared with what it was built of;
clips as they are show false alarms. Exits with 1 where a promise is broken.

    python scripts/measure_faces.py GRID/s1 GRID/other_speakers --clips GRID/protocol.json:train
    ... --plain 93          all clips of the list for false alarms
    ... --dub grid-s1       dub the scenes to the end as well
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from difftalker.dubbing.avatar import Avatar, load
from difftalker.dubbing.footage import TrackedFootage, locate
from difftalker.face.detect.people import Choice
from difftalker.marks.marking import UNMARKED
from difftalker.media.video import read_frames
from difftalker.packaged import samples
from face_scenes import (
    COVERS,
    Clip,
    Scene,
    away_and_back,
    centre,
    covered,
    crossing,
    dissolve,
    gaps,
    shots,
)

NEAR = 0.25
"""A driven face is the right one if it is nearer than so many face widths to where it has to be."""
LEAST_SHARE = 0.95
LEAST_COVERED = 0.8
SUFFIXES = (".mpg", ".mp4", ".mov", ".mkv", ".avi", ".webm")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found in a scene, in frames; loose frames count for ``wrong`` alone."""

    wanted: int
    """Which had to be driven."""
    driven: int
    right: int
    """Driven, and had to be."""
    wrong: int
    """Driven with another face than the right one."""
    unwanted: int
    """Driven, though they show no face, another one, or a cover."""
    reasons: float
    """Share of frames whose reason is the right one."""
    cuts: bool
    """Whether all cuts were found, to a frame, and nothing else."""
    people: int
    ms_per_frame: float

    @property
    def recall(self) -> float:
        """Share of wanted frames that are driven."""
        return self.right / self.wanted if self.wanted else 1.0

    @property
    def precision(self) -> float:
        """Share of driven frames that had to be."""
        return self.right / self.driven if self.driven else 1.0


def measure(scene: Scene, located: TrackedFootage, seconds: float) -> Finding:
    """Compare what was found in a scene with the truth."""
    track, driven = located.track, located.strength > 0
    width = np.ptp(track.points_px[..., 0], axis=1)
    away = np.linalg.norm(centre(track.points_px) - scene.centre_px, axis=1) / width
    there, sure = np.isfinite(scene.centre_px[:, 0]), ~scene.loose
    found = np.empty(len(track), object)
    for span in located.spans:
        found[span.start_frame : span.stop_frame] = span.reason
    return Finding(
        wanted=int((there & sure).sum()),
        driven=int((driven & sure).sum()),
        right=int((driven & there & sure & (away < NEAR)).sum()),
        wrong=int((driven & there & ~(away < NEAR)).sum()),
        unwanted=int((driven & ~there & sure).sum()),
        reasons=float((found == scene.reasons)[sure].mean()),
        cuts=_same_cuts(scene.cuts, track.cuts.tolist()),
        people=len(track.people),
        ms_per_frame=1000 * seconds / len(track),
    )


def _same_cuts(wanted: tuple[int, ...] | None, found: list[int]) -> bool:
    if wanted is None:
        return True
    return len(wanted) == len(found) and all(
        abs(a - b) <= 1 for a, b in zip(wanted, found, strict=True)
    )


def broken(scene: Scene, finding: Finding) -> list[str]:
    """Which promises do not hold."""
    is_cover = "covered" in scene.reasons
    left_alone = 1 - finding.unwanted / max(
        1, int((~np.isfinite(scene.centre_px[:, 0]) & ~scene.loose).sum())
    )
    checks = {
        "another face was driven": finding.wrong > 0,
        "frames were driven that must not be": left_alone < (LEAST_COVERED if is_cover else 1),
        "frames were left alone that must not be": finding.recall < LEAST_SHARE,
        "reasons are wrong": finding.reasons < (LEAST_COVERED if is_cover else LEAST_SHARE),
        "cuts are wrong": not finding.cuts,
        "people are miscounted": finding.people != scene.people,
    }
    return [text for text, failed in checks.items() if failed]


def scenes(own: list[Clip], others: list[Clip]) -> dict[str, list[Callable[[], Scene]]]:
    """All of them, by kind; each is built when it is called."""
    cuts = [partial(shots, [(clip, True) for clip in own[:4]], "cuts, one speaker")]
    for number, other in enumerate(others):
        mine = [(own[(number + k) % len(own)], True) for k in range(3)]
        shown = [mine[0], (other, False), mine[1], (other, False), mine[2]]
        cuts.append(partial(shots, shown, "cuts, two speakers"))
    pairs = [(own[n % len(own)], other) for n, other in enumerate(others[::2])]
    return {
        "gaps": [
            partial(gaps, own[0]),
            partial(dissolve, own[0], own[1]),
            *(partial(away_and_back, *pair) for pair in pairs),
        ],
        "cuts": [*cuts],
        "crossings": [
            partial(crossing, *pair, **how)
            for pair in pairs
            for how in ({}, {"own_in_front": False}, {"apart_px": 75})
        ],
        "covers": [
            partial(covered, clip, cover) for clip in own[:2] + others[1::3] for cover in COVERS
        ],
    }


def clips_of(folder: Path, chosen: str | None) -> list[Path]:
    """Files of a folder; those of a list in a JSON file, FILE:LIST, alone."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if chosen is None:
        return paths
    file, _, name = chosen.rpartition(":")
    names = set(json.loads(Path(file).read_text())[name])
    return [path for path in paths if path.stem in names]


def _dubbed(avatar: Avatar, scene: Scene, video: Path, located: TrackedFootage) -> list[str]:
    """Dub a scene to the end; frames that are left alone have to stay as they were."""
    output = video.with_name("dubbed.mkv")
    job = avatar.dub(video, samples.speech(), located=located, steps=1)
    result = job.save(output, lossless=True, marks=UNMARKED)
    pairs = zip(read_frames(video), read_frames(output), strict=True)
    same = np.array([np.array_equal(a.image, b.image) for a, b in pairs])
    alone = located.strength == 0
    texts = [] if same[alone].all() else ["a frame that was left alone changed"]
    return texts + ([] if result.frames == len(scene.images) else ["frames were lost"])


def main() -> int:
    """Run all scenes, print a line each; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("own", type=Path, help="folder with clips of the person to be driven")
    parser.add_argument("others", type=Path, help="folder with clips of other people")
    parser.add_argument("--clips", help="FILE.json:LIST, which of the clips to use")
    parser.add_argument("--plain", type=int, default=8, help="clips to try for false alarms")
    parser.add_argument("--only", choices=("gaps", "cuts", "crossings", "covers", "none"))
    parser.add_argument("--dub", metavar="AVATAR", help="dub the scenes as well")
    args = parser.parse_args()
    paths = clips_of(args.own, args.clips)
    own = [Clip.read(path) for path in paths[:: max(1, len(paths) // 6)][:6]]
    others = [Clip.read(path) for path in clips_of(args.others, None)]
    avatar = load(args.dub) if args.dub else None
    failures = 0
    columns = f"{'wanted':>6} {'right':>6} {'wrong':>6} {'unwanted':>8} precision recall reasons"
    print(f"{'scene':28} {columns}")
    with tempfile.TemporaryDirectory() as folder:
        for kind, made in scenes(own, others).items():
            for scene in made if args.only in (None, kind) else ():
                failures += _try(scene(), Path(folder) / "scene.mkv", avatar)
    alarms = faceless = frames = 0
    for path in paths[: args.plain]:
        face = locate(path, 256)
        alone, doubted = ~face.track.usable, face.track.why > 0
        alarms += int((alone & doubted).sum())
        faceless += int((alone & ~doubted).sum())
        frames += len(face)
    print(
        f"{frames} frames of {min(args.plain, len(paths))} clips as they are: {alarms} taken for"
        f" covered or another person's, in {faceless} no face found"
    )
    return 1 if failures or alarms else 0


def _try(scene: Scene, video: Path, avatar: Avatar | None) -> int:
    """Search one scene and print what was found; 1 where a promise is broken."""
    scene.write(video)
    began = time.process_time()
    located = locate(video, 256, face=Choice.parse(scene.face))
    finding = measure(scene, located, time.process_time() - began)
    texts = broken(scene, finding)
    if avatar is not None:
        texts += _dubbed(avatar, scene, video, located)
    counts = f"{finding.wanted:6} {finding.right:6} {finding.wrong:6} {finding.unwanted:8}"
    shares = f"{finding.precision:9.3f} {finding.recall:6.3f} {finding.reasons:7.3f}"
    judged = "; ".join(texts) or "as promised"
    print(f"{scene.name:28} {counts} {shares} {finding.ms_per_frame:4.0f} ms {judged}", flush=True)
    return int(bool(texts))


if __name__ == "__main__":
    sys.exit(main())
