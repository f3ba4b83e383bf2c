"""Landmark tracks on disk: the completed landmarks of a dubbing, to be viewed and edited before.

One set of fields, written as ``.npz`` (numpy's, without pickle) or as ``.json``;
``docs/format/track.md`` describes them. Files may come from anywhere: sizes are bounded before
anything is unpacked, every value is checked, and no path is taken from within.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from difftalker.errors import TrackError
from difftalker.face.crop import CELL, CropTrack
from difftalker.landmarks.edits import Edit, apply_edits
from difftalker.landmarks.track_fields import ARRAYS, DERIVED, KEYS, MAX_FRAMES, MAX_TEXT, Array
from difftalker.landmarks.track_json import read_json, write_json
from difftalker.landmarks.track_npz import read_npz
from difftalker.media.container import complete_file

VERSION = 1
SUFFIXES = (".npz", ".json")

_MAX_BYTES = {".npz": 1 << 29, ".json": 96 << 20}
_MAX_SIDE_PX = 8192
_MAX_CROP_UNITS = 10.0
_MAX_APART_PX = 0.05
"""Largest distance of ``points_px`` from ``points_crop``, pixels: rounding of other programs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LandmarkTrack:
    """Where the face is in some footage, and the landmarks of its new lower face.

    Raises:
        TrackError: a field does not have the shape or the values that stand beside it.
    """

    times_s: NDArray[np.float64]
    """(frames,): seconds since the first frame, rising."""
    points_crop: NDArray[np.float32]
    """(frames, 68, 2), crop units: upper points as found, lower ones from the speech."""
    found: NDArray[np.bool_]
    """(frames,): whether a face was found; elsewhere points are interpolated and not rendered."""
    cut: NDArray[np.bool_]
    """(frames,): whether a hard cut comes before the frame."""
    centre_px: NDArray[np.float32]
    """(frames, 2): the crop's centre, pixels of the frame, x then y."""
    side_px: NDArray[np.float32]
    """(frames,): the crop's side, pixels of the frame."""
    boxes: NDArray[np.int32]
    """(frames, 4): the mask box, top, bottom, left, right, in pixels of the networks' crop."""
    size_px: int
    """Side of the networks' crop, pixels."""
    frame_px: tuple[int, int]
    """Width and height of the footage as displayed, pixels."""
    video: str
    """The footage's file name, for information; it is never opened."""
    video_sha256: str
    """Hash of the footage's file, to which the track belongs."""
    avatar: str
    """The name of the avatar that completed the points."""

    def __post_init__(self) -> None:
        for name, kind in ARRAYS.items():
            if name != DERIVED:
                value = _as_array(name, getattr(self, name), kind, len(self.times_s))
                object.__setattr__(self, name, value)
        _check_footage(self)
        _check_values(self)

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def crop(self) -> CropTrack:
        """The crops."""
        return CropTrack(centre_px=self.centre_px, side_px=self.side_px)

    @property
    def points_px(self) -> NDArray[np.float32]:
        """(frames, 68, 2): the points in pixels of the frame."""
        return self.crop.to_px(self.points_crop)

    def edited(self, edits: Iterable[Edit]) -> LandmarkTrack:
        """The track with one edit after the other.

        Raises:
            TrackError: an edit drives points out of all bounds.
        """
        cuts = np.flatnonzero(self.cut)
        points = apply_edits(self.points_crop, self.times_s, self.found, edits, cuts)
        return replace(self, points_crop=points)

    def save(self, path: str | Path) -> None:
        """Write the track as ``.npz`` or ``.json``; the file is complete or absent.

        Raises:
            MediaError: the file cannot be written.
            TrackError: the track is too long for JSON.
        """
        path = Path(path)
        with complete_file(path, SUFFIXES) as file:
            if path.suffix.lower() == ".npz":
                np.savez_compressed(file, allow_pickle=False, **self._fields())
            else:
                write_json(file, self._fields())

    @classmethod
    def load(cls, path: str | Path) -> LandmarkTrack:
        """Read a track, every value checked.

        Raises:
            TrackError: the file is missing, too large, damaged, or no track of this version.
        """
        path = Path(path)
        try:
            with _open(path) as file:
                fields = read_npz(file) if path.suffix.lower() == ".npz" else read_json(file)
            return _from_fields(fields)
        except OSError as error:
            raise TrackError(f"the landmark track {path}: {error.strerror or error}") from error
        except TrackError as error:
            raise TrackError(
                f"the landmark track {path}: {error.found}",
                wanted=error.wanted,
                fix=error.fix or "make it anew with `difftalker landmarks`",
            ) from error

    def _fields(self) -> dict[str, Any]:
        return {"version": VERSION} | {name: getattr(self, name) for name in KEYS[1:]}


