"""`difftalker prepare`: footage to a dataset on disk.

    DATASET/manifest.json             what is in it, with hashes, and what was left out and why
    DATASET/clips/NAME/clip.json      source, hash, rate, number of frames, whose face
                      /frames.npy     (frames, size, size, 3) uint8 RGB crops
                      /track.npz      points_crop, boxes, centre_px, side_px, times_s, found, cuts
                      /FEATURES.npy   (T, dim) float16 speech features at 50 Hz, one file a kind
                      /FEATURES.voiceN.npy  the same of what others would sound like (data.voices)

A clip is built in a hidden folder and appears by one rename, so a run that was stopped goes on
where it was.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from difftalker.core.files import whole_file, whole_folder, write_whole
from difftalker.core.hashing import sha256_of
from difftalker.core.workers import ctrl_c_held, quiet_workers
from difftalker.data.voices import by_others
from difftalker.errors import DiffTalkerError, FaceError, MediaError, UsageError
from difftalker.face.crop import CropTrack, Framing, cut, frame_face, frame_rate
from difftalker.face.detect.people import Choice
from difftalker.face.detect.track import FaceTrack, track
from difftalker.face.spans import is_rolled
from difftalker.media.audio import SAMPLE_RATE_HZ, stream_audio
from difftalker.media.limits import Limits, current, limited
from difftalker.media.video import Frame, read_frames

if TYPE_CHECKING:
    from difftalker.speech.encoder import SpeechEncoder

MANIFEST = "manifest.json"
"""What a dataset holds, with hashes; see :func:`prepare`."""
VERSION = 1
AFTER_S = 2.0
"""Sound after the last frame that features depend on."""
PROBED_FRAMES = 50
MOST_PX = 512
ENLARGED = 1.15
"""How many pixels of the footage a crop's pixel may stand for."""
MIN_FRAMES = 10
MIN_FOUND = 0.5
MIN_SIDE_PX = 48.0


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Settings of the clips; all clips of a dataset have the same."""

    size_px: int = 256
    """Side of the square crops."""
    features: tuple[str, ...] = ("whisper-short",)
    """Speech features to compute, by the names of :func:`speech.registry.load_encoder`."""
    voices: int = 0
    """Number of other voices for which speech features are computed (``data.voices``)."""
    longest_s: float = 0.0
    """How much of a clip is taken, from its beginning, seconds; 0: all."""

    @property
    def kinds_and_voices(self) -> list[tuple[str, int]]:
        """All pairs of a kind of features and a voice; voice 0 is the clip's own."""
        return [(kind, voice) for kind in self.features for voice in range(self.voices + 1)]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One usable piece of footage."""

    name: str
    source: str
    sha256: str
    frames: int
    found: int
    fps: float
    files: dict[str, str]
    """File name to sha256."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of a dataset."""

    config: PrepareConfig
    clips: list[Clip]
    rejected: list[dict[str, str]]
    """Footage that could not be used: ``source`` and ``reason``."""
    face: str = "largest"
    """The person whose face was cut out, as ``Choice.key``."""


