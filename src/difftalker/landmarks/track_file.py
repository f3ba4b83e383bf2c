"""Landmark tracks on disk: the completed landmarks of a dubbing, to be viewed and edited before.

One set of fields, written as ``.npz`` (numpy's, without pickle) or as ``.json``;
``docs/format/track.md`` describes them. Files may come from anywhere: sizes are bounded before
anything is unpacked, every value is checked, and no path is taken from within.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from difftalker.errors import TrackError
from difftalker.face.crop import CELL, CropTrack
from difftalker.face.landmarks import POINTS
from difftalker.landmarks.edits import Edit, apply_edits
from difftalker.media.container import complete_file

VERSION = 1
SUFFIXES = (".npz", ".json")
MAX_FRAMES = 250_000
"""The longest track: an hour at 60 frames a second, and some."""
MAX_JSON_FRAMES = 22_500
"""The longest track as JSON, whose numbers are texts: 15 minutes at 25 frames a second."""

_MAX_BYTES = {".npz": 1 << 29, ".json": 96 << 20}
_MAX_TEXT = 255
_MAX_SIDE_PX = 8192
_MAX_CROP_UNITS = 10.0
_MAX_APART_PX = 0.05
"""How far ``points_px`` may lie from ``points_crop``: the rounding of any program."""


class _Array(NamedTuple):
    """Type and row shape of a field with one row a frame."""

    dtype: type[np.generic]
    row: tuple[int, ...] = ()


_ARRAYS = {
    "times_s": _Array(np.float64),
    "points_crop": _Array(np.float32, (POINTS, 2)),
    "points_px": _Array(np.float32, (POINTS, 2)),
    "found": _Array(np.bool_),
    "cut": _Array(np.bool_),
    "centre_px": _Array(np.float32, (2,)),
    "side_px": _Array(np.float32),
    "boxes": _Array(np.int32, (4,)),
}
_NUMBERS: dict[str, tuple[int, ...]] = {"version": (), "size_px": (), "frame_px": (2,)}
_TEXTS = ("video", "video_sha256", "avatar")
_DERIVED = "points_px"
_KEYS = (*_NUMBERS, *_TEXTS, *_ARRAYS)


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
        for name, kind in _ARRAYS.items():
            if name != _DERIVED:
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
                _write_json(file, self)

    @classmethod
    def load(cls, path: str | Path) -> LandmarkTrack:
        """Read a track, every value checked.

        Raises:
            TrackError: the file is missing, too large, damaged, or no track of this version.
        """
        path = Path(path)
        try:
            with _open(path) as file:
                fields = _read_npz(file) if path.suffix.lower() == ".npz" else _read_json(file)
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
        return {"version": VERSION} | {name: getattr(self, name) for name in _KEYS[1:]}


def _as_array(name: str, value: Any, kind: _Array, frames: int) -> NDArray[Any]:
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
        if not (0 < len(text) <= _MAX_TEXT and text.isprintable()):
            raise TrackError(f"{name} is no name", wanted=f"1 to {_MAX_TEXT} printable characters")


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
    own = {name: value for name, value in fields.items() if name not in ("version", _DERIVED)}
    track = LandmarkTrack(**own)
    if _DERIVED in fields:
        given = _as_array(_DERIVED, fields[_DERIVED], _ARRAYS[_DERIVED], len(track))
        apart = abs(given - track.points_px) > _MAX_APART_PX
        if apart.any():
            frame = int(np.argwhere(apart)[0, 0])
            raise TrackError(
                f"points_px and points_crop of frame {frame} do not agree",
                fix="edit points_crop, and leave points_px out",
            )
    return track


def _check_keys(found: Iterable[str]) -> None:
    keys = list(found)
    missing = [name for name in _KEYS if name not in keys and name != _DERIVED]
    if missing:
        raise TrackError(f"it has no {missing[0]}", wanted="a landmark track")
    if len(keys) > len(set(keys)) or not set(keys) <= set(_KEYS):
        raise TrackError("it has fields that are unknown or there twice", wanted=", ".join(_KEYS))


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


# --- .npz --------------------------------------------------------------------------------------

_ZIP_END, _ZIP_END_BYTES = b"PK\x05\x06", 22
_ZIP64_LOCATOR, _ZIP64_LOCATOR_BYTES = b"PK\x06\x07", 20
_MAX_DIRECTORY_BYTES = 16 << 10


def _read_npz(file: BinaryIO) -> dict[str, Any]:
    _check_directory(file)
    try:
        with zipfile.ZipFile(file) as archive:
            names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
            _check_keys(names)
            rest = [name for name in names if name != "times_s"]
            frames = _read_member(archive, "times_s", None)
            return {name: _read_member(archive, name, len(frames)) for name in rest} | {
                "times_s": frames
            }
    except TrackError:
        raise
    # zipfile, zlib and numpy raise a dozen kinds of errors over damaged files.
    except Exception as error:
        raise TrackError("it is damaged, or no .npz file") from error


def _check_directory(file: BinaryIO) -> None:
    """Refuse a zip whose table of contents is long: it would be read into memory as a whole."""
    file.seek(0, 2)
    span = _ZIP64_LOCATOR_BYTES + _ZIP_END_BYTES
    file.seek(-min(span, file.tell()), 2)
    tail = file.read(span).rjust(span, b"\0")
    end = tail[_ZIP64_LOCATOR_BYTES:]
    length = int.from_bytes(end[12:16], "little")
    if not end.startswith(_ZIP_END) or tail.startswith(_ZIP64_LOCATOR):
        raise TrackError("it is damaged, or no .npz file")
    if length > _MAX_DIRECTORY_BYTES:
        raise TrackError("it holds too many files", wanted="a landmark track")


def _read_member(archive: zipfile.ZipFile, name: str, frames: int | None) -> Any:
    """One field; nothing is unpacked before its shape and type are known to be right."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise TrackError(f"{name} is compressed in an unknown way", wanted="numpy's own .npz")
    with archive.open(info) as member:
        if np.lib.format.read_magic(member) != (1, 0):
            raise TrackError(f"{name} is in a version of .npy that is meant for other types")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        _check_header(name, shape, dtype, frames)
        data = member.read(dtype.itemsize * int(np.prod(shape)))
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
        if member.read(1):
            raise TrackError(f"{name} is followed by something else")
    if name in _ARRAYS:
        return array
    return tuple(array.tolist()) if shape else array.item()


