"""An avatar of whoever is seen in a video, learned from that video, for a dub without an avatar.

CACHE/learned/KEY          the avatar, found again by the footage's hash
CACHE/learned/KEY-run      its training, while it is not finished
"""

from __future__ import annotations

import shutil
from pathlib import Path

from difftalker.core.jobs import Cancel, OnEvent, never, no_event
from difftalker.errors import UsageError
from difftalker.face.detect.people import Choice
from difftalker.media.video import probe_video
from difftalker.store import avatars as avatar
from difftalker.store.assets import cache_dir
from difftalker.store.journal import file_hash, key_of
from difftalker.training.api import train

MOST_MINUTES, LEAST_MINUTES = 15.0, 4.0
"""How long somebody is learned from long and from very short footage."""
LONG_S = 30.0
"""Footage from which the longest time is taken, seconds."""
LEARNED_S = 120.0
"""So much of the footage is learned from at most, from its beginning, seconds."""


def learn(
    video: str | Path,
    *,
    consent: str = "",
    minutes: float | None = None,
    face: str = "largest",
    seed: int = 0,
    device: str = "auto",
    threads: int = 0,
    on_event: OnEvent = no_event,
    cancel: Cancel = never,
) -> Path:
    """The folder of an avatar of the person in a video; it is learned once.

    ``minutes`` is how long that may take: by default 15 at most, and less for short footage.
    With 0 nothing is trained: the mouth is that of a network of many faces. An avatar of the same
    footage, person and time is taken as it is. A call that was stopped goes on from there.

    Raises:
        UsageError: ``consent`` does not say who agreed to this, or the time is too short.
        MediaError: the video cannot be read.
        FaceError: no face is seen in it.
        Cancelled: ``cancel`` returned True.
    """
    video, minutes = Path(video), _minutes(Path(video), minutes)
    key = key_of("learned", file_hash(video), Choice.parse(face).key, minutes, seed)
    folder = cache_dir() / "learned" / key
    if (folder / "config.json").is_file():
        avatar.read(folder)  # altered files are refused here
        return folder
    if not consent.strip():
        raise UsageError(
            "nothing says that the person in the footage agreed to be dubbed",
            wanted='their consent in words, as in --consent "A. Person, by mail of 1 May 2025"',
            fix="ask them; or name an --avatar that there is",
        )
    steps = {} if minutes else dict.fromkeys(_STEPS, "0")
    train(
        [video],
        folder,
        consent=consent,
        quality="light",
        minutes=minutes,
        settings={"training.validation_clips": "0", "training.live.steps": "0", **steps},
        longest_s=LEARNED_S,
        face=face,
        name=video.stem[:40] or "footage",
        source=video.name,
        command="difftalker.learn",
        seed=seed,
        device=device,
        threads=threads,
        on_event=on_event,
        cancel=cancel,
    )
    shutil.rmtree(folder.with_name(f"{key}-run"), ignore_errors=True)
    return folder


_STEPS = ("training.landmarks.steps", "training.light.steps")


def _minutes(video: Path, asked: float | None) -> float:
    """How long the person of a video is learned."""
    if asked is not None:
        return asked
    duration_s = probe_video(video).duration_s or LONG_S
    share = min(1.0, duration_s / LONG_S)
    return round(LEAST_MINUTES + share * (MOST_MINUTES - LEAST_MINUTES), 1)
