"""What there is to look at besides a dubbed video: its landmarks drawn, as video or as a sheet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.core.jobs import Progress
from difftalker.dubbing.dub import DubResult
from difftalker.dubbing.footage import check_pair, located_by
from difftalker.errors import UsageError
from difftalker.face.detect.track import FaceTrack
from difftalker.face.draw import contact_sheet, overlay
from difftalker.landmarks.track_file import SUFFIXES, LandmarkTrack
from difftalker.media.container import check_output, complete_file
from difftalker.media.video import (
    LOSSLESS_SUFFIXES,
    OUTPUT_SUFFIXES,
    VideoWriter,
    read_frames,
)

SHEET_PICTURES = 6
SHEET_PICTURE_PX = 400
"""The widest that a picture on the sheet is drawn."""


def check_outputs(
    output: Path,
    *,
    lossless: bool = False,
    landmarks: Path | None = None,
    report: Path | None = None,
    inputs: Sequence[Path | None] = (),
) -> None:
    """Find out before any work whether the outputs of a dubbing can be written.

    Raises:
        MediaError: a folder is missing or closed to writing, or a suffix is not known.
        UsageError: an output would replace an input.
    """
    check_output(output, LOSSLESS_SUFFIXES if lossless else OUTPUT_SUFFIXES)
    if landmarks is not None:
        check_output(landmarks, SUFFIXES)
    if report is not None:
        check_output(report, (".json",))
    _check_apart((output, landmarks, report), inputs)


def check_track_outputs(
    output: Path, preview: Path | None = None, *, inputs: Sequence[Path] = ()
) -> None:
    """Find out before any work whether landmarks and their preview can be written.

    Raises:
        MediaError: a folder is missing or closed to writing, or a suffix is not known.
        UsageError: an output would replace an input.
    """
    check_output(output, SUFFIXES)
    if preview is not None:
        check_output(preview, OUTPUT_SUFFIXES)
    _check_apart((output, preview), inputs)


def _check_apart(outputs: Sequence[Path | None], inputs: Sequence[Path | None]) -> None:
    for written, read in ((o, i) for o in outputs if o for i in inputs if i):
        if written.exists() and read.exists() and written.samefile(read):
            raise UsageError(f"{written} is both input and output", wanted="another output")


def save_preview(
    track: LandmarkTrack,
    video: Path,
    audio: Path,
    path: Path,
    *,
    progress: Progress | None = None,
) -> None:
    """Write the footage with a track's points drawn over it and the new sound; nothing is rendered.

    Raises:
        TrackError: the track belongs to other footage.
        MediaError: the footage cannot be read, or the preview cannot be written; nothing is left.
    """
    info = check_pair(track, video)
    points_px, driven = track.points_px, located_by(track, video, track.size_px).strength > 0
    comment = f"A preview of landmarks by DiffTalker, avatar {track.avatar}."
    with VideoWriter.like(info, path, audio=audio, comment=comment) as writer:
        for i, frame in enumerate(islice(read_frames(video), len(track))):
            image = overlay(frame.image, points_px[i]) if driven[i] else frame.image
            writer.write(image, frame.pts)
            if progress is not None:
                progress("preview", i + 1, len(track))


def save_report(result: DubResult, path: Path) -> None:
    """Write which frames got a new mouth and why the others did not, as JSON.

    ``footage`` says what was dubbed: size, rate, codec, and whether it is interlaced or of high
    dynamic range ("pq", "hlg" or empty). ``spans`` are runs of frames within one shot, in order and
    without gaps: ``start_frame`` and ``stop_frame`` (no more of it), ``start_s`` and ``stop_s``,
    ``driven``, ``reason`` ("face", "no face", "turned away", "rolled", "covered" or "other
    person") and ``after_cut``. ``people`` are those of the footage, in the order in which
    ``--face`` counts them, and ``face`` says which one was driven; both are null where a track of
    landmarks said where the face is. ``unlike`` is the distance of the
    person's looks from those of the avatar's (0: not compared); ``any_face`` says that it was
    allowed to be somebody else.

    Raises:
        MediaError: the file cannot be written; nothing is left behind.
    """
    record = {
        "output": str(result.output),
        "frames": result.frames,
        "frames_driven": result.frames_driven,
        "footage": result.located.info.record(),
        "spans": [asdict(span) for span in result.spans],
        **_cast(result.located.track),
        "any_face": result.any_face,
    }
    with complete_file(path, (".json",)) as file:
        file.write(json.dumps(record, indent=1).encode() + b"\n")


def _cast(track: FaceTrack) -> dict[str, Any]:
    """Who is in the footage, and who of them was driven."""
    if not len(track.people):
        return {"face": None, "people": None, "unlike": None}
    people = [
        {
            "frames": int(row[0]),
            "first_frame": int(row[1]),
            "box_px": [round(x, 1) for x in row[2:]],
        }
        for row in track.people.tolist()
    ]
    return {"face": track.chosen + 1, "people": people, "unlike": round(track.unlike, 3)}


def save_sheet(result: DubResult, path: Path, *, pictures: int = SHEET_PICTURES) -> None:
    """Write a contact sheet of the finished video, PNG: pictures above, their landmarks below.

    Raises:
        MediaError: the video cannot be read, or the sheet cannot be written; nothing is left.
    """
    plain, drawn = _tiles(result, pictures)
    sheet = contact_sheet([*plain, *drawn], columns=len(plain))
    with complete_file(path, (".png",)) as file:
        file.write(cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())


def _tiles(result: DubResult, pictures: int) -> tuple[list[NDArray[np.uint8]], ...]:
    """Evenly spread frames with a new mouth, as they are and with the landmarks drawn."""
    driven = np.flatnonzero(result.located.strength == result.located.strength.max())
    chosen = set(driven[np.linspace(0, len(driven) - 1, pictures).astype(int)].tolist())
    points_px = result.located.points_px(result.landmarks_crop)
    plain, drawn = [], []
    for i, frame in enumerate(read_frames(result.output)):
        if i in chosen:
            image, scale = _at_most(frame.image, SHEET_PICTURE_PX)
            plain.append(image)
            drawn.append(overlay(image, points_px[i] * scale))
    return plain, drawn


def _at_most(image: NDArray[np.uint8], width_px: int) -> tuple[NDArray[np.uint8], float]:
    """The picture, made smaller where it is wider, and by which factor."""
    height, width = image.shape[:2]
    scale = min(1.0, width_px / width)
    size = (round(width * scale), max(1, round(height * scale)))
    smaller = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(smaller, np.uint8), scale
