"""Seams of new faces in footage whose light is not the avatar's.

    python scripts/measure_light.py GRID/s1 --clips bras6n lwbs1s bwbn4p lrbl3a [--ideal]

Clips of the avatar's person are put into another light, dubbed with their own sound, and measured
as `difftalker evaluate` does it: the step of the luma across the mask's edges, in the output over
that in the footage (`metrics.seam_step`). 1 is unseen. Faces are searched once, in the
clip as it is: this is about light alone. With --ideal the networks' faces are replaced by those of
the clip as it is, so that what is left is what matching the light and blending do. Prints the seam
for each light, clip by clip, and exits 1 where the mean over clips is further than a tenth from 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from difftalker.dubbing.avatar import Avatar, load
from difftalker.dubbing.footage import TrackedFootage, locate
from difftalker.face.crop import cut
from difftalker.marks.marking import UNMARKED
from difftalker.media.video import VideoWriter, probe_video, read_frames
from difftalker.metrics import seam_step
from difftalker.packaged import samples
from difftalker.synthesis.renderer import Renderer

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]
TOLERANCE = 0.1


def gained(red: float, green: float, blue: float) -> Callable[[Floats], Floats]:
    """Each channel by a factor: exposure and white balance."""
    return lambda light: light * np.array([red, green, blue])


def bent(power: float) -> Callable[[Floats], Floats]:
    """Another gamma."""
    return lambda light: light**power


def falling(first: float, last: float, axis: int) -> Callable[[Floats], Floats]:
    """Light that falls from one side of the picture to the other; axis 0 is downwards."""

    def lit(light: Floats) -> Floats:
        ramp = np.linspace(first, last, light.shape[axis])
        return light * (ramp[:, None, None] if axis == 0 else ramp[None, :, None])

    return lit


PLAIN = "as it is"
LIGHTS: dict[str, Callable[[Floats], Floats]] = {
    PLAIN: gained(1, 1, 1),
    "half the light": gained(0.5, 0.5, 0.5),
    "a third more": gained(1.33, 1.33, 1.33),
    "lamp light": gained(1.15, 0.95, 0.6),
    "overcast": gained(0.85, 1.0, 1.25),
    "gamma 1.5": bent(1.5),
    "gamma 0.7": bent(0.7),
    "from the left": falling(1.3, 0.4, 1),
    "from the right": falling(0.4, 1.3, 1),
    "from above": falling(1.4, 0.4, 0),
    "from below": falling(0.4, 1.3, 0),
}


def relit(clip: Path, light: Callable[[Floats], Floats], path: Path, frames: int) -> None:
    """The first frames of a clip in another light, without loss."""
    info = probe_video(clip)
    with VideoWriter(
        path,
        width=info.width,
        height=info.height,
        fps=info.fps,
        time_base=Fraction(1, 1000),
        lossless=True,
    ) as writer:
        for frame in islice(read_frames(clip), frames):
            lit = 255 * light(frame.image / 255.0)
            image = np.rint(np.clip(lit, 0, 255)).astype(np.uint8)
            writer.write(image, round(1000 * frame.time_s))


def face_of(avatar: Avatar, clip: Path, frames: int, scratch: Path) -> TrackedFootage:
    """Where the face is in the first frames of a clip as it is."""
    video = scratch / f"{clip.stem}.mkv"
    relit(clip, LIGHTS[PLAIN], video, frames)
    return locate(video, avatar.config.size_px, mask=avatar.config.mask)


class Ideal(Renderer):
    """A renderer that gives the faces of footage as they are, the driven ones one by one."""

    uses_landmarks, uses_audio = True, False

    def __init__(self, footage: TrackedFootage, size_px: int) -> None:
        self.size_px, self.key = size_px, f"the faces of {footage.video}"
        crop, size = footage.framing.crop, size_px
        self._faces = (
            cut(frame.image, crop, i, size)
            for i, frame in enumerate(read_frames(footage.video))
            if footage.strength[i] > 0
        )

    def render(
        self,
        crops: Image,
        boxes: NDArray[np.int32],
        points_crop: NDArray[np.float32],
        windows: NDArray[np.float32] | None = None,
    ) -> Image:
        """The next faces of the footage, (n, S, S, 3)."""
        return np.stack(list(islice(self._faces, len(crops))))


def seam(
    avatar: Avatar,
    clip: Path,
    found: TrackedFootage,
    light: Callable[[Floats], Floats],
    scratch: Path,
    ideal: bool,
) -> float:
    """Dub a clip in another light; the step across the mask's edges over that of the footage."""
    video, output = scratch / "in.mkv", scratch / "out.mkv"
    relit(clip, light, video, len(found))
    located = replace(found, video=video, info=probe_video(video))
    points = found.framing.points_crop if ideal else None
    job = avatar.dub(video, clip, located=located, landmarks=points)
    with ExitStack() as stack:
        if ideal:
            renderer = Ideal(found, avatar.config.size_px)
            stack.enter_context(patch.object(avatar, "renderer", lambda *_: renderer))
        job.save(output, lossless=True, marks=UNMARKED)
    framing, size = located.framed(avatar.config).framing, avatar.config.size_px
    steps = []
    for i, pair in enumerate(zip(read_frames(output), read_frames(video), strict=True)):
        if located.strength[i] < 1:
            continue
        crops = (cut(frame.image, framing.crop, i, size) for frame in pair)
        steps.append([seam_step(crop, framing.boxes[i]) for crop in crops])
    made, true = np.nanmean(np.array(steps), 0)
    return float(made / true)


def main() -> None:
    """Print a line for each light."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="with clips of the avatar's person")
    parser.add_argument("--clips", nargs="+", required=True, help="names without suffix")
    parser.add_argument("--avatar", default=samples.AVATAR)
    parser.add_argument("--frames", type=int, default=50, help="of each clip")
    parser.add_argument(
        "--ideal", action="store_true", help="faces of the clip, not generated ones"
    )
    parser.add_argument("--only", default="", help="only lights with this in their name")
    options = parser.parse_args()
    avatar, wrong = load(options.avatar), 0
    clips = [next(iter(sorted(options.folder.glob(f"{name}.*")))) for name in options.clips]
    print(f"{'light':<16}" + "".join(f"{clip.stem:>9}" for clip in clips) + f"{'mean':>9}")
    with tempfile.TemporaryDirectory() as scratch:
        found = [face_of(avatar, clip, options.frames, Path(scratch)) for clip in clips]
        for name, light in LIGHTS.items():
            if options.only not in name:
                continue
            seams = [
                seam(avatar, clip, each, light, Path(scratch), options.ideal)
                for clip, each in zip(clips, found, strict=True)
            ]
            mean = float(np.mean(seams))
            wrong += abs(mean - 1) > TOLERANCE
            print(f"{name:<16}" + "".join(f"{one:9.3f}" for one in [*seams, mean]), flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
