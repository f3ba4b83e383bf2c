"""Makes ``tests/golden/grid_s1_slice.npz``: what the packaged avatar makes of the packaged samples.

A test compares it with what is made now, so that the avatar's quality changes on purpose. After a
change that is meant::

    python scripts/make_avatar_golden.py
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker.dubbing.avatar import Avatar, load
from difftalker.dubbing.footage import TrackedFootage
from difftalker.face.crop import cut, frame_face
from difftalker.face.detect.track import track
from difftalker.media.video import probe_video, read_frames
from difftalker.packaged import samples

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "grid_s1_slice.npz"
FRAMES = 64
"""Frames of the footage, from its beginning, that are looked at."""
LANDMARK_FRAMES = np.arange(7, FRAMES, 8)
"""Frames whose completed landmarks are stored."""
PICTURE_FRAMES = LANDMARK_FRAMES[[4, 5]]
"""Frames whose generated lower face is stored: mouth open, mouth shut."""


def located(avatar: Avatar) -> TrackedFootage:
    """The first frames of the packaged footage with their face, framed for the avatar."""
    video, config = samples.footage(), avatar.config
    found = track(islice(read_frames(video), FRAMES), source=video)
    framing = frame_face(found, config.size_px, config.mask)
    return TrackedFootage(video=video, info=probe_video(video), track=found, framing=framing)


def lower_faces(
    avatar: Avatar, footage: TrackedFootage, points_crop: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """The generated lower faces of ``PICTURE_FRAMES``, every other pixel, (frames, H, W, 3).

    ``points_crop`` (FRAMES, 68, 2), crop units, are the landmarks that they are generated from.
    """
    chosen, framing = PICTURE_FRAMES, footage.framing
    frames = [frame.image for frame in islice(read_frames(footage.video), int(chosen[-1]) + 1)]
    crops = np.stack([cut(frames[i], framing.crop, i, avatar.config.size_px) for i in chosen])
    heard = avatar.windows(avatar.speech(samples.speech()), footage.track.times_s)
    boxes = framing.boxes[chosen]
    windows = heard.take(footage.track.times_s[chosen]) if heard else None
    diffusion = avatar.renderer(avatar.rendering("diffusion"))
    made = diffusion.render(crops, boxes, points_crop[chosen], windows)
    (top, left), (bottom, right) = boxes[:, [0, 2]].min(0), boxes[:, [1, 3]].max(0)
    return made[:, top:bottom:2, left:right:2]


def main() -> None:
    """Renew the stored slice."""
    avatar = load(samples.AVATAR)
    footage = located(avatar)
    points = avatar.complete(footage, samples.speech())
    np.savez_compressed(
        GOLDEN,
        landmarks_crop=points[LANDMARK_FRAMES],
        lower_faces=lower_faces(avatar, footage, points),
    )


if __name__ == "__main__":
    main()