def prepare(
    videos: Sequence[Path],
    dataset: Path,
    config: PrepareConfig | None = None,
    *,
    face: Choice | None = None,
    workers: int = 0,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Manifest:
    """Cut the face out of all footage into ``dataset``; unchanged clips are kept.

    ``face`` chooses among several people; by default the largest face.
    ``workers`` 0 means one a core. ``progress`` is called with (done, total, what happened).

    Raises:
        UsageError: two files share a name, or none is given.
        MediaError: no footage could be used.
        FaceError: the picture of ``face`` cannot be read.
    """
    config, face = config or PrepareConfig(), face or Choice(place="largest")
    whom = face.key
    names = _names(videos)
    (dataset / "clips").mkdir(parents=True, exist_ok=True)
    clips: dict[str, Clip] = {}
    rejected: dict[str, str] = {}
    pool = quiet_workers(workers)
    try:
        with ctrl_c_held():  # the first clip starts the workers
            jobs = {
                pool.submit(_prepare_within, current(), video, name, dataset, config, face): video
                for name, video in names.items()
            }
        for done, job in enumerate(as_completed(jobs), 1):
            video = jobs[job]
            try:
                clip = job.result()
                clips[clip.name] = clip
                progress(done, len(jobs), clip.name)
            except DiffTalkerError as error:
                rejected[video.name] = str(error)
                progress(done, len(jobs), f"left out {video.name}: {error}")
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C: no new clip is begun
    manifest = Manifest(
        config=config,
        clips=[clips[name] for name in names if name in clips],
        rejected=[{"source": k, "reason": v} for k, v in sorted(rejected.items())],
        face=whom,
    )
    if not manifest.clips:
        reason = manifest.rejected[0]["reason"]
        raise MediaError(f"none of {len(names)} files of footage can be used; the first: {reason}")
    _write_json(dataset / MANIFEST, {"version": VERSION, **asdict(manifest)})
    return manifest


def load_manifest(dataset: Path) -> Manifest:
    """Read ``DATASET/manifest.json``.

    Raises:
        MediaError: it is missing, or of another version.
    """
    path = dataset / MANIFEST
    if not path.is_file():
        raise MediaError(
            f"{dataset} is no prepared dataset (no manifest.json)",
            fix=f"make it with `difftalker prepare VIDEO... --output {dataset}`",
        )
    raw = json.loads(path.read_text())
    if raw.get("version") != VERSION:
        raise MediaError(
            f"{path} has version {raw.get('version')}", wanted=str(VERSION), fix="prepare it again"
        )
    return Manifest(
        config=PrepareConfig(
            size_px=raw["config"]["size_px"],
            features=tuple(raw["config"]["features"]),
            voices=raw["config"].get("voices", 0),
            longest_s=raw["config"].get("longest_s", 0.0),
        ),
        clips=[Clip(**clip) for clip in raw["clips"]],
        rejected=raw["rejected"],
        face=raw.get("face", "largest"),
    )


def crop_size(video: Path) -> int:
    """The side of crops, 256, 384 or 512 pixels, that a video's face is large enough for.

    By its first frames. One pixel of the footage in a pixel of the crop is enough.

    Raises:
        MediaError: the video cannot be read.
        FaceError: it shows no face in its first seconds.
    """
    frames = itertools.islice(read_frames(video), 0, PROBED_FRAMES)
    face = track(frames, source=video.name)
    side_px = float(np.median(frame_face(face, MOST_PX).crop.side_px))
    return next((size for size in (256, 384) if side_px <= ENLARGED * size), MOST_PX)


def features_file(kind: str, voice: int = 0) -> str:
    """Name of the file with features of a kind; ``voice`` 0 is the clip's own."""
    return f"{kind}.voice{voice}.npy" if voice else f"{kind}.npy"


def _names(videos: Sequence[Path]) -> dict[str, Path]:
    if not videos:
        raise UsageError("no footage was given", wanted="one video file or more")
    names: dict[str, Path] = {}
    for video in videos:
        if video.stem in names:
            raise UsageError(
                f"{names[video.stem]} and {video} share the name {video.stem}",
                wanted="footage with different names",
                fix="rename one of them",
            )
        names[video.stem] = video
    return names


def _prepare_within(
    limits: Limits, video: Path, name: str, dataset: Path, config: PrepareConfig, face: Choice
) -> Clip:
    """Cut one file under the limits that hold for the command; runs in a worker process."""
    with limited(limits):
        return _prepare_clip(video, name, dataset, config, face)


def _prepare_clip(
    video: Path, name: str, dataset: Path, config: PrepareConfig, face: Choice
) -> Clip:
    """Cut one file, or return it as it was cut before."""
    if not video.is_file():
        raise MediaError(f"{video} is missing", wanted="a video file")
    folder, digest = dataset / "clips" / name, sha256_of(video)
    known = _known_clip(folder, digest, config, face.key)
    if known:
        return _with_features(known, video, folder, config, face.key)
    shutil.rmtree(folder, ignore_errors=True)  # of other footage, or cut in another way
    with whole_folder(folder) as building:
        facts = _build(video, building, config, face)
        files = {path.name: sha256_of(path) for path in sorted(building.iterdir())}
        clip = Clip(name=name, source=video.name, sha256=digest, files=files, **facts)
        _write_json(building / "clip.json", _record(clip, config, face.key))
    return clip


def _record(clip: Clip, config: PrepareConfig, whom: str) -> dict[str, Any]:
    cut = {"size_px": config.size_px, "longest_s": config.longest_s, "face": whom}
    return {**cut, "clip": asdict(clip)}


def _known_clip(folder: Path, digest: str, config: PrepareConfig, whom: str) -> Clip | None:
    record = folder / "clip.json"
    if not record.is_file():
        return None
    raw = json.loads(record.read_text())
    cut = raw.get("size_px"), raw.get("longest_s", 0.0), raw.get("face", "largest")
    wanted = config.size_px, config.longest_s, whom, digest
    return Clip(**raw["clip"]) if (*cut, raw["clip"]["sha256"]) == wanted else None


def _with_features(clip: Clip, video: Path, folder: Path, config: PrepareConfig, whom: str) -> Clip:
    """A clip cut before, with the features that it lacks."""
    added = {
        name: _save_features(video, kind, voice, folder, config.longest_s)
        for kind, voice in config.kinds_and_voices
        if (name := features_file(kind, voice)) not in clip.files
    }
    if not added:
        return clip
    clip = replace(clip, files={**clip.files, **added})
    _write_json(folder / "clip.json", _record(clip, config, whom))
    return clip


def _build(video: Path, folder: Path, config: PrepareConfig, whom: Choice) -> dict[str, Any]:
    face = track(_frames(video, config.longest_s), source=video.name, face=whom)
    framing = frame_face(face, config.size_px)
    found = face.usable & ~is_rolled(face)
    _check_usable(found, framing.crop, video)
    _write_frames(video, folder / "frames.npy", framing.crop, config.size_px)
    _write_track(folder / "track.npz", face, found, framing)
    for kind, voice in config.kinds_and_voices:
        _save_features(video, kind, voice, folder, config.longest_s)
    fps = frame_rate(face.times_s)
    return {"frames": len(face), "found": int(found.sum()), "fps": round(fps, 4)}


def _check_usable(found: NDArray[np.bool_], crop: CropTrack, video: Path) -> None:
    if found.sum() < MIN_FRAMES or found.mean() < MIN_FOUND:
        raise FaceError(
            f"{video.name} shows an upright face in {found.sum()} of {len(found)} frames",
            wanted=f"{MIN_FRAMES} frames and {MIN_FOUND:.0%} of the clip at least",
            fix="cut the clip to where the speaker is seen",
        )
    side = float(np.median(crop.side_px))
    if side < MIN_SIDE_PX:
        raise FaceError(
            f"the face in {video.name} is small: its crop is {side:.0f} pixels wide",
            wanted=f"{MIN_SIDE_PX:.0f} pixels at least",
            fix="use footage of a higher resolution",
        )


def _write_frames(video: Path, path: Path, crop: CropTrack, size_px: int) -> None:
    shape = (len(crop), size_px, size_px, 3)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    for index, frame in zip(range(len(crop)), read_frames(video), strict=False):
        out[index] = cut(frame.image, crop, index, size_px)
    out.flush()


def _frames(video: Path, longest_s: float) -> Iterator[Frame]:
    """The frames of a video, those of its beginning alone if ``longest_s`` is not 0."""
    for frame in read_frames(video):
        if longest_s and frame.time_s >= longest_s:
            return
        yield frame


def _sound(video: Path, longest_s: float) -> Iterator[NDArray[np.float32]]:
    """The sound of these frames, and a little more."""
    at = 0
    for block in stream_audio(video):
        if longest_s and at > (longest_s + AFTER_S) * SAMPLE_RATE_HZ:
            return
        yield block
        at += len(block)


def _write_track(path: Path, face: FaceTrack, found: NDArray[np.bool_], framing: Framing) -> None:
    np.savez(
        path,
        points_crop=framing.points_crop,
        boxes=framing.boxes,
        centre_px=framing.crop.centre_px,
        side_px=framing.crop.side_px,
        times_s=face.times_s,
        found=found,
        cuts=face.cuts,
    )


def _save_features(video: Path, kind: str, voice: int, folder: Path, longest_s: float = 0.0) -> str:
    """Write the speech features of one kind; returns the file's hash."""
    import torch

    from difftalker.speech.encoder import encode_all

    torch.set_num_threads(1)
    sound = _sound(video, longest_s)
    if voice:
        seed = [voice, *os.fsencode(video.stem)]
        sound = by_others(sound, SAMPLE_RATE_HZ, np.random.default_rng(seed))
    features = encode_all(_encoder(kind), sound)
    path = folder / features_file(kind, voice)
    with whole_file(path) as file:
        np.save(file, features.astype(np.float16))
    return sha256_of(path)


@functools.cache
def _encoder(kind: str) -> SpeechEncoder:
    """Loaded once by each worker."""
    from difftalker.speech.registry import load_encoder

    return load_encoder(kind)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=1) + "\n")