def _check_header(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any], frames: int | None
) -> None:
    if name in _ARRAYS:
        kind, row = np.dtype(_ARRAYS[name].dtype).kind, _ARRAYS[name].row
        count = shape[0] if shape and frames is None else frames
        is_right = shape == (count, *row) and shape[0] <= MAX_FRAMES and dtype.itemsize <= 8
        wanted = f"{np.dtype(_ARRAYS[name].dtype)} of shape {(frames or 'frames', *row)}"
    elif name in _NUMBERS:
        kind, wanted = "i", f"whole numbers of shape {_NUMBERS[name]}"
        is_right = shape == _NUMBERS[name]
    else:
        kind, wanted = "U", "a text"
        is_right = shape == () and dtype.itemsize <= 4 * _MAX_TEXT
    if not is_right or dtype.kind != kind:
        raise TrackError(f"{name} is {dtype} of shape {shape}", wanted=wanted)


# --- .json -------------------------------------------------------------------------------------

_LISTS_PER_FRAME = 2 * (POINTS + 1) + 2
_MAX_LISTS = MAX_JSON_FRAMES * _LISTS_PER_FRAME + 100
_MAX_QUOTES = 100


def _write_json(file: BinaryIO, track: LandmarkTrack) -> None:
    """A frame a line; numbers as short as they can be and come back the same."""
    if len(track) > MAX_JSON_FRAMES:
        raise TrackError(
            f"a track of {len(track)} frames as JSON",
            wanted=f"at most {MAX_JSON_FRAMES}",
            fix="write it as .npz",
        )
    separator = "{\n"
    for name, value in track._fields().items():
        file.write(f'{separator}"{name}": '.encode())
        separator = ",\n"
        if name in _ARRAYS:
            file.write(("[\n" + ",\n".join(map(_row, value)) + "\n]").encode())
        else:
            file.write(json.dumps(value).encode())
    file.write(b"\n}\n")


def _row(row: NDArray[Any]) -> str:
    row = np.asarray(row)
    if row.dtype == np.float32:
        # The shortest text that float32 reads back, where reading by way of float64 does too.
        short = row.astype(str).astype(np.float64)
        row = np.where(short.astype(np.float32) == row, short, row.astype(np.float64))
    return json.dumps(row.tolist(), separators=(",", ":"))


def _read_json(file: BinaryIO) -> dict[str, Any]:
    text = file.read()
    # Lists and texts take far more memory than their brackets: count them before.
    if text.count(b"[") + text.count(b"{") > _MAX_LISTS or text.count(b'"') > _MAX_QUOTES:
        raise TrackError("it holds too many lists or texts", wanted="a landmark track")
    try:
        fields = json.loads(text, parse_constant=_no_number, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise TrackError("it is damaged, or no JSON file") from error
    if not isinstance(fields, dict):
        raise TrackError("it holds no object", wanted="a landmark track")
    _check_keys(fields)
    frames = len(fields["times_s"]) if isinstance(fields["times_s"], list) else 0
    return {name: _json_value(name, value, frames) for name, value in fields.items()}


def _no_number(text: str) -> NoReturn:
    raise TrackError(f"it holds {text}", wanted="finite numbers")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise TrackError("it has a field twice")
    return dict(pairs)


def _json_value(name: str, value: Any, frames: int) -> Any:
    if name in _TEXTS:
        if not isinstance(value, str):
            raise TrackError(f"{name} is no text", wanted="a text")
        return value
    if name in _NUMBERS:
        whole = _flat(name, value, _NUMBERS[name], int)
        return tuple(whole) if _NUMBERS[name] else whole[0]
    dtype, row = _ARRAYS[name]
    kinds = {"f": (int, float), "i": (int,), "b": (bool,)}[np.dtype(dtype).kind]
    flat = _flat(name, value, (frames, *row), *kinds)
    try:
        # float64, so that what float32 cannot hold is told apart from what is no number.
        array = np.array(flat, np.float64 if dtype is np.float32 else dtype)
    except OverflowError as error:
        raise TrackError(f"{name} holds a number beyond all bounds") from error
    return array.reshape(frames, *row)


def _flat(name: str, value: Any, shape: tuple[int, ...], *kinds: type) -> list[Any]:
    """The values of nested lists of a shape, in order; each of exactly one of the kinds."""
    level: list[Any] = [value]
    for length in shape:
        if any(type(each) is not list or len(each) != length for each in level):
            raise TrackError(f"{name} is not of shape {shape}", wanted="nested lists of that shape")
        level = list(chain.from_iterable(level))
    if not set(map(type, level)) <= set(kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TrackError(f"{name} holds something else than numbers", wanted=wanted)
    return level