def _as_array(name: str, value: Any, kind: Array, frames: int) -> NDArray[Any]:
    """The value in the field's own type, contiguous; ``boxes`` are clipped to what it holds."""
    given = np.asarray(value)
    wanted = (frames, *kind.row)
    if given.shape != wanted or given.dtype.kind != np.dtype(kind.dtype).kind:
        raise TrackError(
            f"{name} is {given.dtype} of shape {given.shape}",
            wanted=f"{np.dtype(kind.dtype)} of shape {wanted}",
        )
    if given.dtype.kind == "i":
        given = np.clip(given, -1, 2 * _MAX_SIDE_PX)
    with np.errstate(over="ignore"):
        array = np.array(given, kind.dtype, order="C")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        _refuse_frame(name, ~np.isfinite(array), "is not finite")
    return array


def _check_footage(track: LandmarkTrack) -> None:
    if not 0 < len(track) <= MAX_FRAMES:
        raise TrackError(f"a track of {len(track)} frames", wanted=f"1 to {MAX_FRAMES}")
    if not (64 <= track.size_px <= _MAX_SIDE_PX and track.size_px % 64 == 0):
        raise TrackError(f"size_px is {track.size_px}", wanted="a multiple of 64")
    if not all(0 < side <= _MAX_SIDE_PX for side in track.frame_px):
        raise TrackError(f"frame_px is {track.frame_px}", wanted=f"1 to {_MAX_SIDE_PX} each")
    if not re.fullmatch(r"[0-9a-f]{64}", track.video_sha256):
        raise TrackError("video_sha256 is no sha256", wanted="64 hexadecimal digits")
    for name in ("video", "avatar"):
        text = getattr(track, name)
        if not (0 < len(text) <= MAX_TEXT and text.isprintable()):
            raise TrackError(f"{name} is no name", wanted=f"1 to {MAX_TEXT} printable characters")


def _check_values(track: LandmarkTrack) -> None:
    """Refuse values with which drawing and rendering would fail or not end."""
    corner = track.centre_px - track.side_px[:, None] / 2
    outside = (corner >= track.frame_px) | (corner + track.side_px[:, None] <= 0)
    edges = track.boxes
    off_grid = (edges % CELL != 0) | (edges < 0) | (edges > track.size_px)
    turned = edges[:, (0, 2)] > edges[:, (1, 3)]
    refusals = (
        ("times_s", np.diff(track.times_s, prepend=-1.0) <= 0, "does not rise from zero on"),
        ("times_s", track.times_s < 0, "does not rise from zero on"),
        ("side_px", track.side_px < 1, "is below one pixel"),
        ("side_px", track.side_px > 4 * max(track.frame_px), "is far beyond the frame"),
        ("centre_px", outside, "puts the crop outside of the frame"),
        ("boxes", off_grid, f"is no multiple of {CELL} within the crop"),
        ("boxes", turned, "ends before it starts"),
    )
    for name, bad, what in refusals:
        if bad.any():
            _refuse_frame(name, bad, what)
    check_points(track.points_crop)


def check_points(points_crop: NDArray[np.float32]) -> None:
    """Refuse points (frames, 68, 2) that no face can have.

    Raises:
        TrackError: a point lies far outside of the crop.
    """
    far = abs(points_crop) > _MAX_CROP_UNITS
    if far.any():
        _refuse_frame("points_crop", far, "lies far outside of the crop")


def _refuse_frame(name: str, bad: NDArray[np.bool_], what: str) -> NoReturn:
    frame = int(np.argwhere(bad)[0, 0])
    raise TrackError(f"{name} of frame {frame} {what}")


def _from_fields(fields: Mapping[str, Any]) -> LandmarkTrack:
    """A track of exactly the known fields; ``points_px`` may be left out."""
    if fields["version"] != VERSION:
        raise TrackError(f"its version is {fields['version']}", wanted=f"version {VERSION}")
    own = {name: value for name, value in fields.items() if name not in ("version", DERIVED)}
    track = LandmarkTrack(**own)
    if DERIVED in fields:
        given = _as_array(DERIVED, fields[DERIVED], ARRAYS[DERIVED], len(track))
        apart = abs(given - track.points_px) > _MAX_APART_PX
        if apart.any():
            frame = int(np.argwhere(apart)[0, 0])
            raise TrackError(
                f"points_px and points_crop of frame {frame} do not agree",
                fix="edit points_crop, and leave points_px out",
            )
    return track


def _open(path: Path) -> BinaryIO:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise TrackError(f"it ends in {path.suffix or 'no suffix'!r}", wanted=" or ".join(SUFFIXES))
    if not path.is_file():
        raise TrackError("no such file", fix="check the path")
    if path.stat().st_size > _MAX_BYTES[suffix]:
        raise TrackError(
            f"it has {path.stat().st_size} bytes", wanted=f"at most {_MAX_BYTES[suffix]}"
        )
    return path.open("rb")
