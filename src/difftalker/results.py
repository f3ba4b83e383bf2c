"""What a dubbing leaves besides its video: its landmarks as numbers, and a sheet to look at."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.errors import MediaError, UsageError
from difftalker.face.draw import contact_sheet, overlay
from difftalker.media.container import check_output
from difftalker.media.video import LOSSLESS_SUFFIXES, OUTPUT_SUFFIXES, read_frames
from difftalker.pipeline import DubResult

SHEET_PICTURES = 6
SHEET_PICTURE_PX = 400
"""The widest that a picture on the sheet is drawn."""


def check_outputs(
    output: Path,
    *,
    lossless: bool = False,
    landmarks: Path | None = None,
    report: Path | None = None,
    inputs: Sequence[Path] = (),
) -> None:
    """Find out before any work whether the outputs of a dubbing can be written.

    Raises:
        MediaError: a folder is missing or closed to writing, or a suffix is not known.
        UsageError: an output would replace an input.
    """
    check_output(output, LOSSLESS_SUFFIXES if lossless else OUTPUT_SUFFIXES)
    if landmarks is not None:
        check_output(landmarks, (".npz",))
    if report is not None:
        check_output(report, (".json",))
    for written, read in ((o, i) for o in (output, landmarks, report) if o for i in inputs):
        if written.exists() and read.exists() and written.samefile(read):
            raise UsageError(f"{written} is both input and output", wanted="another output")


def save_landmarks(result: DubResult, path: Path) -> None:
    """Write where the face was and which points it was given, as a ``.npz`` file.

    It holds ``times_s`` (frames,); ``points_crop`` and ``points_px`` (frames, 68, 2), upper points
    as found and lower ones from the speech; ``found`` (frames,), false where no face was seen and
    points are interpolated; the crop's ``centre_px`` (frames, 2) and ``side_px`` (frames,); and
    ``boxes`` (frames, 4), the mask's top, bottom, left and right in pixels of the networks' crop.

    Raises:
        MediaError: the file cannot be written; nothing is left behind.
    """
    located, crop = result.located, result.located.framing.crop
    with _complete_file(path, (".npz",)) as file:
        np.savez_compressed(
            file,
            times_s=located.track.times_s,
            points_crop=result.landmarks_crop,
            points_px=located.points_px(result.landmarks_crop),
            found=located.framing.found,
            centre_px=crop.centre_px,
            side_px=crop.side_px,
            boxes=located.framing.boxes,
        )


def save_report(result: DubResult, path: Path) -> None:
    """Write which frames got a new mouth and why the others did not, as JSON.

    ``spans`` are runs of frames within one shot, in order and without gaps: ``start_frame`` and
    ``stop_frame`` (no more of it), ``start_s`` and ``stop_s``, ``driven``, ``reason`` ("face",
    "no face" or "turned away") and ``after_cut``.

    Raises:
        MediaError: the file cannot be written; nothing is left behind.
    """
    record = {
        "output": str(result.output),
        "frames": result.frames,
        "frames_driven": result.frames_driven,
        "spans": [asdict(span) for span in result.spans],
    }
    with _complete_file(path, (".json",)) as file:
        file.write(json.dumps(record, indent=1).encode() + b"\n")


def save_sheet(result: DubResult, path: Path, *, pictures: int = SHEET_PICTURES) -> None:
    """Write a contact sheet of the finished video, PNG: pictures above, their landmarks below.

    Raises:
        MediaError: the video cannot be read, or the sheet cannot be written; nothing is left.
    """
    plain, drawn = _tiles(result, pictures)
    sheet = contact_sheet([*plain, *drawn], columns=len(plain))
    with _complete_file(path, (".png",)) as file:
        file.write(cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())


def _tiles(result: DubResult, pictures: int) -> tuple[list[NDArray[np.uint8]], ...]:
    """Evenly spread frames with a new mouth, as they are and with the landmarks drawn."""
    driven = np.flatnonzero(result.located.strength == result.located.strength.max())
    chosen = set(driven[np.linspace(0, len(driven) - 1, pictures).astype(int)].tolist())
    points_px = result.located.points_px(result.landmarks_crop)
    plain, drawn = [], []
    with closing(read_frames(result.output)) as frames:
        for i, frame in enumerate(frames):
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


@contextmanager
def _complete_file(path: Path, suffixes: tuple[str, ...]) -> Iterator[BinaryIO]:
    """A file to fill; it appears under its name at the end of the block, or not at all."""
    check_output(path, suffixes)
    part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        with part.open("wb") as file:
            yield file
        os.replace(part, path)
    except OSError as error:
        raise MediaError(
            f"could not write {path}: {error.strerror or error}",
            fix="free space in the output folder, or choose another",
        ) from error
    finally:
        part.unlink(missing_ok=True)
